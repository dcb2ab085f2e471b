"""The only broker comes back at another address: clients that are connected find it by the bootstrap servers."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import PATIENCE


def one(value: bytes) -> RecordBatchWriter:
    writer = RecordBatchWriter()
    assert writer.append_one(b"key", value)
    return writer


async def write_and_read(settings: Settings, broker: EmbeddedKafka, moved: Settings) -> list[bytes | None]:
    topic = Topics.of(settings).telemetry
    identity = await fence(settings, "moved", [(topic, 0)], 60.0 * PATIENCE)
    producer = await make_producer(settings, 60.0 * PATIENCE)
    sender = FencedSender(producer, identity, topic, 0)
    again = EmbeddedKafka(moved, command="pytest")
    try:
        async with PartitionReader(settings, 60.0 * PATIENCE) as reader:
            await sender.send(one(b"before"))
            assert [r.value async for r in reader.read(topic, 0, 0)] == [b"before"]
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(again.start)
            async with asyncio.timeout(120 * PATIENCE):
                await sender.send(one(b"after"))
                return [r.value async for r in reader.read(topic, 0, 0)]
    finally:
        await abandon(producer)
        await asyncio.to_thread(again.stop)


def test_clients_follow_a_broker_that_comes_back_at_another_port() -> None:
    folder = Path(tempfile.mkdtemp(prefix="klais-moved-"))
    ports = free_port(), free_port()
    both = ",".join(f"127.0.0.1:{port}" for port in ports)
    first, second = (Settings(state_dir=folder, kafka_port=port, partitions=1, kafka_heap_mb=256) for port in ports)
    broker = EmbeddedKafka(first, command="pytest")
    try:
        try:
            broker.start()
        except SetupMissing as error:
            need_missing("broker", str(error))
        clients = Settings(kafka_bootstrap=both, partitions=1)
        ensure_topics(clients)
        assert asyncio.run(write_and_read(clients, broker, second)) == [b"before", b"after"]
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
