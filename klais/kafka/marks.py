"""Searches the marks that lanes leave on the records of their outputs (:class:`klais.kafka.record_batch.Mark`)."""

from klais.kafka.offsets import tail_ranges
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import Mark, read_mark


async def last_own_mark(
    reader: PartitionReader, topic: str, partition: int, floor_offset: int = 0, lineage: int = 0
) -> Mark | None:
    """The last mark of this ``lineage`` at or after ``floor_offset``, or None.

    Reads backwards from the end in growing strides, skips control records and records without a mark, and reads each
    offset only once.
    """
    log_start, end = await reader.offsets(topic, partition)
    floor = max(floor_offset, log_start)
    for low, high in tail_ranges(floor, end):
        found = None
        async for record in reader.read(topic, partition, low, high):
            seen = read_mark(record.headers)
            found = seen if seen is not None and seen.lineage == lineage else found
        if found is not None:
            return found
    return None


async def newest_mark(
    reader: PartitionReader, topic: str, partition: int, floor_offset: int = 0
) -> tuple[Mark, int] | None:
    """The last mark at or after ``floor_offset``, of any lineage, and the producer id of its batch; or None."""
    log_start, end = await reader.offsets(topic, partition)
    for low, high in tail_ranges(max(floor_offset, log_start), end):
        found = None
        async for record in reader.read(topic, partition, low, high):
            seen = read_mark(record.headers)
            found = (seen, record.producer_id) if seen is not None else found
        if found is not None:
            return found
    return None


async def first_own_mark(
    reader: PartitionReader, topic: str, partition: int, start: int, end: int, lineage: int
) -> tuple[Mark, int] | None:
    """The first mark between two offsets and its offset; None where there is none, or another lineage wrote it."""
    async for record in reader.read(topic, partition, start, end):
        if (seen := read_mark(record.headers)) is not None:
            return (seen, record.offset) if seen.lineage == lineage else None
    return None
