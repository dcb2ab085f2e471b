"""A record batch that brokers accept and aiokafka cannot read to its end: the name of a header is not UTF-8."""

from dataclasses import replace

from aiokafka.record.util import calc_crc32c

from klais.config.load import Settings
from klais.kafka.fenced import ReadyBatch, abandon, make_producer
from klais.kafka.record_batch import BuiltBatch, RecordBatchWriter

NAME = b"name of the header"
CRC_AT, AFTER_CRC = 17, 21


def unreadable_batch() -> BuiltBatch:
    """Three records; the second one has the header."""
    writer = RecordBatchWriter(1 << 16, "none")
    writer.append_one(b"key", b"first")
    writer.append_one(b"key", b"second", ((NAME.decode(), b"x"),))
    writer.append_one(b"key", b"third")
    built = writer.close(-1, -1, -1)
    data = built.data.replace(NAME, b"\xff" * len(NAME))
    crc = calc_crc32c(data[AFTER_CRC:]).to_bytes(4, "big")
    return replace(built, data=data[:CRC_AT] + crc + data[AFTER_CRC:])


async def write_unreadable(settings: Settings, topic: str) -> None:
    """Append the batch to partition 0 of a topic."""
    producer = await make_producer(settings)
    try:
        await (await producer.send_batch(ReadyBatch(unreadable_batch()), topic, partition=0))
    finally:
        await abandon(producer)
