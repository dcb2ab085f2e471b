"""Clients of aiokafka are closed whatever their tasks do, and the caller notices its own cancellation."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from klais.kafka import closing
from klais.kafka.closing import close_client, start_producer, stop_producer, wait_closed
from klais.kafka.fenced import abandon
from klais.kafka.producer import BatchProducer
from klais.system import tasks
from tests.unit.system.test_tasks import MISSED, stubborn


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)


async def busy_client() -> tuple[AIOKafkaClient, list[int]]:
    """A client whose task for metadata swallows cancellations, as while it connects to a broker that is away."""
    client, missed = AIOKafkaClient(bootstrap_servers="127.0.0.1:9"), [0]
    client._sync_task = asyncio.create_task(stubborn(missed))
    await asyncio.sleep(0)
    return client, missed


async def test_a_client_whose_task_misses_cancellations_is_closed() -> None:
    client, missed = await busy_client()
    async with asyncio.timeout(60):
        await close_client(client)
    assert missed == [MISSED + 1] and client._sync_task is None


async def test_a_caller_that_is_cancelled_meanwhile_ends() -> None:
    client, missed = await busy_client()

    async def caller() -> None:
        while True:  # the next attempt to connect
            await close_client(client)
            await asyncio.sleep(3600)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
    await asyncio.gather(*closing._closing)  # in the background
    assert client._sync_task is None and missed == [MISSED + 1]


@pytest.mark.parametrize("kind", [AIOKafkaProducer, BatchProducer])
async def test_a_producer_whose_tasks_miss_cancellations_is_stopped(kind: type[AIOKafkaProducer]) -> None:
    producer, both = kind(bootstrap_servers="127.0.0.1:9"), [[0], [0]]
    producer.client._sync_task = asyncio.create_task(stubborn(both[0]))
    producer._sender._sender_task = asyncio.create_task(stubborn(both[1]))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await (producer.stop() if kind is BatchProducer else stop_producer(producer))
    assert both == [[MISSED + 1], [MISSED + 1]] and producer._closed


async def test_a_producer_is_abandoned_in_time_although_its_tasks_do_not_end() -> None:
    """They go on in the background, and then it is closed."""
    producer, may_end = BatchProducer(bootstrap_servers="127.0.0.1:9"), asyncio.Event()

    async def endless() -> None:
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    producer._exchanges[1] = asyncio.create_task(endless())
    producer.client._sync_task = asyncio.create_task(endless())
    await asyncio.sleep(0)
    abandoning = asyncio.create_task(abandon(producer, timeout_s=0.05))
    try:
        await asyncio.wait([abandoning], timeout=20)
        assert abandoning.done() and not producer._closed
    finally:
        may_end.set()
        await asyncio.gather(abandoning, *closing._closing)
    assert producer._closed


async def test_a_cancelled_start_asks_for_no_producer_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection may still be made; with an id it would fence the next owner of the lane."""
    producer, connects, connected, asked = AIOKafkaProducer(bootstrap_servers="127.0.0.1:9"), asyncio.Event(), [], []

    async def bootstrap() -> None:
        connects.set()
        await asyncio.sleep(0.05)
        connected.append(True)

    monkeypatch.setattr(producer.client, "bootstrap", bootstrap)
    monkeypatch.setattr(producer._sender, "start", lambda: asked.append(True))
    starting = asyncio.create_task(start_producer(producer, 60))
    await connects.wait()
    starting.cancel()
    await asyncio.wait([starting], timeout=60)
    await wait_closed()
    assert starting.cancelled() and connected and not asked and producer._closed
