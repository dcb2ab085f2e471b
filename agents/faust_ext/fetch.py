"""The worker's fetches wait for what belongs together.

An edge closes the batches of all its partitions at one moment, and they reach the broker one after the other within some
milliseconds. A fetch that waits for the first byte is answered with the first of them, the next fetch with the rest: twice
the requests, twice the rounds of deciding and writing, each of which costs more than the records in it. So a fetch asks for
as many bytes as one record of each active partition has (``min_bytes``), and the broker answers when they are there, or
a little after the next burst was due. Records that come seldom wait for nothing.

Large records reach that size before all of them are there. What is left must not wait for the next burst: that would be
answered half, too, and so on for ever, each second record one linger late. The producer's timestamps tell which partitions
a burst still owes (those whose newest record is older than half the time between two); for them a fetch waits a moment.

Tied to aiokafka 0.14 (``aiokafka.consumer.fetcher.Fetcher``).
"""

import time
from collections import deque
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition

SELDOM_S = 0.05  # mean time between two records of a partition above which nothing waits
SPARE_S = 0.001  # beyond the mean time between two bursts
LESS = 0.75  # so many records of mean size may a burst be smaller than those before it
STRAGGLERS_MS = 3  # how long the rest of a burst is waited for
SAME_BURST_MS = 2.0  # timestamps that are no further apart are of one burst in any case
WINDOW_S = 0.2  # at least; a partition counts that brought a record within it


class Gathering:
    """What one broker is asked for; time is handed in (s, any clock).

    >>> asks = Gathering()
    >>> for burst in range(100):
    ...     asks.note({p: 1000 for p in range(4)}, {p: 10 * burst for p in range(4)}, 4, burst * 0.01)
    >>> asks.min_bytes, asks.max_wait_ms
    (3250, 11)
    >>> asks.note({p: 1500 for p in range(3)}, {p: 1000 for p in range(3)}, 3, 1.0)
    >>> asks.min_bytes, asks.max_wait_ms
    (500, 3)
    """

    def __init__(self) -> None:
        self._newest_ms: dict[Any, float] = {}
        self._active: set[Any] = set()
        self._since_s, self._bytes, self._records = 0.0, 0, 0
        self._partitions, self._each_s, self._record_bytes = 0, 0.0, 0.0  # as of the window before
        self._stragglers = False
        self.min_bytes, self.max_wait_ms = 1, 0

    def note(self, sizes: dict[Any, int], newest_ms: dict[Any, float], records: int, now_s: float) -> None:
        """A fetch brought so many bytes by partition, with the timestamp of the newest record of each; ``records`` in all."""
        self._newest_ms.update(newest_ms)
        self._active.update(sizes)
        self._bytes += sum(sizes.values())
        self._records += records
        if sizes and now_s - self._since_s >= WINDOW_S:
            self._look_back(now_s)
        if not self._partitions or self._each_s > SELDOM_S or not (sizes or self._stragglers):
            self.min_bytes = 1  # not known, too seldom, or silence
            return
        missing = self._missing() if sizes else 0
        self._stragglers = missing > 0
        if missing:
            wanted, self.max_wait_ms = missing - 0.5, STRAGGLERS_MS
        else:
            wanted, self.max_wait_ms = max(self._partitions - LESS, 0.5), int((self._each_s + SPARE_S) * 1e3)
        self.min_bytes = int(wanted * self._record_bytes)

    def _look_back(self, now_s: float) -> None:
        """The window's means, and a new window."""
        self._partitions = len(self._active)
        self._each_s = (now_s - self._since_s) * self._partitions / self._records
        self._record_bytes = self._bytes / self._records
        self._since_s, self._bytes, self._records = now_s, 0, 0
        self._newest_ms = {tp: at_ms for tp, at_ms in self._newest_ms.items() if tp in self._active}
        self._active.clear()

    def _missing(self) -> int:
        """Partitions that have not brought their record of the newest burst."""
        since_ms = max(self._newest_ms.values(), default=0.0) - max(SAME_BURST_MS, 500.0 * self._each_s)
        return max(0, self._partitions - sum(at_ms >= since_ms for at_ms in self._newest_ms.values()))


class GatheringFetches:
    """Lets a fetcher of aiokafka ask so; put in the place of its ``_proc_fetch_request``."""

    def __init__(self, fetcher: Any) -> None:
        self._fetcher, self._fetch = fetcher, fetcher._proc_fetch_request
        self._nodes: dict[int, Gathering] = {}
        fetcher._proc_fetch_request = self

    async def __call__(self, assignment: Any, node_id: int, request: Any) -> bool:
        """One fetch: as aiokafka does it, with our least bytes and longest wait."""
        asks = self._nodes.setdefault(node_id, Gathering())
        if asks.min_bytes > 1:
            request._min_bytes, request._max_wait_ms = asks.min_bytes, asks.max_wait_ms
        brought: bool = await self._fetch(assignment, node_id, request)
        sizes, newest_ms, records = {}, {}, 0
        for topic, partitions in request.topics:
            for partition, offset, _ in partitions:
                tp = TopicPartition(topic, partition)
                if isinstance(found := self._fetcher._records.get(tp), FetchResult) and found.has_more():
                    batches = found._partition_records._records = Batches(found._partition_records._records)
                    sizes[tp], newest_ms[tp] = batches.size_in_bytes(), batches.newest_ms
                    records += max(1, assignment.state_value(tp).highwater - offset)
        asks.note(sizes, newest_ms, records, time.monotonic())
        return brought


class Batches:
    """Record batches in the place of aiokafka's ``MemoryRecords``, which can be read but once; ``newest_ms`` of them all.

    A damaged one is told of when its turn comes, to who reads it: here nobody could.
    """

    def __init__(self, records: Any) -> None:
        self._bytes: int = records.size_in_bytes()
        self._batches: deque[Any] = deque()
        self._damage: Exception | None = None
        try:
            while records.has_next():
                self._batches.append(records.next_batch())
        except Exception as error:
            self._damage = error
        times = [getattr(batch, "max_timestamp", None) for batch in self._batches]  # batches of Kafka 0.10 and older have none
        self.newest_ms = max((float(at_ms) for at_ms in times if at_ms is not None), default=0.0)

    def size_in_bytes(self) -> int:
        """Bytes of all of them."""
        return self._bytes

    def has_next(self) -> bool:
        """Whether :meth:`next_batch` has one more, or damage to tell of."""
        return bool(self._batches) or self._damage is not None

    def next_batch(self) -> Any:
        """The next one, None after the last; raises what reading it raised."""
        if self._batches:
            return self._batches.popleft()
        if self._damage is not None:
            raise self._damage
        return None
