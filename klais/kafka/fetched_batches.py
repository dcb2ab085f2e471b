"""The record batches in the bytes of a fetch answer, with their CRC checked."""

from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from klais.kafka.buffered_records import damaged_span


class CorruptRecords(kafka_errors.CorruptRecordException):  # type: ignore[misc]
    """The next batch has a wrong CRC: ``start`` and ``next_offset`` are its :func:`damaged_span`."""

    def __init__(self, where: TopicPartition, start: int, next_offset: int) -> None:
        super().__init__(f"wrong CRC in {where.topic}/{where.partition} at offset {start}")
        self.start, self.next_offset = start, next_offset


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
