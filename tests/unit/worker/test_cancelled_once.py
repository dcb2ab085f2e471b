"""Tasks of Faust end at their one cancellation, also if what they wait for happens in the same turn of the loop.

``asyncio.wait_for`` of Python 3.11 misses a cancellation then.
"""

import asyncio
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from klais.worker import report as reports
from klais.worker.intake import ROOM_RECORDS, Intake
from tests.support.turns import turns
from tests.unit.worker.test_report import worker

TURNS = range(6)  # of the event loop, between what is waited for and the cancellation


async def ends(task: "asyncio.Task[Any]") -> bool:
    task.cancel()
    await asyncio.wait([task], timeout=10)
    return task.cancelled()


@pytest.mark.parametrize("count", TURNS)
async def test_an_agent_that_waits_for_room(count: int) -> None:
    def event(offset: int) -> Any:
        return SimpleNamespace(message=SimpleNamespace(offset=offset, value=b"x"), value=b"x")

    async def sought(*place: int) -> None: ...

    intake = Intake("raw", 0, SimpleNamespace(pause=print, resume=print, seek=sought))
    await intake.open(0)
    for offset in range(ROOM_RECORDS):
        await intake.put(None, event(offset))

    async def agent() -> None:
        await intake.put(None, event(ROOM_RECORDS))
        await asyncio.sleep(3600)  # for the next event

    task = asyncio.create_task(agent())
    await turns()
    intake.close()  # the lane ends, so nobody need wait for room
    for _ in range(count):
        await asyncio.sleep(0)
    assert await ends(task)


@pytest.mark.parametrize("count", TURNS)
async def test_the_report_of_a_worker(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    report, changed = worker()[1], []

    @contextmanager
    def changes(call: Any) -> Any:
        changed.append(call)
        yield

    monkeypatch.setattr(reports, "EXTRA_S", 0)
    monkeypatch.setattr(report._limits, "changes", changes)
    task = asyncio.create_task(report.run(SimpleNamespace(stats=lambda *record: None)))
    await turns()
    changed[0]()
    for _ in range(count):
        await asyncio.sleep(0)
    assert await ends(task)
