"""How long the event loop was held up: a timer every 5 ms that notes by how much it came too late."""

import asyncio
import time

PERIOD_S = 0.005


class LoopWatch:
    """Longest delay of a timer since the last look: what a send or a heartbeat had to wait for at worst.

    Counts everything that keeps the loop from its next timer: a long callback, many short ones in a row, the garbage
    collector, and the scheduler of a busy machine; what of it was CPU time of the loop's own thread is told apart.
    200 wake-ups a second cost about 0.3 % of a core. Watches as a context.
    """

    def __init__(self) -> None:
        self._late_s = self._own_s = 0.0

    def __enter__(self) -> "LoopWatch":
        self._task = asyncio.create_task(self._run(), name="loop-watch")
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, cpu_s = loop.time() + PERIOD_S, time.thread_time()
            await asyncio.sleep(PERIOD_S)
            late_s = loop.time() - due_s
            self._late_s = max(self._late_s, late_s)
            self._own_s = max(self._own_s, min(late_s, time.thread_time() - cpu_s))

    def take(self) -> dict[str, float]:
        """Gauges for the statistics record, ms since the last call: the longest delay, and the longest by our own doing."""
        found = {
            "event_loop_longest_block_ms": round(self._late_s * 1e3, 3),
            "event_loop_longest_own_block_ms": round(self._own_s * 1e3, 3),
        }
        self._late_s = self._own_s = 0.0
        return found
