"""Start and close clients of aiokafka so that nothing waits for them without end, and nothing of them stays open.

``AIOKafkaClient.close`` cancels the task that updates metadata once and waits for it, and swallows a cancellation of
its caller meanwhile. A caller that is cancelled there would go on as if nothing had happened, and a task that misses
its one cancellation would never end. Both happen while brokers are away. ``bootstrap`` does not close its connection
if it is cancelled: it would stay open until the garbage collector finds it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from klais.kafka.moved_brokers import follow_moved_brokers
from klais.system.tasks import end_task

GRACE_S = 1.0  # for a start that nobody waits for any more: a broker that is there has answered by then

_closing: set[asyncio.Task[None]] = set()
_Close = Callable[[], Coroutine[Any, Any, None]]


async def start_client(client: AIOKafkaClient, timeout_s: float | None) -> None:
    """Connect a client within ``timeout_s``. If this fails or is cancelled, the client is closed.

    Raises
    ------
    aiokafka.errors.KafkaError, TimeoutError
        If it failed.
    """
    await _start(client.bootstrap(), partial(_close, client), timeout_s)


async def start_producer(producer: AIOKafkaProducer, timeout_s: float | None) -> None:
    """Start a producer, as :func:`start_client`.

    Does what its ``start`` does. But only the connection goes on for a moment if the caller is cancelled: a new
    producer id, of a lane that has to stop, could fence the lane's next owner.
    """
    loop = asyncio.get_running_loop()
    until_s = None if timeout_s is None else loop.time() + timeout_s
    await _start(producer.client.bootstrap(), partial(_stop, producer), timeout_s)
    try:
        async with asyncio.timeout_at(until_s):
            await producer._sender.start()
    except BaseException:
        await stop_producer(producer)
        raise


async def close_client(client: AIOKafkaClient) -> None:
    """Close a client. If the caller is cancelled, it ends at once, and the client is closed in the background."""
    await in_background(_close(client))


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Stop a producer without flushing; cancellation as for :func:`close_client`."""
    await in_background(_stop(producer))


async def in_background(closing: Coroutine[Any, Any, None]) -> None:
    """Wait for ``closing``. A caller that is cancelled ends at once, and ``closing`` goes on."""
    task = asyncio.create_task(closing)
    _closing.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)


async def wait_closed() -> None:
    """Wait for all that goes on in the background."""
    while _closing:
        await asyncio.wait(_closing)


async def _start(starting: Coroutine[Any, Any, None], close: _Close, timeout_s: float | None) -> None:
    follow_moved_brokers()
    task = asyncio.create_task(starting)
    try:
        await asyncio.wait([task], timeout=timeout_s)
        if not task.done():
            raise TimeoutError(f"no connection within {timeout_s:g} s")
        task.result()
    except BaseException:
        await in_background(_end_start(task, close))
        raise


async def _end_start(task: asyncio.Task[None], close: _Close) -> None:
    try:
        await asyncio.wait([task], timeout=GRACE_S)
        await end_task(task)
    finally:
        await close()


async def _close(client: AIOKafkaClient) -> None:
    try:
        await end_task(client._sync_task)
    finally:  # the loop may end meanwhile, and cancels this task
        await client.close()


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        await end_task(producer.client._sync_task)
        await end_task(producer._sender.sender_task if producer._sender is not None else None)
    finally:  # as above. The base class: subclasses call this function from their own `stop`.
        await AIOKafkaProducer.stop(producer)
