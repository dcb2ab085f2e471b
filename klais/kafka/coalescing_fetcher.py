"""Fetch coalescing for the worker's consumer: connects :mod:`klais.kafka.fetch_coalescing` to aiokafka's fetcher.

aiokafka has ``fetch_min_bytes`` and ``fetch_max_wait_ms`` as fixed options of the consumer. Here they change with each
fetch, so the only coroutine that sends fetch requests is wrapped: before, the wrapper sets these two fields of the
request; after, it examines the result of the fetch.

Tied to aiokafka 0.14 (``aiokafka.consumer.fetcher.Fetcher``).
"""

import copy
import time
from functools import partial
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import TopicPartition

from klais.kafka.buffered_records import BufferedRecords, report_damaged
from klais.kafka.codecs import limit_decompression
from klais.kafka.fetch_coalescing import LATE_WAIT_MS, FetchCoalescing
from klais.kafka.moved_brokers import follow_moved_brokers


class CoalescingFetcher:
    """Replaces a fetcher's ``_proc_fetch_request``; one policy for each broker."""

    def __init__(self, fetcher: Any) -> None:
        limit_decompression()
        follow_moved_brokers()
        self._fetcher, self._fetch = fetcher, fetcher._proc_fetch_request
        self._brokers: dict[int, FetchCoalescing] = {}
        fetcher._proc_fetch_request = self

    async def __call__(self, assignment: Any, node_id: int, request: Any) -> bool:
        """Fetch once like aiokafka, with our minimum bytes and maximum wait."""
        policy = self._brokers.setdefault(node_id, FetchCoalescing())
        if policy.min_bytes > 1:
            request._min_bytes, request._max_wait_ms = policy.min_bytes, policy.max_wait_ms
        brought: bool = await self._fetch(assignment, node_id, request)
        sizes, newest_ms, records = self._received(assignment, request)
        if minimum := policy.rest_of_burst(len(sizes)):
            # aiokafka wakes the consumer when this call returns: the lanes get the whole burst at once.
            rest = _without(request, sizes, minimum)
            if rest.topics:
                brought = await self._fetch(assignment, node_id, rest) or brought
            more = self._received(assignment, rest)
            sizes, newest_ms, records = sizes | more[0], newest_ms | more[1], records + more[2]
        policy.observe(sizes, newest_ms, records, time.monotonic())
        return brought

    def _received(self, assignment: Any, request: Any) -> tuple[dict[Any, int], dict[Any, float], int]:
        """Bytes and newest timestamp (ms) by partition, and number of records, received since this request."""
        sizes, newest_ms, records = {}, {}, 0
        for topic, partitions in request.topics:
            for partition, offset, _ in partitions:
                tp = TopicPartition(topic, partition)
                found = self._fetcher._records.get(tp)
                if isinstance(found, FetchResult) and found.has_more():
                    # The batches can be read only once, and their timestamps are needed here: read all of them now and
                    # pass them to the consumer in a buffer.
                    batches = self._buffered(tp, found._partition_records)
                    sizes[tp], newest_ms[tp] = batches.size_in_bytes(), batches.newest_ms
                    records += max(1, assignment.state_value(tp).highwater - offset)
        return sizes, newest_ms, records

    def _buffered(self, tp: TopicPartition, found: Any) -> BufferedRecords:
        """The batches, with their CRCs checked here, because aiokafka's error would end the worker."""
        on_corrupt = partial(report_damaged, tp.topic, tp.partition)
        found._check_crcs = False
        found._records = batches = BufferedRecords(found._records, found.next_fetch_offset, on_corrupt)
        return batches


def _without(request: Any, brought: dict[Any, int], minimum: int) -> Any:
    """The same request for the other partitions, which waits briefly for ``minimum`` bytes."""
    rest = copy.copy(request)
    topics = [
        (topic, [place for place in places if TopicPartition(topic, place[0]) not in brought])
        for topic, places in request.topics
    ]
    rest._topics = [(topic, places) for topic, places in topics if places]
    rest._min_bytes, rest._max_wait_ms = minimum, LATE_WAIT_MS
    return rest
