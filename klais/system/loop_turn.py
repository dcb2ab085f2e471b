"""Work that would hold the event loop for long lets other tasks run in between."""

import asyncio
import time
from collections.abc import Callable

BUDGET_S = 0.01  # a tenth of the shortest interval of a heartbeat that anybody sets


class LoopTurn:
    """Gives the event loop a turn when the caller has held it for longer than its budget.

    An asynchronous generator whose next item is there does not suspend, so a loop over it can hold the event loop for
    as long as items come: meanwhile no heartbeat leaves, and the group's coordinator takes the partitions away.
    Call :meth:`end` after each item. It costs one clock read.

    Parameters
    ----------
    budget_s : float
        Longest stretch of work without a turn for others, in seconds, plus the length of one item.
    now_s : callable
        A monotonic clock, in seconds.
    """

    def __init__(self, budget_s: float = BUDGET_S, now_s: Callable[[], float] = time.monotonic) -> None:
        self._budget_s, self._now_s = budget_s, now_s
        self._began_s = now_s()

    async def end(self) -> None:
        """Suspend once if the budget is spent; else return at once."""
        if self._now_s() - self._began_s > self._budget_s:
            await asyncio.sleep(0)
            self._began_s = self._now_s()
