"""How long the event loop was blocked: the time from the end of one wait for events to the start of the next."""

import asyncio
import time
from typing import Any


class LoopWatch:
    """Longest turn of the event loop since the last sample: the worst delay of a send or a heartbeat.

    A turn is all work between two waits: a long callback, many short ones in a row, the garbage collector, or the
    scheduler of a busy machine. The CPU time of the loop's own thread is a separate figure. A wait for a timer that
    ends too late counts as well. It costs half a microsecond per turn; a timer every 5 ms would cost 0.7 % of a core.
    Use it as a context manager in the running loop; ``asyncio``'s own loops wait in ``_selector.select``.
    """

    def __init__(self) -> None:
        self._longest_s = self._own_s = 0.0

    def __enter__(self) -> "LoopWatch":
        loop: Any = asyncio.get_running_loop()
        self._selector, self._select = loop._selector, loop._selector.select
        self._begun()
        self._selector.select = self._watched
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.select = self._select

    def _begun(self) -> None:
        self._at_s, self._cpu_s = time.perf_counter(), time.thread_time()

    def _watched(self, timeout: float | None = None) -> Any:
        waits_s = time.perf_counter()
        self._longest_s = max(self._longest_s, waits_s - self._at_s)
        self._own_s = max(self._own_s, time.thread_time() - self._cpu_s)
        events = self._select(timeout)
        self._begun()
        if timeout and not events:
            self._longest_s = max(self._longest_s, self._at_s - waits_s - timeout)
        return events

    def sample(self) -> dict[str, float]:
        """Gauges for the statistics record, ms since the last call: the longest turn, and the maximum CPU time of the
        loop's thread in one turn."""
        found = {
            "event_loop_longest_block_ms": round(self._longest_s * 1e3, 3),
            "event_loop_longest_own_block_ms": round(self._own_s * 1e3, 3),
        }
        self._longest_s = self._own_s = 0.0
        return found
