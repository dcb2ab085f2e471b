"""Starts and stops of lanes overlap: Faust begins the next rebalance without waiting for the end of a start."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from klais.config.load import Settings
from klais.worker import lanes as module
from klais.worker import runtime as runtimes
from klais.worker.lanes import Lanes
from klais.worker.runtime import WorkerRuntime


class SlowLane:
    """A lane that needs until ``may_end`` is set to end; ``running`` has those that have not ended."""

    running: list["SlowLane"] = []
    may_end = asyncio.Event()

    def __init__(self, context: Any, partition: int) -> None:
        self.partition = partition

    def start(self) -> None:
        assert self.partition not in [lane.partition for lane in self.running], "two lanes of a partition"
        self.running.append(self)

    def report_statistics(self) -> None: ...

    async def stop(self) -> None:
        await self.may_end.wait()
        if self in self.running:
            self.running.remove(self)


class Producer:
    def __init__(self) -> None:
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture(autouse=True)
def slow_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    SlowLane.running, SlowLane.may_end = [], asyncio.Event()
    monkeypatch.setattr(module, "Lane", SlowLane)
    monkeypatch.setattr(module, "tune_garbage_collector", lambda: None)


def runs() -> list[int]:
    return sorted(lane.partition for lane in SlowLane.running)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_of_two_starts_that_overlap_the_newer_one_counts() -> None:
    lanes, context = Lanes(), SimpleNamespace()
    await lanes.start(context, [0, 1])
    first = asyncio.create_task(lanes.start(context, [0, 1]))
    await turns()  # it waits for the end of the lanes
    second = asyncio.create_task(lanes.start(context, [1, 2]))
    await turns()
    assert runs() == [0, 1]
    SlowLane.may_end.set()
    assert [await first, await second] == [False, True]
    assert runs() == [1, 2] == sorted(lanes.by_partition)


async def test_a_stop_meanwhile_leaves_no_lanes() -> None:
    lanes, context = Lanes(), SimpleNamespace()
    await lanes.start(context, [0])
    starts = asyncio.create_task(lanes.start(context, [0]))
    await turns()
    stops = asyncio.create_task(lanes.stop())
    await turns()
    SlowLane.may_end.set()
    await stops
    assert await starts is False and runs() == [] and lanes.by_partition == {}


async def test_a_start_that_is_out_of_date_leaves_the_present_lanes_alone() -> None:
    lanes, context = Lanes(), SimpleNamespace()
    SlowLane.may_end.set()
    outdated = lanes.take_turn()
    await lanes.start(context, [1])
    assert await lanes.start(context, [0, 1], outdated) is False
    assert runs() == [1] == sorted(lanes.by_partition)


async def test_lanes_of_a_start_that_was_cancelled_end_with_the_next_call() -> None:
    lanes, context = Lanes(), SimpleNamespace()
    await lanes.start(context, [0])
    starts = asyncio.create_task(lanes.start(context, [0]))
    await turns()
    starts.cancel()
    await asyncio.wait([starts])
    SlowLane.may_end.set()
    await lanes.start(context, [0])
    assert runs() == [0]
    await lanes.stop()
    assert runs() == []


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Its producers connect when ``answer`` is set; ``made`` has them, ``follows`` the starts of a thread."""
    found = WorkerRuntime(Settings(state_dir=tmp_path, fingerprint="off"), Lanes(), SimpleNamespace(), lambda p: 0)
    answer, made, follows = asyncio.Event(), list[Producer](), list[str]()

    async def make_producer(settings: Settings) -> Producer:
        await answer.wait()
        made.append(Producer())
        return made[-1]

    class Control(SimpleNamespace):
        @property
        def running(self) -> bool:
            return bool(follows)

    monkeypatch.setattr(runtimes, "make_producer", make_producer)
    found.control = Control(start=lambda: follows.append("control"), wait_caught_up=lambda wait_s: True, stop=int)
    SlowLane.may_end.set()
    return SimpleNamespace(runtime=found, answer=answer, made=made, follows=follows)


async def test_two_rebalances_before_the_first_producer_is_there(worker: Any) -> None:
    """Each of them makes neither its own producers nor its own thread."""
    first = asyncio.create_task(worker.runtime.start_lanes([0, 1]))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(worker.runtime.start_lanes([1]))
    await asyncio.sleep(0.05)
    worker.answer.set()
    await asyncio.gather(first, second)
    assert len(worker.made) == 3 and worker.follows == ["control"] and runs() == [1]


async def test_partitions_that_are_revoked_during_the_first_start_get_no_lanes(worker: Any) -> None:
    starts = asyncio.create_task(worker.runtime.start_lanes([0]))
    await asyncio.sleep(0.05)
    await worker.runtime.lanes.stop()
    worker.answer.set()
    await starts
    assert runs() == []


async def test_a_start_whose_partitions_were_revoked_before_it_began_is_void(worker: Any) -> None:
    worker.answer.set()
    turn = worker.runtime.lanes.take_turn()
    await worker.runtime.lanes.stop()
    await worker.runtime.start_lanes([0], turn)
    assert runs() == []


async def test_a_worker_that_stops_while_it_starts_leaves_no_producer(worker: Any) -> None:
    starts = asyncio.create_task(worker.runtime.start_lanes([0]))
    await asyncio.sleep(0.05)
    await worker.runtime.close()
    worker.answer.set()
    await starts
    assert runs() == [] and [producer.stopped for producer in worker.made] == [True] * 3
    await worker.runtime.start_lanes([0])
    assert runs() == []


async def test_a_start_after_the_worker_has_stopped_opens_nothing(worker: Any) -> None:
    worker.answer.set()
    await worker.runtime.close()
    await worker.runtime.start_lanes([0])
    assert worker.made == [] and worker.follows == [] and runs() == []
