"""A lane is dropped even where something below it swallows the cancellation, as a Kafka client does that is
connecting.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

from klais.config.load import Settings
from klais.kafka.topics import Topics
from klais.worker import lane as lanes
from klais.worker.lane import Lane


async def test_a_swallowed_cancellation_is_asked_for_again(monkeypatch) -> None:
    monkeypatch.setattr(lanes, "CANCEL_AGAIN_S", 0.01)
    settings = Settings()
    context: Any = SimpleNamespace(settings=settings, topics=Topics.of(settings), consumer=None)
    lane, swallowed = Lane(context, 0), 0

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
