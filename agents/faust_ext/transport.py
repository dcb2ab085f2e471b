"""Faust's Kafka consumer in the worker's event loop instead of a separate thread.

Faust runs its consumer in a second thread with a second loop, so that heartbeats continue while an agent computes. Each
record then crosses between the two threads several times, and each crossing waits for the lock of the interpreter. Here
no agent blocks the loop for long (a checkpoint of 100,000 devices: some ten milliseconds), so one loop is enough. At
5,000 frames/s in 285 records per second, in alternating runs, it uses 0.57 instead of 0.70 of a core, with a quarter of
the thread switches.

The consumer's service still expects a thread. :class:`ServiceTask` runs it as a task of the loop, and
:class:`LoopConsumer` calls a method directly where Faust would put it into the thread's queue and wait.

This depends on Faust 0.15 (``faust.transport.drivers.aiokafka``) and mode 0.7 (``mode.threads``).
"""

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from faust.transport.drivers import aiokafka as driver
from mode.services import WaitResults
from mode.threads import ServiceThread, WorkerThread
from mode.utils.futures import maybe_async

from klais.kafka.coalescing_fetcher import CoalescingFetcher


class ServiceTask(WorkerThread):
    """Starts a service that expects a thread as a task of the running loop; the thread is never started."""

    def __init__(self, service: ServiceThread, **kwargs: Any) -> None:
        super().__init__(service, name="faust-consumer", **kwargs)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the service; its errors reach the starter, as from a thread."""
        self._task = asyncio.get_running_loop().create_task(self.service._serve(), name="faust-consumer")
        self._task.add_done_callback(_retrieve_error)

    def stop(self) -> None:
        """Do nothing: the service sets its own shutdown event."""


def _retrieve_error(task: "asyncio.Task[None]") -> None:
    """Retrieve the error, which the starter and the worker already have: asyncio would log it once more."""
    if not task.cancelled():
        task.exception()


class EagerService:
    """Mix-in before a mode service: creates no tasks for a wait that ends immediately."""

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109 (as mode's)
        """Like the method of mode, but without four tasks if the first coroutine ends without waiting.

        This is the case for each message that Faust delivers: it puts it into the agent's queue, which has room.
        """
        first, *others = coros
        service: Any = self
        if not inspect.iscoroutine(first) or timeout is not None or service.should_stop:
            return await super().wait_first(*coros, timeout=timeout)  # type: ignore[misc,no-any-return]
        try:
            # Run the coroutine by hand up to its first wait. What it yields there is the future that it waits for.
            pending = first.send(None)
        except BaseException as ended:
            for other in filter(inspect.iscoroutine, others):
                other.close()
            if isinstance(ended, StopIteration):
                return WaitResults([first], [ended.value], False)
            raise
        return await super().wait_first(_rest_of(first, pending), *others)  # type: ignore[misc,no-any-return]


async def _rest_of(begun: "Coroutine[Any, Any, Any]", pending: Any) -> Any:
    """The rest of a coroutine that has run up to its first wait, for ``pending`` (mode accepts no bare generator)."""
    return await _steps(begun, pending)


@types.coroutine
def _steps(begun: "Coroutine[Any, Any, Any]", pending: Any) -> Generator[Any, Any, Any]:
    """``yield from`` for a coroutine that was begun by hand (PEP 380 spells out the same loop)."""
    while True:
        try:
            sent = yield pending
        except GeneratorExit:
            begun.close()
            raise
        except BaseException as error:
            go_on = functools.partial(begun.throw, error)
        else:
            go_on = functools.partial(begun.send, sent)
        try:
            pending = go_on()
        except StopIteration as ended:
            return ended.value


class LoopConsumer(driver.AIOKafkaConsumerThread):
    """The consumer's service in the loop of the worker."""

    Worker = ServiceTask

    def __init__(self, consumer: driver.Consumer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, **kwargs)

    async def on_start(self) -> None:
        """Start the consumer, then let its fetches coalesce."""
        await super().on_start()
        CoalescingFetcher(self._ensure_consumer()._fetcher)

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call the function directly, in the same loop."""
        return await maybe_async(fun(*args, **kwargs))

    async def _gather_remaining_tasks(self) -> None:
        """Cancel nothing: mode would cancel all tasks of the thread's loop, and here all share the loop."""


class Consumer(EagerService, driver.Consumer):
    """Faust's consumer, without its thread."""

    def on_buffer_full(self, tp: Any) -> None:
        """Do nothing: a full buffer makes its writer wait. Faust would sleep for a second when all are full."""

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: each lane watches its partition. Faust's check raises while a partition has no position."""

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):
    """Faust's Kafka transport with this consumer."""

    Consumer = Consumer
