"""Doubled records are counted whatever other programs wrote to the clean topic."""

from collections.abc import AsyncIterator
from typing import cast

from klais.config.load import Settings
from klais.kafka.reader import PartitionReader, RawRecord
from klais.kafka.record_batch import mark
from klais.kafka.topics import Topics
from klais.worker.doubled import count_doubled

TOPICS = Topics.of(Settings())
LONG = b"9" * 5000  # digits: Python's int() raises an error


class Reader:
    """A clean topic with one foreign record before one of the lane, and no raw records."""

    async def offsets(self, topic: str, _partition: int) -> tuple[int, int]:
        return 0, 2 if topic == TOPICS.telemetry else 0

    async def read(self, topic: str, *_: int) -> AsyncIterator[RawRecord]:
        if topic == TOPICS.telemetry:
            yield RawRecord(0, b"x", b'{"device_id":"x","seq":' + LONG + b',"ts":1,"data":1}', ())
            headers = (("klais", mark(5, 1, 9, lineage=7)),)
            yield RawRecord(1, b"d", b'{"device_id":"d","seq":3,"ts":4,"data":1}', headers)


async def test_a_foreign_record_with_a_huge_number_does_not_stop_a_recovery() -> None:
    found = await count_doubled(cast(PartitionReader, Reader()), TOPICS, 0, 7, 0, 4, 0)
    assert found == (0, [(None, 0, 0), (b"d", 3, 4)])
