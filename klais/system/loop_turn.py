"""Let other tasks run during work that would block the event loop for long."""

import asyncio
import time
from collections.abc import Callable

BUDGET_S = 0.01  # a tenth of the shortest heartbeat interval in use


class LoopTurn:
    """Yields to the event loop when the caller has held it for longer than its budget.

    An asynchronous generator whose next item is ready does not suspend, so a loop over it can block the event loop for
    as long as items come. Then no heartbeat is sent, and the group's coordinator revokes the partitions. Call
    :meth:`end` after each item. It costs one clock read.

    Parameters
    ----------
    budget_s : float
        Longest work in seconds before others get a turn, plus the duration of one item.
    now_s : callable
        A monotonic clock, in seconds.
    """

    def __init__(self, budget_s: float = BUDGET_S, now_s: Callable[[], float] = time.monotonic) -> None:
        self._budget_s, self._now_s = budget_s, now_s
        self._began_s = now_s()

    async def end(self) -> None:
        """Suspend once if the budget is spent; else return immediately."""
        if self._now_s() - self._began_s > self._budget_s:
            await asyncio.sleep(0)
            self._began_s = self._now_s()
