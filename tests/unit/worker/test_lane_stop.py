"""A lane is dropped even where something below it swallows the cancellation, as a Kafka client does that is
connecting. Nothing of its session stays, also where something still refers to the lane.
"""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.topics import Topics
from klais.system import tasks
from klais.worker import lane as lanes
from klais.worker.lane import Lane
from klais.worker.lanes import Lanes
from tests.support.lanes import until


def some_lane() -> Lane:
    settings = Settings()
    context: Any = SimpleNamespace(settings=settings, topics=Topics.of(settings), consumer=None)
    return Lane(context, 0)


async def test_a_swallowed_cancellation_is_asked_for_again(monkeypatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
    lane, swallowed = some_lane(), 0

    async def stubborn() -> None:
        nonlocal swallowed
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.sleep(60)

    lane._task = task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(lane.stop(), 5)
    assert swallowed == 2 and task.cancelled()


async def test_a_lane_that_has_stopped_keeps_nothing_of_its_session() -> None:
    class Rows: ...

    lane, seen = some_lane(), []

    async def run() -> None:
        rows = Rows()
        seen.append(weakref.ref(rows))
        await asyncio.sleep(60)

    lane._task = asyncio.create_task(run())
    await asyncio.sleep(0)
    assert seen[0]() is not None
    await lane.stop()
    await asyncio.sleep(0)  # the loop drops what it ran last
    gc.collect()
    assert seen[0]() is None


@pytest.mark.parametrize("error", [KafkaUnavailable("cannot be read"), RuntimeError("the reader is not started")])
async def test_a_lane_whose_last_checkpoint_fails_does_not_end_those_of_the_others(error: Exception) -> None:
    """Whatever the error is: its session may end meanwhile, and with it its reader."""
    good, bad, holder, written = some_lane(), some_lane(), Lanes(), list[int]()

    async def fails() -> None:
        raise error

    async def writes() -> None:
        await asyncio.sleep(0.05)
        written.append(1)

    for partition, (lane, run_once) in enumerate(((bad, fails), (good, writes))):
        lane.checkpointer = SimpleNamespace(run_once=run_once)
        lane.live.set()
        holder.by_partition[partition] = lane
    assert await holder.drain(60.0) is False and written == [1]


async def test_a_session_that_fails_before_it_begins_is_closed(monkeypatch) -> None:
    """One that is not closed keeps the rows of the lane: it refers to itself."""
    lane, made, closed = some_lane(), [], []

    class Session(SimpleNamespace):
        def __init__(self, *_: object) -> None:
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    async def recover(*_: object) -> Any:
        return SimpleNamespace(marker=None, journal=[], state=SimpleNamespace(step=0))

    async def fails(*_: object) -> str:
        raise KafkaUnavailable("klais_raw/0 cannot be read")

    async def starts() -> None: ...

    monkeypatch.setattr(lanes, "LaneSession", Session)
    monkeypatch.setattr(lanes, "recover", recover)
    lane._context.histories, lane._reader.start = SimpleNamespace(lost=fails), starts
    with pytest.raises(KafkaUnavailable):
        await lane.run()
    assert made == closed


async def test_a_session_that_ends_by_a_stray_cancellation_has_failed_and_the_next_one_begins(monkeypatch) -> None:
    """A future that a Kafka client cancels must not end the lane silently."""
    monkeypatch.setattr(lanes, "RESTART_S", 0.01)
    lane, sessions = some_lane(), list[int]()
    lane._context.on_failure = lambda: None

    async def run() -> None:
        sessions.append(1)
        if len(sessions) == 1:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            answer.cancel()
            await answer
        await asyncio.sleep(3600)

    lane.run = run
    lane.start()
    try:
        await until(lambda: len(sessions) > 1, "the next session")
        assert lane.restarts == 1 and "StrayCancellation" in lane.failure
    finally:
        await lane.stop()
