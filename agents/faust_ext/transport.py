"""Faust's Kafka consumer in the worker's own event loop instead of a thread of its own.

Faust keeps its consumer in a second thread with a second loop, so that heartbeats go on while an agent computes. Here every
record crosses between the two several times, and each crossing waits for the lock of the interpreter; agents never hold
the loop for long (a checkpoint of 100,000 devices: some ten milliseconds). At 5,000 frames/s in 285 records a second,
alternating runs: 0.57 instead of 0.70 of a core, a quarter of the switches between threads.

The thread's service stays as it is: its life is a task, and what others ask of it is called, not queued. Tied to Faust 0.15
(``faust.transport.drivers.aiokafka``) and mode (``mode.threads``); ``tests/fault/`` runs whole workers on it.
"""

import asyncio
import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from mode.services import WaitResults
from mode.threads import ServiceThread, WorkerThread
from mode.utils.futures import maybe_async

from agents.faust_ext.fetch import GatheringFetches
from agents.faust_ext.web import BoundedWeb
from klais.http.connections import ConnectionLimits


class ServiceTask(WorkerThread):
    """What starts and ends a service that thinks that it has a thread: a task of the loop that is there already."""

    def __init__(self, service: ServiceThread, **_kwargs: Any) -> None:
        super().__init__(service)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the service; what it raises reaches the starter, as from a thread."""
        self.task = asyncio.get_running_loop().create_task(self.service._serve(), name="faust-consumer")
        self.task.add_done_callback(_look_at)

    def stop(self) -> None:
        """Nothing to join: the service says itself when it is down."""


def _look_at(task: "asyncio.Task[None]") -> None:
    """The service has told its starter and the worker of an error; asyncio need not tell once more."""
    if not task.cancelled():
        task.exception()


class EagerService:
    """Before a mode service: what needs no waiting is not made into tasks."""

    async def wait_first(self, *waited: Any, **options: Any) -> WaitResults:
        """As mode's; but a first coroutine that ends without waiting needs no four tasks.

        So it is with each message that Faust hands over: it is put into the agent's queue, which has room.
        """
        first, *others = waited
        service: Any = self
        if not inspect.iscoroutine(first) or options or service.should_stop:
            return await super().wait_first(*waited, **options)  # type: ignore[misc,no-any-return]
        try:
            pending = first.send(None)
        except BaseException as ended:
            for other in filter(inspect.iscoroutine, others):
                other.close()
            if isinstance(ended, StopIteration):
                return WaitResults([first], [ended.value], False)
            raise
        return await super().wait_first(_rest_of(first, pending), *others)  # type: ignore[misc,no-any-return]


async def _rest_of(begun: "Coroutine[Any, Any, Any]", pending: Any) -> Any:
    """What is left of a coroutine that has run up to its first wait, for ``pending`` (mode takes no bare generator)."""
    return await _steps(begun, pending)


@types.coroutine
def _steps(begun: "Coroutine[Any, Any, Any]", pending: Any) -> Generator[Any, Any, Any]:
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
        """Start the consumer, with fetches that gather."""
        await super().on_start()
        GatheringFetches(self._ensure_consumer()._fetcher)

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call it here."""
        return await maybe_async(fun(*args, **kwargs))

    async def _gather_remaining_tasks(self) -> None:
        """Cancel nothing: the loop's other tasks are not ours."""


class Consumer(EagerService, driver.Consumer):
    """Faust's consumer, without its thread."""

    def on_buffer_full(self, tp: Any) -> None:
        """Go on: a full buffer makes the one who fills it wait.

        Faust takes the partition out of the next fetch instead, and sleeps for a second when none is left, though the agent
        empties its buffer within milliseconds. A fetch that brings 26 records (a backlog, a burst) does that to all.
        """

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):
    """Faust's Kafka transport with that consumer."""

    Consumer = Consumer


class App(faust.App):
    """A Faust app that consumes in its own event loop, and whose web server has bounded connections.

    Parameters
    ----------
    *args, **kwargs
        As ``faust.App``.
    web_limits : ConnectionLimits
        Bounds of the web server.
    """

    def __init__(self, *args: Any, web_limits: ConnectionLimits, **kwargs: Any) -> None:
        self._web_limits = web_limits
        super().__init__(*args, **kwargs)

    def _new_web(self) -> BoundedWeb:
        return BoundedWeb(self, self._web_limits)

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)
