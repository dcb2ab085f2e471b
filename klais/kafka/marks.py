"""Searches the marks that lanes leave on the records of their outputs (:class:`klais.kafka.record_batch.Mark`)."""

from collections.abc import Callable
from typing import TypeVar

from klais.kafka.offsets import tail_ranges
from klais.kafka.reader import PartitionReader, RawRecord
from klais.kafka.record_batch import Mark, read_mark

T = TypeVar("T")


async def newest(
    reader: PartitionReader,
    topic: str,
    partition: int,
    of: Callable[[RawRecord], T | None],
    floor_offset: int = 0,
    controls: bool = False,
) -> T | None:
    """What ``of`` gives for the last record at or after ``floor_offset`` for which it gives something, or None.

    Reads backwards from the end in growing strides, and each offset only once. Skips control records unless
    ``controls``.
    """
    log_start, end = await reader.offsets(topic, partition)
    for low, high in tail_ranges(max(floor_offset, log_start), end):
        found = None
        async for record in reader.read(topic, partition, low, high, controls=controls):
            seen = of(record)
            found = found if seen is None else seen
        if found is not None:
            return found
    return None


async def last_own_mark(
    reader: PartitionReader, topic: str, partition: int, floor_offset: int = 0, lineage: int = 0
) -> Mark | None:
    """The last mark of this ``lineage`` at or after ``floor_offset``, or None."""

    def own(record: RawRecord) -> Mark | None:
        mark = read_mark(record.headers)
        return mark if mark is not None and mark.lineage == lineage else None

    return await newest(reader, topic, partition, own, floor_offset)


async def newest_mark(
    reader: PartitionReader, topic: str, partition: int, floor_offset: int = 0
) -> tuple[Mark, int] | None:
    """The last mark at or after ``floor_offset``, of any lineage, and the producer id of its batch; or None."""

    def any_lineage(record: RawRecord) -> tuple[Mark, int] | None:
        mark = read_mark(record.headers)
        return None if mark is None else (mark, record.producer_id)

    return await newest(reader, topic, partition, any_lineage, floor_offset)


async def first_own_mark(
    reader: PartitionReader, topic: str, partition: int, start: int, end: int, lineage: int
) -> tuple[Mark, int] | None:
    """The first mark between two offsets and its offset; None where there is none, or another lineage wrote it."""
    async for record in reader.read(topic, partition, start, end):
        if (seen := read_mark(record.headers)) is not None:
            return (seen, record.offset) if seen.lineage == lineage else None
    return None
