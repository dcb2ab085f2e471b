"""The record batches in the bytes of a fetch answer, with their CRC checked."""

from collections.abc import Iterator
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from klais.kafka.buffered_records import WRONG_CRC, GuardedBatch, damaged_span


class CorruptRecords(kafka_errors.CorruptRecordException):  # type: ignore[misc]
    """The next records cannot be read: from offset ``start`` up to, not including, ``next_offset``.

    They have a wrong CRC (then these are the :func:`damaged_span`), or contents that aiokafka does not read.
    """

    def __init__(self, where: TopicPartition, start: int, next_offset: int, why: str = WRONG_CRC) -> None:
        super().__init__(f"{where.topic}/{where.partition} at offset {start}: {why}")
        self.start, self.next_offset, self.why = start, next_offset, why


def batches_beyond(where: TopicPartition, content: bytes, position: int) -> list[Any]:
    """The batches that extend beyond ``position``, up to the first with a wrong CRC.

    Raises
    ------
    CorruptRecords
        If that is the very first one.
    """
    found = _framed(content)
    wanted: list[Any] = []
    for at, batch in enumerate(found):
        if batch.validate_crc():
            if batch.next_offset > position:
                wanted.append(batch)
        elif span := damaged_span(found, at, position):
            if wanted:
                break
            raise CorruptRecords(where, *span)
    return wanted


def records_of(where: TopicPartition, batch: Any) -> Iterator[Any]:
    """The records of a batch with a valid CRC.

    Raises
    ------
    CorruptRecords
        If aiokafka cannot read the rest of them: brokers accept more than it does.
    """
    unreadable: list[tuple[int, int, str]] = []
    yield from GuardedBatch(batch, batch.base_offset, lambda *span: unreadable.append(span))
    for start, last, why in unreadable:
        raise CorruptRecords(where, start, last + 1, why)


def leader_epoch(content: bytes, base_offset: int) -> int:
    """Epoch of the leader that appended the batch with this base offset, in the bytes of an answer; -1 = not there."""
    at = 0
    while at + 16 <= len(content):
        if int.from_bytes(content[at : at + 8], "big") == base_offset:
            return int.from_bytes(content[at + 12 : at + 16], "big", signed=True)
        at += 12 + int.from_bytes(content[at + 8 : at + 12], "big")
    return -1


def _framed(content: bytes) -> list[Any]:
    """The batches of an answer, split by their length fields, up to bytes that are not a batch."""
    records, out = MemoryRecords(content), []
    try:
        while (batch := records.next_batch()) is not None:
            out.append(batch)
    except kafka_errors.CorruptRecordException:
        if not out:
            raise
    return out
