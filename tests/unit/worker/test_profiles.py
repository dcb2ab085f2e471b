"""Saving anomaly profiles: the lanes of a worker take turns."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from klais.core.anomaly.detector import Saved
from klais.core.dam.bucket import TokenBucket
from klais.core.devices.layout import ROW
from klais.errors import OutputRefused
from klais.worker import profiles as module
from klais.worker.profiles import ProfileKeeper

LANES, ROWS = 4, 50


class Turns:
    """Numbers the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0

    async def run(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)


def keeper(turns: Turns, taken: list[int], context: Any) -> ProfileKeeper:
    """Of a lane whose detector notes the turn of each collection, with senders that take everything."""

    def dump_some(begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
        taken.append(turns.number)
        row = np.arange(begin, min(begin + 10, end), dtype=np.int32)
        buf = np.frombuffer(b"profile" * len(row), np.uint8)
        starts = 7 * np.arange(len(row), dtype=np.int64)
        return Saved(row, buf, starts, np.full(len(row), 7, np.int64)), begin + len(row)

    async def send(_writer: Any) -> None:
        await asyncio.sleep(0)

    rows = np.zeros(ROWS, ROW)
    rows["id_size"] = 1
    rows["id"][:, 0] = 97
    unsaved = list[int]()
    detector = SimpleNamespace(
        dump_some=dump_some, unsaved=unsaved, mark_unsaved=lambda of: unsaved.extend(of.tolist())
    )
    state = SimpleNamespace(used=ROWS, rows=rows, detector=detector)
    senders = SimpleNamespace(profiles=SimpleNamespace(send=send))
    session: Any = SimpleNamespace(state=state, context=context, senders=senders)
    reader: Any = None
    return ProfileKeeper(session, reader)


async def test_no_two_lanes_collect_profiles_in_one_turn_of_the_loop() -> None:
    turns, taken = Turns(), []
    topics = SimpleNamespace(profiles_changelog="profiles")
    context = SimpleNamespace(profile_bytes=TokenBucket(1e9, 1e9), topics=topics, saving=asyncio.Lock())
    keepers = [keeper(turns, taken, context) for _ in range(LANES)]
    clock = asyncio.create_task(turns.run())
    await asyncio.gather(*(one.save_some() for one in keepers))
    clock.cancel()
    assert [one.saved for one in keepers] == [ROWS] * LANES
    assert len(set(taken)) == len(taken) == LANES * ROWS // 10


async def test_profiles_are_looked_at_again_after_a_step_or_if_the_allowance_ended(monkeypatch) -> None:
    turns, taken = Turns(), list[int]()
    monkeypatch.setattr(module, "SAVE_TICK_S", 0.0)
    bucket = SimpleNamespace(available=lambda now_ns: room, spend=lambda count: None)
    topics, settings = SimpleNamespace(profiles_changelog="profiles"), SimpleNamespace(anomaly_save_bytes=1)
    context = SimpleNamespace(profile_bytes=bucket, topics=topics, saving=asyncio.Lock(), settings=settings)
    one, room, round_trips = keeper(turns, taken, context), 1e9, ROWS // 10
    one._session.state.step = 5
    monkeypatch.setattr(one, "_load", lambda: asyncio.sleep(0))
    running = asyncio.create_task(one.run())

    async def settled() -> int:
        for _ in range(200):
            await asyncio.sleep(0)
        return len(taken)

    assert await settled() == round_trips  # once, although it looks at each tick
    one._session.state.step = 6
    assert await settled() == 2 * round_trips
    room, one._session.state.step = 0, 7
    assert await settled() == 2 * round_trips
    room = 1e9
    assert await settled() == 3 * round_trips
    running.cancel()


async def test_profiles_that_kafka_refuses_are_saved_later() -> None:
    """They are marked again, and the keeper does not take them for saved: with no further step it tries again."""
    turns, taken = Turns(), list[int]()
    topics = SimpleNamespace(profiles_changelog="profiles")
    context = SimpleNamespace(profile_bytes=TokenBucket(1e9, 1e9), topics=topics, saving=asyncio.Lock())
    one, sent = keeper(turns, taken, context), list[Any]()
    one._session.partition = 0

    async def refuse(writer: Any) -> None:
        sent.append(writer)
        if len(sent) == 2:
            raise OutputRefused("too large", 10)

    one._session.senders.profiles.send = refuse
    assert await one.save_some() is False
    assert one._session.state.detector.unsaved == list(range(10, 20)) and one.saved == ROWS - 10
    assert await one.save_some() is True
