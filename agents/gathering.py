"""The worker's fetches wait for what belongs together.

An edge closes the batches of all its partitions at one moment, and they reach the broker one after the other within some
milliseconds. A fetch that waits for the first byte is answered with the first of them, the next fetch with the rest: twice
the requests, twice the rounds of deciding and writing, each of which costs more than the records in it. So a fetch asks for
as many bytes as one record of each active partition has (``min_bytes``), and the broker answers when they are there, or
after a little more than the mean time between two records of a partition. Records that come seldom wait for nothing.

Tied to aiokafka 0.14 (``aiokafka.consumer.fetcher.Fetcher``).
"""

import time
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition

SELDOM_S = 0.05  # mean time between two records of a partition above which nothing waits
SPARE_S = 0.002  # of what a burst takes to arrive
WINDOW_S = 0.2  # at least; a partition counts that brought a record within it


class Gathering:
    """What one broker is asked for; time is handed in (s, any clock).

    >>> asks = Gathering()
    >>> for burst in range(100):
    ...     asks.note({p: 1000 for p in range(4)}, 4, burst * 0.01)
    >>> asks.min_bytes, asks.max_wait_ms
    (3500, 14)
    """

    def __init__(self) -> None:
        self._active: set[Any] = set()
        self._since_s, self._bytes, self._records = 0.0, 0, 0
        self.min_bytes, self.max_wait_ms = 1, 0

    def note(self, sizes: dict[Any, int], records: int, now_s: float) -> None:
        """A fetch brought so many bytes by partition, ``records`` in all."""
        if not sizes:
            self.min_bytes = 1
            return
        self._active.update(sizes)
        self._bytes += sum(sizes.values())
        self._records += records
        took_s = now_s - self._since_s
        if took_s < WINDOW_S:
            return
        each_s = took_s * len(self._active) / self._records
        self.min_bytes = 1 if each_s > SELDOM_S else int((len(self._active) - 0.5) * self._bytes / self._records)
        self.max_wait_ms = int((1.25 * each_s + SPARE_S) * 1e3)
        self._since_s, self._bytes, self._records = now_s, 0, 0
        self._active.clear()


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
        sizes, records = {}, 0
        for topic, partitions in request.topics:
            for partition, offset, _ in partitions:
                tp = TopicPartition(topic, partition)
                if isinstance(found := self._fetcher._records.get(tp), FetchResult) and found.has_more():
                    sizes[tp] = found._partition_records._records.size_in_bytes()
                    records += max(1, assignment.state_value(tp).highwater - offset)
        asks.note(sizes, records, time.monotonic())
        return brought
