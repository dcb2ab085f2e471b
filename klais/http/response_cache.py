"""Costly responses: computed one at a time, and shared by equal requests within a second."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from klais.http.errors import HttpError

T = TypeVar("T")
MAX_WAITING = 8
MAX_REST_S = 1.0


class CpuTimer:
    """CPU time (s) of the thread that ran a computation; 0 until it ends."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def run(self, compute: Callable[[], T]) -> T:
        """``compute()``."""
        began_s = time.thread_time()
        try:
            return compute()
        finally:
            self.cpu_s = time.thread_time() - began_s


class Gate:
    """Runs one computation at a time, then pauses for the CPU time that it used: at most half a core is spent on them.
    Time waiting for a busy CPU does not count.

    The lanes run in parallel in the same process.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._lock = asyncio.Lock()
        self._max_waiting = max_waiting
        self._waiting = 0
        self._rest_until_s = 0.0

    async def run(self, compute: Callable[[], T]) -> T:
        """Run ``compute()`` in a thread.

        Raises
        ------
        HttpError
            503, if too many requests wait.
        """
        if self._waiting >= self._max_waiting:
            raise HttpError(503, "busy", "too many requests of this kind are waiting: try again in a moment")
        self._waiting += 1
        try:
            async with self._lock:
                await asyncio.sleep(max(0.0, self._rest_until_s - time.monotonic()))
                spent = CpuTimer()
                try:
                    return await asyncio.to_thread(spent.run, compute)
                finally:
                    self._rest_until_s = time.monotonic() + min(MAX_REST_S, spent.cpu_s)
        finally:
            self._waiting -= 1


class ResponseCache:
    """Recent bodies by request. A request for a body that is being computed waits for it."""

    def __init__(self, fresh_s: float = 1.0, kept: int = 16) -> None:
        self._fresh_s, self._kept = fresh_s, kept
        self._made: OrderedDict[str, asyncio.Task[tuple[float, bytes]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    async def get(self, asked: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The body for ``asked``; after a failure it is computed again."""
        task = self._made.get(asked)
        if task is None or (task.done() and not self._is_fresh(task)):
            task = asyncio.create_task(_timed(make))
            task.add_done_callback(_has_failed)  # also if no request waits any more
            self._made[asked] = task
            self._made.move_to_end(asked)
            while len(self._made) > self._kept:
                self._made.popitem(last=False)
        return (await asyncio.shield(task))[1]  # a cancelled request must not cancel it for others

    def forget(self) -> None:
        """Drop all bodies, because their contents have changed."""
        self._made.clear()

    def _is_fresh(self, task: "asyncio.Task[tuple[float, bytes]]") -> bool:
        return not _has_failed(task) and time.monotonic() - task.result()[0] < self._fresh_s


async def _timed(make: Callable[[], Awaitable[bytes]]) -> tuple[float, bytes]:
    body = await make()
    return time.monotonic(), body


def _has_failed(task: "asyncio.Task[tuple[float, bytes]]") -> bool:
    return task.cancelled() or task.exception() is not None
