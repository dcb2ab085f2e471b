"""Long work in the event loop lets other tasks run."""

import asyncio
import time

from klais.core.lane.state import LaneState
from klais.system.loop_turn import BUDGET_S, LoopTurn
from klais.worker.intake import Intake
from tests.unit.worker.test_intake import Consumer, Log, Stream, event


class Others:
    """A task that counts its turns."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1


async def test_others_run_once_the_budget_is_spent_and_not_before() -> None:
    now = [0]
    turn, others = LoopTurn(10, lambda: now[0]), Others()
    task = asyncio.create_task(others.run())
    await asyncio.sleep(0)
    for _ in range(10):
        now[0] += 1
        await turn.end()
    assert others.turns == 0
    now[0] += 1
    await turn.end()
    await turn.end()
    assert others.turns == 1
    task.cancel()


async def test_a_lane_with_a_backlog_does_not_hold_the_loop() -> None:
    """60 records are there, and each takes longer than the budget: without turns for others, no heartbeat leaves."""
    intake, stream, others = Intake("raw", 0, Consumer()), Stream(), Others()
    await intake.open(0)
    for offset in range(60):
        await intake.put(stream, event(offset))
    state, task = LaneState(), asyncio.create_task(others.run())
    await asyncio.sleep(0)
    async for raw in intake.records(state, Log(0, 60)):
        state.next_raw = raw.offset + 1
        time.sleep(BUDGET_S * 1.2)  # noqa: ASYNC251  (a step)
        if state.next_raw == 60:
            break
    assert others.turns >= 58
    task.cancel()
