"""Record batches that brokers accept and aiokafka cannot read: a header's name is no UTF-8, records fill the memory."""

from dataclasses import replace

from aiokafka.record.default_records import DefaultRecordBatchBuilder
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


def huge_batch(codec: int, size: int) -> bytes:
    """One record of ``size`` zeros. ``codec``: 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2 * size)
    builder.append(0, 0, b"key", bytes(size), [])
    return bytes(builder.build())


async def write_unreadable(settings: Settings, topic: str) -> None:
    """Append a batch of each kind to partition 0 of a topic."""
    producer = await make_producer(settings)
    huge = replace(unreadable_batch(), data=huge_batch(4, 64 << 20), count=1)
    try:
        for batch in (unreadable_batch(), huge):
            await (await producer.send_batch(ReadyBatch(batch), topic, partition=0))
    finally:
        await abandon(producer)
