"""How long a fetch waits for the partitions of one burst, and for how many bytes (pure; time is an argument).

An edge closes the batches of all its partitions at once, and they reach the broker one after the other within some
milliseconds. A fetch that waits for the first byte returns with the first batch, and the next fetch with the rest:
twice the requests, and twice the rounds of deciding and writing, each of which costs more than the records in it. So a
fetch asks for the bytes of one record of each active partition (``min_bytes``). The broker answers when they are
available, or shortly after the next burst was due (``max_wait_ms``). If records are rare, a fetch does not wait.

Records of varying size can reach ``min_bytes`` before all partitions of the burst are available. The late partitions
must not wait for the next burst: that fetch would also return in the middle of a burst, and so on, and every second
record would be one linger late. The producer's timestamps show which partitions of the burst are late (their newest
record is older than half the time between two bursts). The next fetch waits only briefly for them.

If a partition has fewer than twenty records a second, or the partitions do not arrive together, it is unknown when the
next burst comes and how many partitions it has. Then a fetch waits for the first record, and a second one directly
after it waits briefly for the rest of the burst (``rest_of_burst``), before lanes see any of it.
"""

from collections.abc import Mapping
from typing import Any

MAX_INTERVAL_S = 0.05  # mean time between two records of a partition above which no fetch waits
MARGIN_S = 0.001  # beyond the mean time between two bursts
SHORTFALL = 0.75  # a burst may be smaller than the mean by this many records of mean size
LATE_WAIT_MS = 3  # how long a fetch waits for late partitions
SAME_BURST_MS = 2.0  # timestamps at most this far apart always belong to one burst
WHOLE = 0.6  # mean share of active partitions in a burst at or above which fetches wait for whole bursts
WINDOW_S = 0.2  # means cover at least this time; a partition with a record within it is active


class FetchCoalescing:
    """Chooses ``min_bytes`` and ``max_wait_ms`` of the next fetch from one broker.

    Any clock in seconds can be used.

    >>> fetches = FetchCoalescing()
    >>> for burst in range(100):
    ...     fetches.observe({p: 1000 for p in range(4)}, {p: 10 * burst for p in range(4)}, 4, burst * 0.01)
    >>> fetches.min_bytes, fetches.max_wait_ms
    (3250, 11)
    >>> fetches.observe({p: 1500 for p in range(3)}, {p: 1000 for p in range(3)}, 3, 1.0)
    >>> fetches.min_bytes, fetches.max_wait_ms
    (500, 3)
    """

    def __init__(self) -> None:
        self._newest_ms: dict[Any, float] = {}  # by partition, on the producer's clock
        self._active: set[Any] = set()
        self._since_s, self._bytes, self._records = 0.0, 0, 0
        self._bursts, self._burst_ms = 0, 0.0  # in the window, and when the newest one began
        self._whole = False  # whether the bursts of the previous window had most of the active partitions
        self._partitions, self._interval_s, self._record_bytes = 0, 0.0, 0.0  # means of the previous window
        self._waiting_for_late = False
        self.min_bytes, self.max_wait_ms = 1, 0

    def observe(self, sizes: Mapping[Any, int], newest_ms: Mapping[Any, float], records: int, now_s: float) -> None:
        """Learn from the result of a fetch.

        Parameters
        ----------
        sizes, newest_ms : mapping
            By partition: bytes, and the timestamp of its newest record (ms); empty if the fetch returned nothing.
        records : int
            Number of records in all partitions.
        now_s : float
            When the answer arrived.
        """
        self._newest_ms.update(newest_ms)
        for at_ms in sorted(newest_ms.values()):
            if at_ms > self._burst_ms + SAME_BURST_MS:
                self._bursts, self._burst_ms = self._bursts + 1, at_ms
        self._active.update(sizes)
        self._bytes += sum(sizes.values())
        self._records += records
        if sizes and now_s - self._since_s >= WINDOW_S:
            self._close_window(now_s)
        if not self._whole or self._interval_s > MAX_INTERVAL_S or not (sizes or self._waiting_for_late):
            # nothing is known yet, records are rare, or there was a pause
            self.min_bytes, self._waiting_for_late = 1, False
            return
        late = self._late_partitions() if sizes else 0
        self._waiting_for_late = late > 0
        if late:
            # Half a record less than their mean: a slightly smaller record must not delay the answer.
            wanted, self.max_wait_ms = late - 0.5, LATE_WAIT_MS
        else:
            wanted, self.max_wait_ms = max(self._partitions - SHORTFALL, 0.5), int((self._interval_s + MARGIN_S) * 1e3)
        self.min_bytes = int(wanted * self._record_bytes)

    def _close_window(self, now_s: float) -> None:
        """Compute the means of the window and start the next one."""
        self._partitions = len(self._active)
        self._whole = self._records >= WHOLE * self._partitions * self._bursts
        self._bursts = 0
        self._interval_s = (now_s - self._since_s) * self._partitions / self._records
        self._record_bytes = self._bytes / self._records
        self._since_s, self._bytes, self._records = now_s, 0, 0
        self._newest_ms = {tp: at_ms for tp, at_ms in self._newest_ms.items() if tp in self._active}
        self._active.clear()

    def rest_of_burst(self, brought: int) -> int:
        """After a fetch that waited for the first record: minimum bytes of the other partitions, 0 = do not wait.

        ``brought``: number of partitions in its result.
        """
        missing = self._partitions - brought
        if self.min_bytes > 1 or not brought or missing <= 0:
            return 0
        return int((missing - 0.5) * self._record_bytes)

    def _late_partitions(self) -> int:
        """Number of partitions whose record of the newest burst is missing.

        Never below 0: within a window more partitions may start than the previous window had.
        """
        since_ms = max(self._newest_ms.values(), default=0.0) - max(SAME_BURST_MS, 500.0 * self._interval_s)
        return max(0, self._partitions - sum(at_ms >= since_ms for at_ms in self._newest_ms.values()))
