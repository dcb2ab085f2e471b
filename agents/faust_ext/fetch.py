"""Fetch coalescing for the worker's consumer: :mod:`klais.kafka.fetch_coalescing` put into aiokafka's fetcher.

aiokafka has ``fetch_min_bytes`` and ``fetch_max_wait_ms`` as options of the consumer, fixed for its life. Here they
change with each fetch, so the one coroutine that sends a fetch request is wrapped: before, it sets the two fields of
the request; after, it looks at what the fetch brought.

Tied to aiokafka 0.14 (``aiokafka.consumer.fetcher.Fetcher``).
"""

import time
from collections import deque
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition

from klais.kafka.fetch_coalescing import FetchCoalescing


class CoalescingFetcher:
    """Takes the place of a fetcher's ``_proc_fetch_request``; one policy for each broker."""

    def __init__(self, fetcher: Any) -> None:
        self._fetcher, self._fetch = fetcher, fetcher._proc_fetch_request
        self._brokers: dict[int, FetchCoalescing] = {}
        fetcher._proc_fetch_request = self

    async def __call__(self, assignment: Any, node_id: int, request: Any) -> bool:
        """One fetch: as aiokafka does it, with our least bytes and longest wait."""
        policy = self._brokers.setdefault(node_id, FetchCoalescing())
        if policy.min_bytes > 1:
            request._min_bytes, request._max_wait_ms = policy.min_bytes, policy.max_wait_ms
        brought: bool = await self._fetch(assignment, node_id, request)
        sizes, newest_ms, records = {}, {}, 0
        for topic, partitions in request.topics:
            for partition, offset, _ in partitions:
                tp = TopicPartition(topic, partition)
                found = self._fetcher._records.get(tp)
                if isinstance(found, FetchResult) and found.has_more():
                    # The batches can be read only once, and their timestamps are needed here: read them all now and
                    # leave them to the consumer in a buffer.
                    batches = found._partition_records._records = BufferedRecords(found._partition_records._records)
                    sizes[tp], newest_ms[tp] = batches.size_in_bytes(), batches.newest_ms
                    records += max(1, assignment.state_value(tp).highwater - offset)
        policy.observe(sizes, newest_ms, records, time.monotonic())
        return brought


class BufferedRecords:
    """Takes the place of aiokafka's ``MemoryRecords``, which can be read but once; ``newest_ms`` is over all batches.

    A corrupt batch raises an error when the consumer reads it, not here: it would end aiokafka's fetch routine.
    """

    def __init__(self, records: Any) -> None:
        self._bytes: int = records.size_in_bytes()
        self._batches: deque[Any] = deque()
        self._error: Exception | None = None
        try:
            while records.has_next():
                self._batches.append(records.next_batch())
        except Exception as error:
            self._error = error
        times = [getattr(batch, "max_timestamp", None) for batch in self._batches]  # Kafka 0.10 and older have none
        self.newest_ms = max((float(at_ms) for at_ms in times if at_ms is not None), default=0.0)

    def size_in_bytes(self) -> int:
        """Bytes of all batches."""
        return self._bytes

    def has_next(self) -> bool:
        """Whether :meth:`next_batch` returns one more, or raises."""
        return bool(self._batches) or self._error is not None

    def next_batch(self) -> Any:
        """The next batch, None after the last; raises what reading it raised."""
        if self._batches:
            return self._batches.popleft()
        if self._error is not None:
            raise self._error
        return None
