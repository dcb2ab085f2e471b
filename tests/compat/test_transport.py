"""What the worker's consumer does without tasks, and what it asks the broker for."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from agents.faust_ext.transport import Consumer, EagerService
from klais.kafka.buffered_records import BufferedRecords
from klais.kafka.coalescing_fetcher import CoalescingFetcher
from klais.kafka.record_batch import BuiltBatch, RecordBatchWriter
from tests.support.process import PATIENCE
from tests.support.unreadable import unreadable_batch


class Eager(EagerService, Service):
    """A mode service with nothing to do."""


async def at_once() -> int:
    return 7


async def failing() -> int:
    raise ValueError("no")


async def never() -> None:
    await asyncio.Event().wait()


async def in_service(act: Callable[[Any], Awaitable[Any]]) -> Any:
    async with Eager() as service:
        return await act(service)


def waited(*coroutines: Any, after: Callable[[Any], None] | None = None) -> Any:
    async def act(service: Any) -> Any:
        if after is not None:
            asyncio.get_running_loop().call_later(0.02, after, service)
        return await asyncio.wait_for(service.wait_first(*coroutines), 5 * PATIENCE)

    return asyncio.run(in_service(act))


def test_what_ends_at_once_makes_no_task() -> None:
    async def act(service: Any) -> Any:
        before = asyncio.all_tasks()
        found = await service.wait_first(at_once(), never())
        return found, asyncio.all_tasks() - before

    found, tasks = asyncio.run(in_service(act))
    assert found.results == [7] and not found.stopped and not tasks


def test_what_waits_goes_on_where_it_stopped() -> None:
    steps = []

    async def two_waits() -> str:
        for k in range(2):
            steps.append(k)
            await asyncio.sleep(0.01 * k)
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        await queue.put(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.put(2), 0.01)
        return "done"

    found = waited(two_waits(), never())
    assert found.results == ["done"] and steps == [0, 1]


def test_the_other_may_win_and_the_first_is_cancelled() -> None:
    ends = []

    async def first() -> None:
        try:
            await never()
        finally:
            ends.append("closed")

    assert waited(first(), asyncio.sleep(0.01, "other")).results == ["other"]
    assert ends == ["closed"]


@pytest.mark.parametrize("later", [False, True])
def test_what_it_raises_is_raised(later: bool) -> None:
    async def first() -> None:
        if later:
            await asyncio.sleep(0.01)
        await failing()

    with pytest.raises(ValueError, match="no"):
        waited(first(), never())


def test_a_service_that_stops_ends_the_wait() -> None:
    def stop(service: Any) -> None:
        service._stopped.set()

    assert waited(never(), never(), after=stop).stopped


def test_a_full_buffer_takes_no_partition_out_of_the_next_fetch() -> None:
    """Faust sleeps for a second when none is left."""
    app = SimpleNamespace(in_recovery=False)
    partitions = {TP("raw", 0), TP("raw", 1)}
    faust_own, ours = (
        SimpleNamespace(app=app, _buffered_partitions=set(), _active_partitions=set(partitions)) for _ in range(2)
    )
    for consumer in (faust_own, ours):
        consumer._get_active_partitions = lambda of=consumer: of._active_partitions
    for tp in partitions:
        driver.Consumer.on_buffer_full(faust_own, tp)
        Consumer.on_buffer_full(ours, tp)  # type: ignore[arg-type]
    assert faust_own._active_partitions == set()
    assert ours._active_partitions == partitions


def test_a_partition_without_a_position_ends_no_worker() -> None:
    """As after an offset that is out of range, until aiokafka has asked for another. Faust's own check raises."""

    class Lost:
        def assignment(self) -> set[TP]:
            return {TP("raw", 0)}

        async def sleep(self, seconds: float) -> None: ...

        should_stop = False

        def verify_event_path(self, now: float, tp: TP) -> None:
            assert TopicPartitionState(SimpleNamespace()).position is not None

    with pytest.raises(AssertionError):
        asyncio.run(driver.Consumer.verify_all_partitions_active(Lost()))  # type: ignore[arg-type]
    asyncio.run(Consumer.verify_all_partitions_active(Lost()))  # type: ignore[arg-type]


class OneFetch:
    """What :class:`CoalescingFetcher` sees of aiokafka's fetcher: each fetch brings one batch of every partition."""

    def __init__(self) -> None:
        self._records: dict[TopicPartition, Any] = {}
        self.asked: list[tuple[int, int]] = []  # least bytes and longest wait (ms), as they go on the wire

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: FetchRequest) -> bool:
        struct = request.build(FetchRequest_v4)
        self.asked.append((struct.min_bytes, struct.max_wait_time))
        for partition, offset, _ in request.topics[0][1]:
            tp = TopicPartition("raw", partition)
            records = PartitionRecords(tp, MemoryRecords(BATCH.data), [], offset, None, None, True, 0)
            self._records[tp] = FetchResult(tp, assignment=assignment, partition_records=records, backoff=0.1)
        return True


def one_batch() -> BuiltBatch:
    writer = RecordBatchWriter()
    writer.append_one(None, b"x" * 100)
    return writer.close(1, 0, 0)


BATCH = one_batch()


def at_offset(data: bytes, offset: int, damaged: bool = False) -> bytes:
    """A batch with another base offset; its last byte another one if ``damaged``."""
    return offset.to_bytes(8, "big") + data[8:-1] + bytes([data[-1] ^ damaged])


@pytest.mark.parametrize("position", [0, 7])
def test_a_batch_with_a_wrong_crc_ends_nothing_and_what_follows_is_consumed(position: int) -> None:
    """aiokafka's own error would end the worker, at each start again."""
    places = [(0, position > 0), (5, position == 0), (7, position > 0), (9, False)]
    data = b"".join(at_offset(BATCH.data, offset, damaged) for offset, damaged in places)
    seen: list[tuple[int, int]] = []
    tp = TopicPartition("raw", 0)
    found = PartitionRecords(tp, MemoryRecords(data), [], position, None, None, False, 0)
    found._records = BufferedRecords(found._records, position, lambda start, end, why: seen.append((start, end)))
    assert [record.offset for record in found] == ([0, 7, 9] if position == 0 else [9])
    assert found.next_fetch_offset == 10
    assert seen == ([(5, 6)] if position == 0 else [(7, 8)])


def test_a_record_that_aiokafka_cannot_read_ends_nothing_and_what_follows_is_consumed() -> None:
    """A header whose name is no UTF-8: Kafka accepts it, and it would end one worker after the other."""
    tp, seen = TopicPartition("raw", 0), list[tuple[int, int]]()
    data = unreadable_batch().data + at_offset(BATCH.data, 3)
    with pytest.raises(UnicodeDecodeError):
        list(PartitionRecords(tp, MemoryRecords(data), [], 0, None, None, False, 0))
    found = PartitionRecords(tp, MemoryRecords(data), [], 0, None, None, False, 0)
    found._records = BufferedRecords(found._records, 0, lambda start, end, why: seen.append((start, end)))
    assert [record.offset for record in found] == [0, 3] and found.next_fetch_offset == 4
    assert seen == [(1, 2)]


def test_a_wrong_crc_at_the_end_of_a_fetch_costs_one_offset_at_a_time() -> None:
    tp, seen = TopicPartition("raw", 0), []
    for position in (3, 4):
        found = PartitionRecords(tp, MemoryRecords(at_offset(BATCH.data, 3, True)), [], position, None, None, False, 0)
        found._records = BufferedRecords(found._records, position, lambda start, end, why: seen.append((start, end)))
        assert list(found) == [] and found.next_fetch_offset == position + 1
    assert seen == [(3, 3), (4, 4)]


def test_batches_are_handed_on_and_bytes_that_are_none_raise_in_their_turn() -> None:
    """An error raised in the fetch would end aiokafka's fetch routine."""
    short = (0).to_bytes(8, "big") + (2).to_bytes(4, "big") + b"xx"
    data = BATCH.data + BATCH.data + short
    ours, own = BufferedRecords(MemoryRecords(data), 0, pytest.fail), MemoryRecords(data)
    assert ours.size_in_bytes() == own.size_in_bytes() == len(data)
    assert ours.newest_ms == BATCH.max_timestamp
    for _ in range(2):
        assert ours.has_next() and own.has_next()
        assert [r.value for r in ours.next_batch()] == [r.value for r in own.next_batch()] == [b"x" * 100]
    assert ours.has_next() and own.has_next()
    for records in (own, ours):
        with pytest.raises(CorruptRecordException):
            records.next_batch()
    whole = BufferedRecords(MemoryRecords(BATCH.data), 0, pytest.fail)
    assert whole.next_batch() is not None and not whole.has_next() and whole.next_batch() is None


def test_a_real_request_of_aiokafka_carries_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("klais.kafka.coalescing_fetcher.time.monotonic", lambda: now_s[0])
    fetcher, assignment = OneFetch(), SimpleNamespace(state_value=lambda _: SimpleNamespace(highwater=1))
    CoalescingFetcher(fetcher)
    for _ in range(60):
        request = FetchRequest(1500, 1, 1 << 20, 0, [("raw", [(p, 0, 1 << 20) for p in range(4)])])
        assert asyncio.run(fetcher._proc_fetch_request(assignment, 1, request))
        now_s[0] += 0.01
    assert fetcher.asked[0] == (1, 1500), "until something is known, as aiokafka asks"
    assert fetcher.asked[-1] == (int(3.25 * len(BATCH.data)), 11)


class BurstInTwo(OneFetch):
    """Each fetch that asks for all partitions brings the first alone; one that asks for the others brings them."""

    whole = False

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: FetchRequest) -> bool:
        places = request.topics[0][1]
        part = FetchRequest(
            request._max_wait_ms,
            request._min_bytes,
            1 << 20,
            0,
            [("raw", places[:1] if len(places) == 4 and not self.whole else places)],
        )
        return await super()._proc_fetch_request(assignment, node_id, part)


def test_the_rest_of_a_rare_burst_comes_before_the_lanes_see_any_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("klais.kafka.coalescing_fetcher.time.monotonic", lambda: now_s[0])
    fetcher, assignment = BurstInTwo(), SimpleNamespace(state_value=lambda _: SimpleNamespace(highwater=1))
    CoalescingFetcher(fetcher)
    for turn in range(23):
        request = FetchRequest(500, 1, 1 << 20, 0, [("raw", [(p, 0, 1 << 20) for p in range(4)])])
        fetcher._records.clear()
        fetcher.whole = turn < 20
        assert asyncio.run(fetcher._proc_fetch_request(assignment, 1, request))
        now_s[0] += 0.07
    assert len(fetcher._records) == 4
    assert fetcher.asked[-2:] == [(1, 500), (int(2.5 * len(BATCH.data)), 3)]
