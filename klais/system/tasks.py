"""End tasks of asyncio that may miss a cancellation because a library swallows it, and protect their cleanup."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

CANCEL_AGAIN_S = 0.5
Result = TypeVar("Result")


async def finish(cleanup: Coroutine[Any, Any, None]) -> None:
    """Run ``cleanup`` to its end, even if the caller is cancelled meanwhile; then raise the cancellation.

    A task that :func:`end_task` ends is cancelled again while it cleans up. Cleanup that waits needs this function.
    """
    task, cancelled = asyncio.create_task(cleanup), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        end_error = None if task.cancelled() else task.exception()
        raise cancelled from end_error
    task.result()


async def end_task(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task until it has ended; its error is not raised. Cleanup in it must use :func:`finish`."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
    if task is not None and not task.cancelled():
        task.exception()  # otherwise asyncio logs that nobody asked for it


class StrayCancellation(Exception):
    """What a task waited for was cancelled, and nobody has cancelled the task."""


async def fail_if_stray(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work``; a cancellation that is not of the present task becomes an error.

    Otherwise the task would end as if it had been cancelled: silently.

    Raises
    ------
    StrayCancellation
        In place of such a cancellation.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        # No variable may hold the task: it keeps its error, whose traceback keeps all variables here.
        if (name := _name_unless_cancelled()) is None:
            raise
        raise StrayCancellation(f"{name} waited for something that was cancelled") from error


def _name_unless_cancelled() -> str | None:
    """Name of the present task; None if somebody has cancelled it."""
    task = asyncio.current_task()
    return None if task is None or task.cancelling() else task.get_name()


class TaskGroup(asyncio.TaskGroup):
    """A group that cancels its tasks until all have ended, and fails if one ends by a stray cancellation.

    ``asyncio.TaskGroup`` cancels each task once, and then waits for it, whatever happens to the task that waits. It
    goes on without a task that ends cancelled, whoever cancelled what.
    """

    _timer: asyncio.TimerHandle | None = None

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """See ``asyncio.TaskGroup``."""
        task = super().create_task(fail_if_stray(coro), **options)
        task.add_done_callback(lambda _: coro.close())  # it has not begun if the task was cancelled before it ran
        return task

    async def __aexit__(self, *error: Any) -> Any:
        try:
            return await super().__aexit__(*error)
        finally:
            if self._timer is not None:
                self._timer.cancel()  # it would keep this group, and what its tasks refer to

    def _abort(self) -> None:
        super()._abort()  # type: ignore[misc]
        self._cancel_later()

    def _cancel_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CANCEL_AGAIN_S, self._cancel_again)

    def _cancel_again(self) -> None:
        left = [task for task in self._tasks if not task.done()]  # type: ignore[attr-defined]
        for task in left:
            task.cancel()
        if left:
            self._cancel_later()
