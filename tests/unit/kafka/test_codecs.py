"""Batches whose records need more memory than any that KLAIS writes: an error, before the memory is taken."""

import os

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from klais.kafka import codecs
from klais.kafka.codecs import LIMIT_BYTES, BatchTooLarge, limit_decompression
from klais.kafka.fetched_batches import CorruptRecords, batches_beyond, records_of
from tests.support.unreadable import huge_batch

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
WHERE = TopicPartition("raw", 0)
limit_decompression()


@pytest.mark.parametrize("codec", CODECS)
def test_what_fits_is_read_as_before(codec: str) -> None:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 30)
    values = [os.urandom(500_000) * 2, b"", bytes(LIMIT_BYTES - 2_000_000)]
    for n, value in enumerate(values):
        builder.append(n, 0, None, value, [])
    (batch,) = batches_beyond(WHERE, bytes(builder.build()), 0)
    assert [record.value for record in records_of(WHERE, batch)] == values


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_would_fill_the_memory_cannot_be_read(codec: str) -> None:
    data = huge_batch(CODECS[codec], 128 << 20)
    (batch,) = batches_beyond(WHERE, data, 0)
    with pytest.raises(CorruptRecords, match=str(LIMIT_BYTES)) as error:
        list(records_of(WHERE, batch))
    assert (error.value.start, error.value.next_offset) == (0, 1)
    assert codec == "snappy" or codecs._local.room is None, "its pages are given back"


@pytest.mark.parametrize("size", [-1, 0, 1 << 30])
def test_a_wrong_length_in_javas_snappy_framing(size: int) -> None:
    header = b"\x82SNAPPY\x00" + (1).to_bytes(4, "big") * 2
    with pytest.raises(BatchTooLarge):
        codecs._decode_snappy(header + size.to_bytes(4, "big", signed=True) + b"x" * 8)


def test_blocks_of_javas_snappy_framing_are_added_up() -> None:
    builder = DefaultRecordBatchBuilder(2, 2, 0, -1, -1, -1, 1 << 30)
    builder.append(0, 0, None, bytes(2 * LIMIT_BYTES), [])
    with pytest.raises(BatchTooLarge, match=str(LIMIT_BYTES)):
        list(DefaultRecordBatch(bytes(builder.build())))
