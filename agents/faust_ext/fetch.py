"""Fetch coalescing for the worker's consumer: :mod:`klais.kafka.fetch_coalescing` put into aiokafka's fetcher.

aiokafka has ``fetch_min_bytes`` and ``fetch_max_wait_ms`` as options of the consumer, fixed for its life. Here they
change with each fetch, so the one coroutine that sends a fetch request is wrapped: before, it sets the two fields of
the request; after, it looks at what the fetch brought.

Tied to aiokafka 0.14 (``aiokafka.consumer.fetcher.Fetcher``).
"""

import time
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition

from klais.kafka.buffered_records import BufferedRecords
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
