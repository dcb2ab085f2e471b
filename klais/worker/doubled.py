"""Counts records that the clean topic will hold twice, because the journal lost the steps that wrote them."""

import re

from klais.core.lane.columns import Columns, read_headers
from klais.core.wire.batch import decode_batch
from klais.errors import BatchFormatError
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import read_mark
from klais.kafka.topics import Topics

# Python refuses to convert very long numbers, which other programs may write; ours have at most 19 digits.
_HEAD = re.compile(rb'\{"device_id":"(?:[^"\\]|\\.)*","seq":(\d{1,19}),"ts":(\d{1,19}),')
Frame = tuple[bytes | None, int, int]  # device, sequence number, time of receipt in ms


async def count_doubled(
    reader: PartitionReader, topics: Topics, partition: int, lineage: int, floor: int, last_step: int, next_raw: int
) -> tuple[int, list[Frame]]:
    """Count records written by steps after ``last_step`` whose raw records the lane takes again from ``next_raw`` on.

    Returns
    -------
    int
        The number of such records.
    list of Frame
        Other records of those steps. They are written again if their frames still wait, see :func:`count_waiting`.

    Notes
    -----
    ``floor`` is the offset of the clean topic at which the search starts. If ``klais_raw`` lost its tail as well, some
    of those raw records are gone, and their output exists only once.
    """
    published, end_raw = await _published_frames(reader, topics.telemetry, partition, lineage, floor, last_step)
    if not published:
        return 0, []
    start, end = await reader.offsets(topics.raw, partition)
    again: set[Frame] = set()
    async for record in reader.read(topics.raw, partition, min(max(start, next_raw), end), min(end, end_raw)):
        try:
            columns = read_headers(decode_batch(record.value or b""))
        except BatchFormatError:
            continue
        numbers = zip(columns.sequence.tolist(), columns.ts_ms.tolist(), strict=True)
        again.update((columns.device_id(i), *number) for i, number in enumerate(numbers))
    rest = [frame for frame in published if frame not in again]
    return len(published) - len(rest), rest


def count_waiting(published: list[Frame], waiting: Columns) -> int:
    """Count the records whose frames wait in the queue: the step that released them is missing."""
    if not published:
        return 0
    numbers = zip(waiting.sequence.tolist(), waiting.ts_ms.tolist(), strict=True)
    again = {(waiting.device_id(i), *number) for i, number in enumerate(numbers)}
    return sum(frame in again for frame in published)


async def _published_frames(
    reader: PartitionReader, topic: str, partition: int, lineage: int, floor: int, last_step: int
) -> tuple[list[Frame], int]:
    """Frames written by steps after ``last_step``, and the raw offset after the newest of these steps."""
    found: list[Frame] = []
    batch: list[Frame] = []  # the mark is on the last record of each batch
    end_raw = 0
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, max(start, floor)):
        head = _HEAD.match(record.value or b"")
        batch.append((record.key, int(head[1]), int(head[2])) if head else (None, 0, 0))
        mark = read_mark(record.headers)
        if mark is not None:
            if mark.lineage == lineage and mark.step > last_step:
                found += batch
                end_raw = max(end_raw, mark.next_raw)
            batch = []
    return found, end_raw
