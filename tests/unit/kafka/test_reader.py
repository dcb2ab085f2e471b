"""What the reader of a partition makes of the bytes of one answer."""

import pytest
from aiokafka.structs import TopicPartition

from klais.kafka.fetched_batches import CorruptRecords, batches_beyond, records_of
from klais.kafka.record_batch import RecordBatchWriter
from tests.support.unreadable import unreadable_batch

WHERE = TopicPartition("klais_raw", 0)


def batch(offset: int, damaged: bool = False) -> bytes:
    """One record of 100 bytes as a record batch at an offset; its last byte another one if ``damaged``."""
    writer = RecordBatchWriter()
    writer.append_one(None, b"x" * 100)
    data = writer.close(1, 0, 0).data
    return offset.to_bytes(8, "big") + data[8:-1] + bytes([data[-1] ^ damaged])


def test_batches_up_to_a_damaged_one_are_read() -> None:
    content = batch(0) + batch(1) + batch(2, damaged=True) + batch(3)
    assert [one.base_offset for one in batches_beyond(WHERE, content, 0)] == [0, 1]
    assert [one.base_offset for one in batches_beyond(WHERE, content, 1)] == [1]
    assert [one.base_offset for one in batches_beyond(WHERE, batch(0, damaged=True) + batch(1), 1)] == [1]
    assert [one.base_offset for one in batches_beyond(WHERE, batch(1) + bytes(8) + b"\0\0\0\2xx", 1)] == [1]


@pytest.mark.parametrize(
    ("content", "position", "following"),
    [
        (batch(2, damaged=True) + batch(9), 2, 9),
        (batch(2, damaged=True) + batch(9), 5, 9),
        (batch(2, damaged=True), 2, 3),
        (batch(2, damaged=True), 4, 5),
        (batch(1) + batch(2, damaged=True) + batch(4), 2, 4),
    ],
)
def test_a_damaged_batch_says_where_to_go_on(content: bytes, position: int, following: int) -> None:
    with pytest.raises(CorruptRecords, match=r"klais_raw/0 at offset \d: wrong CRC") as raised:
        batches_beyond(WHERE, content, position)
    assert (raised.value.start, raised.value.next_offset) == (position, following)


def test_records_up_to_one_that_the_client_cannot_read() -> None:
    data = unreadable_batch().data
    (found,) = batches_beyond(WHERE, (7).to_bytes(8, "big") + data[8:], 0)
    records = records_of(WHERE, found)
    assert next(records).value == b"first"
    with pytest.raises(CorruptRecords, match="at offset 8: cannot be read: UnicodeDecodeError") as raised:
        next(records)
    assert (raised.value.start, raised.value.next_offset) == (8, 10)
