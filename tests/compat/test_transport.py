"""What the worker's consumer does without tasks, and what it asks the broker for."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from agents.faust_ext.fetch import STRAGGLERS_MS, WINDOW_S, Batches, Gathering, GatheringFetches
from agents.faust_ext.transport import Consumer, EagerService
from klais.kafka.record_batch import BuiltBatch, RecordBatchWriter
from tests.support.process import PATIENCE


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


def bursts(asks: Gathering, partitions: int, each_s: float, count: int = 60, from_s: float = 100.0) -> float:
    for _ in range(count):
        from_s += each_s
        asks.note({p: 1000 + p for p in range(partitions)}, dict.fromkeys(range(partitions), 1e3 * from_s), partitions, from_s)
    return from_s


def test_one_record_of_each_active_partition_is_waited_for() -> None:
    asks = Gathering()
    assert asks.min_bytes == 1, "until something is known"
    now_s = bursts(asks, 4, 0.01)
    assert 3000 < asks.min_bytes < 4000 and 10 <= asks.max_wait_ms <= 12
    bursts(asks, 2, 0.01, 2 * int(WINDOW_S / 0.01) + 60, now_s)
    assert 1000 < asks.min_bytes < 2000, "two have fallen silent"


def test_the_rest_of_a_burst_is_waited_for_a_moment() -> None:
    """Two answers for each burst must not look like two records for each, nor let the second wait for the next burst."""
    asks, now_s = Gathering(), 100.0
    for _ in range(60):
        asks.note({0: 1000}, {0: 1e3 * now_s}, 1, now_s + 0.001)
        first = asks.min_bytes, asks.max_wait_ms
        asks.note({1: 1000, 2: 1000, 3: 1000}, dict.fromkeys((1, 2, 3), 1e3 * now_s + 1), 3, now_s + 0.004)
        now_s += 0.01
    assert first == (pytest.approx(2500, rel=0.02), STRAGGLERS_MS)
    assert asks.min_bytes == pytest.approx(3250, rel=0.02) and asks.max_wait_ms >= 10
    asks.note({0: 1000}, {0: 1e3 * now_s}, 1, now_s + 0.001)
    asks.note({}, {}, 0, now_s + 0.004)
    assert asks.min_bytes == pytest.approx(3250, rel=0.02), "the rest did not come: the next burst is waited for"


def test_partitions_that_begin_within_a_window_leave_the_ask_as_it_is() -> None:
    asks = Gathering()
    now_s = bursts(asks, 2, 0.01)
    of_two = asks.min_bytes
    bursts(asks, 4, 0.001, 1, now_s)
    assert asks.min_bytes == of_two > 1, "two more than the window before had are not two too few"


def waits_ms(asks: Gathering, spread_ms: float, seconds: int = 6) -> list[float]:
    """How long records wait for a fetch to bring them: a broker with bursts of four records, 10 ms apart, of varying size.

    The first fetch is answered in the middle of a burst.
    """
    rng = np.random.default_rng(1)
    due = []  # (arrival, partition, timestamp, bytes), all in ms
    for burst in range(100 * seconds):
        at_ms = 10.0 * burst + rng.uniform(-1, 1)
        size = rng.uniform(700, 1300)
        due += [(at_ms + i * spread_ms / 3, int(p), at_ms, size) for i, p in enumerate(rng.permutation(4))]
    due.sort()
    now_ms, waited, pending, k = 0.0, [], [], 0
    while k < len(due):
        until_ms = now_ms + asks.max_wait_ms
        while k < len(due) and (
            due[k][0] <= now_ms or (sum(r[3] for r in pending) < asks.min_bytes and due[k][0] <= until_ms)
        ):
            pending.append(due[k])
            now_ms, k = max(now_ms, due[k][0]), k + 1
        if sum(r[3] for r in pending) < asks.min_bytes:
            now_ms = until_ms if asks.min_bytes > 1 else due[k][0]
        sizes: dict[int, int] = {}
        for _, p, _, size in pending:
            sizes[p] = sizes.get(p, 0) + int(size)
        newest = {p: at_ms for _, p, at_ms, _ in pending}
        asks.note(sizes, newest, len(pending), 100.0 + now_ms / 1e3)
        waited += [now_ms - arrived for arrived, *_ in pending if arrived > 1000]
        pending, now_ms = [], now_ms + 1.0
    return waited


@pytest.mark.parametrize("spread_ms", [0.0, 1.5, 3.0])
def test_no_record_waits_for_the_next_burst(spread_ms: float) -> None:
    """Asking for all of a burst alone, each second record came with the next one: 10 ms late for ever."""
    waited = np.array(waits_ms(Gathering(), spread_ms))
    assert np.percentile(waited, 50) <= spread_ms + 0.5
    assert np.mean(waited > 6.0) < 0.02


def test_seldom_records_and_silence_wait_for_nothing() -> None:
    asks = Gathering()
    bursts(asks, 4, 0.06)
    assert asks.min_bytes == 1
    bursts(asks, 4, 0.01, from_s=200.0)
    assert asks.min_bytes > 1
    asks.note({}, {}, 0, 300.0)
    assert asks.min_bytes == 1


class OneFetch:
    """What :class:`GatheringFetches` sees of aiokafka's fetcher: each fetch brings one batch of every partition."""

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


def test_batches_are_handed_on_and_damage_told_when_its_turn_comes() -> None:
    """Raised while fetching it would end aiokafka's fetcher; who reads the records hears of it."""
    short = (0).to_bytes(8, "big") + (2).to_bytes(4, "big") + b"xx"
    data = BATCH.data + BATCH.data + short
    ours, own = Batches(MemoryRecords(data)), MemoryRecords(data)
    assert ours.size_in_bytes() == own.size_in_bytes() == len(data)
    assert ours.newest_ms == BATCH.max_timestamp
    for _ in range(2):
        assert ours.has_next() and own.has_next()
        assert [r.value for r in ours.next_batch()] == [r.value for r in own.next_batch()] == [b"x" * 100]
    assert ours.has_next() and own.has_next()
    for records in (own, ours):
        with pytest.raises(CorruptRecordException):
            records.next_batch()
    whole = Batches(MemoryRecords(BATCH.data))
    assert whole.next_batch() is not None and not whole.has_next() and whole.next_batch() is None


def test_a_real_request_of_aiokafka_carries_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("agents.faust_ext.fetch.time.monotonic", lambda: now_s[0])
    fetcher, assignment = OneFetch(), SimpleNamespace(state_value=lambda _: SimpleNamespace(highwater=1))
    GatheringFetches(fetcher)
    for _ in range(60):
        request = FetchRequest(1500, 1, 1 << 20, 0, [("raw", [(p, 0, 1 << 20) for p in range(4)])])
        assert asyncio.run(fetcher._proc_fetch_request(assignment, 1, request))
        now_s[0] += 0.01
    assert fetcher.asked[0] == (1, 1500), "until something is known, as aiokafka asks"
    assert fetcher.asked[-1] == (int(3.25 * len(BATCH.data)), 11)
