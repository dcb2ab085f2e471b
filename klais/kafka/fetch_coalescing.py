"""How long a fetch waits for the partitions of one burst, and for how many bytes (pure; time is an argument).

An edge closes the batches of all its partitions at one moment, and they reach the broker one after the other within
some milliseconds. A fetch that waits for the first byte is answered with the first batch, and the next fetch with
the rest: twice the requests, and twice the rounds of deciding and writing, each of which costs more than the records
in it. So a fetch asks for as many bytes as one record of each active partition has (``min_bytes``). The broker
answers when they are there, or a little after the next burst was due (``max_wait_ms``). Where records are rare, a
fetch waits for nothing.

Records of varying size can reach ``min_bytes`` before all partitions of the burst are there. The late partitions
must not wait for the next burst: that fetch would be answered half way as well, and so on, and every second record
would be one linger late. The producer's timestamps tell which partitions of the burst are late (their newest record
is older than half the time between two bursts). For them the next fetch waits a short time only.

Where a partition brings fewer than twenty records a second, or the partitions do not report together, no fetch can know
when the next burst comes and of how many partitions it is. There a fetch waits for the first record, and a second one
right behind it for the rest of the burst, for a short time (``rest_of_burst``), before lanes see any of it.
"""

from collections.abc import Mapping
from typing import Any

MAX_INTERVAL_S = 0.05  # mean time between two records of a partition above which no fetch waits
MARGIN_S = 0.001  # beyond the mean time between two bursts
SHORTFALL = 0.75  # a burst may be smaller than the mean by so many records of mean size
LATE_WAIT_MS = 3  # how long a fetch waits for late partitions
SAME_BURST_MS = 2.0  # timestamps that are no further apart belong to one burst in any case
WHOLE = 0.6  # share of the active partitions that a burst has at the mean, from which on fetches wait for whole ones
WINDOW_S = 0.2  # means are over at least so long; a partition is active that brought a record within it


class FetchCoalescing:
    """What to ask one broker for in the next fetch: ``min_bytes`` and ``max_wait_ms``.

    Any clock will do, as long as it is in seconds.

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
        self._newest_ms: dict[Any, float] = {}  # by partition, of the producer's clock
        self._active: set[Any] = set()
        self._since_s, self._bytes, self._records = 0.0, 0, 0
        self._bursts, self._burst_ms = 0, 0.0  # of the window, and when the newest one began
        self._whole = False  # the bursts of the window before had most of the active partitions
        self._partitions, self._interval_s, self._record_bytes = 0, 0.0, 0.0  # means of the window before
        self._waiting_for_late = False
        self.min_bytes, self.max_wait_ms = 1, 0

    def observe(self, sizes: Mapping[Any, int], newest_ms: Mapping[Any, float], records: int, now_s: float) -> None:
        """Learn from the answer to a fetch.

        Parameters
        ----------
        sizes, newest_ms : mapping
            By partition: bytes, and the timestamp of its newest record (ms); empty where the fetch brought nothing.
        records : int
            In all partitions together.
        now_s : float
            When the answer came.
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
            # nothing is known yet, records are rare, or there was silence
            self.min_bytes, self._waiting_for_late = 1, False
            return
        late = self._late_partitions() if sizes else 0
        self._waiting_for_late = late > 0
        if late:
            # Half a record less than their mean: one that is a little smaller must not hold up the answer.
            wanted, self.max_wait_ms = late - 0.5, LATE_WAIT_MS
        else:
            wanted, self.max_wait_ms = max(self._partitions - SHORTFALL, 0.5), int((self._interval_s + MARGIN_S) * 1e3)
        self.min_bytes = int(wanted * self._record_bytes)

    def _close_window(self, now_s: float) -> None:
        """Take the means of the window and begin the next one."""
        self._partitions = len(self._active)
        self._whole = self._records >= WHOLE * self._partitions * self._bursts
        self._bursts = 0
        self._interval_s = (now_s - self._since_s) * self._partitions / self._records
        self._record_bytes = self._bytes / self._records
        self._since_s, self._bytes, self._records = now_s, 0, 0
        self._newest_ms = {tp: at_ms for tp, at_ms in self._newest_ms.items() if tp in self._active}
        self._active.clear()

    def rest_of_burst(self, brought: int) -> int:
        """After a fetch that waited for the first record: least bytes of the other partitions, 0 = take what is there.

        ``brought``: partitions that it had records of.
        """
        missing = self._partitions - brought
        if self.min_bytes > 1 or not brought or missing <= 0:
            return 0
        return int((missing - 0.5) * self._record_bytes)

    def _late_partitions(self) -> int:
        """How many partitions have not brought their record of the newest burst.

        Never below 0: within a window more partitions may begin than the window before had.
        """
        since_ms = max(self._newest_ms.values(), default=0.0) - max(SAME_BURST_MS, 500.0 * self._interval_s)
        return max(0, self._partitions - sum(at_ms >= since_ms for at_ms in self._newest_ms.values()))
