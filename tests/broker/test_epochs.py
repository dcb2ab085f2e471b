"""A lane's producer id has 32,766 epochs. When they are used up the coordinator gives a new id: zombies stay fenced."""

import asyncio
import struct
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from klais.config.load import Settings
from klais.errors import LaneFenced
from klais.kafka.fenced import LAST_EPOCH, FencedSender, ProducerIdentity, abandon, fence, make_producer
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from tests.support.process import PATIENCE
from tests.support.stage import stage

NAME = "klais-lane-0"
STATE = "__transaction_state"
EPOCH_AT = 10  # in the coordinator's record: int16 version, int64 producer id, int16 epoch


def set_epoch(settings: Settings, epoch: int) -> None:
    """Write the coordinator's record of the lane again, with another epoch: 32,000 fences would take minutes."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "epochs", "enable.partition.eof": True})
    found = None
    try:
        parts = consumer.list_topics(STATE, timeout=20).topics[STATE].partitions
        consumer.assign([TopicPartition(STATE, p, 0) for p in parts])
        ends = 0
        while ends < len(parts):
            message = consumer.poll(20)
            assert message is not None
            ends += message.error() is not None
            if message.error() is None and NAME.encode() in message.key() and message.value():
                found = message
    finally:
        consumer.close()
    assert found is not None
    value = bytearray(found.value())
    struct.pack_into(">h", value, EPOCH_AT, epoch)
    # Only the brokers themselves may write to this topic: they go by this name.
    producer = Producer({"bootstrap.servers": settings.bootstrap, "client.id": "__admin_client"})
    failed: list[object] = []
    producer.produce(
        STATE, bytes(value), found.key(), found.partition(), on_delivery=lambda error, _: failed.append(error)
    )
    assert producer.flush(20 * PATIENCE) == 0 and failed == [None]


async def send(producer, identity: ProducerIdentity, topic: str) -> None:
    writer = RecordBatchWriter()
    assert writer.append_one(b"key", b"value", timestamp_ms=time.time_ns() // 1_000_000)
    await FencedSender(producer, identity, topic, 0).send(writer)


async def succeed_each_other(settings: Settings, topic: str) -> list[ProducerIdentity]:
    """Four owners, one after the other; each writes, and is refused once the next one has fenced."""
    producer, owners = await make_producer(settings), []
    try:
        for _ in range(4):
            owners.append(await fence(settings, NAME, [(topic, 0)], timeout_s=60 * PATIENCE))
            for zombie in owners[:-1]:
                with pytest.raises(LaneFenced):
                    await send(producer, zombie, topic)
            await send(producer, owners[-1], topic)
    finally:
        await abandon(producer)
    return owners


def test_zombies_stay_fenced_when_the_epochs_of_a_producer_id_are_used_up() -> None:
    with stage(partitions=1) as on:
        settings, topic = on.settings, Topics.of(on.settings).telemetry
        first = asyncio.run(fence(settings, NAME, [(topic, 0)], timeout_s=60 * PATIENCE))
        set_epoch(settings, LAST_EPOCH - 3)
        on.stop()  # the coordinator reads its records when the broker starts
        on.start()
        owners = asyncio.run(succeed_each_other(settings, topic))
    ids = [owner.producer_id for owner in owners]
    assert ids[0] == ids[1] == first.producer_id and ids[2] == ids[3] != first.producer_id
    assert [owner.epoch for owner in owners[:2]] == [LAST_EPOCH - 2, LAST_EPOCH - 1]
