"""What the reader of a partition makes of the bytes of one answer, and of metadata without its partition."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable, KlaisError, TopicMismatch
from klais.kafka import reader as module
from klais.kafka.fetched_batches import CorruptRecords, batches_beyond, records_of
from klais.kafka.reader import PartitionReader
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


class Client:
    """Its metadata lack the topic; ``answers``: whether a broker sent them."""

    def __init__(self, answers: bool, unauthorized: set[str]) -> None:
        self._answers = answers
        self.cluster: Any = SimpleNamespace(partitions_for_topic=lambda _: None, unauthorized_topics=unauthorized)

    def add_topic(self, topic: str) -> None: ...

    def force_metadata_update(self) -> "asyncio.Future[bool]":
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(self._answers)
        return done


@pytest.mark.parametrize(
    ("answers", "unauthorized", "error", "said"),
    [
        (True, set(), TopicMismatch, "there is no klais_raw/0"),
        (False, set(), KafkaUnavailable, "the partitions of klais_raw are unknown for 0.3 s"),
        (True, {"klais_raw"}, KafkaForbidden, "Kafka refuses access to klais_raw: `klais topics rights`"),
    ],
)
async def test_a_topic_is_missing_only_if_a_broker_says_so(
    monkeypatch: pytest.MonkeyPatch, answers: bool, unauthorized: set[str], error: type[KlaisError], said: str
) -> None:
    monkeypatch.setattr(module, "METADATA_GRACE_S", 0.0)
    reader = PartitionReader(Settings(), timeout_s=0.3)
    reader._client = Client(answers, unauthorized)  # type: ignore[assignment]
    with pytest.raises(error, match=said):
        await reader.end("klais_raw", 0)
