"""Faust's Kafka consumer in the worker's own event loop instead of a thread of its own.

Faust keeps its consumer in a second thread with a second loop, so that heartbeats go on while an agent computes. Here every
record crosses between the two several times, and each crossing waits for the lock of the interpreter; agents never hold
the loop for long (a checkpoint of 100,000 devices: some ten milliseconds). At 5,000 frames/s in 285 records a second,
alternating runs: 0.57 instead of 0.70 of a core, a quarter of the switches between threads.

The thread's service stays as it is: its life is a task, and what others ask of it is called, not queued. Tied to Faust 0.15
(``faust.transport.drivers.aiokafka``) and mode (``mode.threads``); ``tests/fault/`` runs whole workers on it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from mode.threads import ServiceThread, WorkerThread
from mode.utils.futures import maybe_async


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


class LoopConsumer(driver.AIOKafkaConsumerThread):
    """The consumer's service in the loop of the worker."""

    Worker = ServiceTask

    def __init__(self, consumer: driver.Consumer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(consumer, loop=loop, thread_loop=loop, **kwargs)

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call it here."""
        return await maybe_async(fun(*args, **kwargs))

    async def _gather_remaining_tasks(self) -> None:
        """Cancel nothing: the loop's other tasks are not ours."""


class Consumer(driver.Consumer):
    """Faust's consumer, without its thread."""

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):
    """Faust's Kafka transport with that consumer."""

    Consumer = Consumer


class App(faust.App):
    """A Faust app that consumes in its own event loop."""

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)
