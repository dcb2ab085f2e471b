"""Close clients of aiokafka, even while they connect, so that nothing waits for them without end.

``AIOKafkaClient.close`` cancels the task that updates metadata once and waits for it, and swallows a cancellation of
its caller meanwhile. A caller that is cancelled there would go on as if nothing had happened, and a task that misses
its one cancellation would never end. Both happen while brokers are away.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from klais.system.tasks import end_task

_closing: set[asyncio.Task[None]] = set()


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
