"""Records of other programs on the output topics are differences, never an error of the audit."""

from collections.abc import AsyncIterator
from typing import cast

from klais.kafka.reader import PartitionReader, RawRecord
from klais.verify.audit import _clean, _dead_letters

LONG = b"9" * 5000  # digits: Python's int() raises an error


class Reader:
    def __init__(self, *records: RawRecord) -> None:
        self._records = records

    async def offsets(self, _topic: str, _partition: int) -> tuple[int, int]:
        return 0, len(self._records)

    async def read(self, _topic: str, *_: int) -> AsyncIterator[RawRecord]:
        for record in self._records:
            yield record


async def test_a_clean_record_with_a_huge_number() -> None:
    value = b'{"device_id":"x","seq":1,"ts":' + LONG + b',"data":1}'
    ours = b'{"device_id":"d","seq":3,"ts":4,"data":1}'
    reader = Reader(RawRecord(0, b"x", value, ()), RawRecord(1, b"d", ours, ()))
    found = [one async for one in _clean(cast(PartitionReader, reader), "t", 0)]
    assert found == [(("not a clean record", value), None), ((b"d", 3, 4, b"1"), None)]


async def test_a_dead_letter_without_a_reason() -> None:
    reader = Reader(RawRecord(0, None, b"x", (("stage", b"lane"),)))
    assert [one async for one in _dead_letters(cast(PartitionReader, reader), "t", 0)] == [((None, b"x"), None)]
