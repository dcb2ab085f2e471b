"""Finds the raw records between two times, and their steps in the journal."""

from collections.abc import Sequence

from klais.config.load import Settings
from klais.core.lane.journal import StepRecord
from klais.errors import OffsetGone, TopicMismatch
from klais.kafka.offsets import begin_offsets, end_offsets, offsets_at
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system.moments import Moment
from klais.text import iso_seconds
from klais.verify.lane_log import lane_writer
from klais.verify.whatif import RAW_KINDS, Stretch, step_of

WINDOW = 256  # records of the journal read by one probe


async def find_stretches(
    settings: Settings, partitions: Sequence[int], begin: Moment, end: Moment, warm_s: float
) -> tuple[list[Stretch], list[str]]:
    """The offset range of each partition with records between two times, and notices.

    Raises
    ------
    klais.errors.OffsetGone
        If an offset is outside of the topic; the message says what to do.
    klais.errors.TopicMismatch
        If no partition has such a record, or the partition does not exist.
    klais.errors.KafkaUnavailable
        If no broker responds.
    """
    topics = Topics.of(settings)
    lows, highs = begin_offsets(settings, topics.raw), end_offsets(settings, topics.raw)
    for partition in partitions:
        if partition not in lows:
            raise TopicMismatch(f"there is no {topics.raw}/{partition}; partitions known: {sorted(lows)}")
    starts = _places(settings, topics.raw, begin, lows)
    ends = _places(settings, topics.raw, end, highs)
    warm = {}
    if warm_s and begin.ms is not None:
        warm = offsets_at(settings, topics.raw, round(begin.ms - warm_s * 1000))
    notices: list[str] = []
    out = []
    async with PartitionReader(settings) as reader:
        for partition in partitions:
            low, high, start, stop = lows[partition], highs[partition], starts[partition], ends[partition]
            if not low <= start <= high:
                why = ": retention has removed it" if start < low else ""
                do = f"begin with --from @{low}"
                text = f"{topics.raw}/{partition} holds offsets {low} to {high}, not {start}{why}; {do}"
                raise OffsetGone(text, low, high)
            if low and start == low and begin.ms is not None:
                since = iso_seconds(begin.ms)
                notices.append(
                    f"{topics.raw}/{partition} begins at @{low}: retention may have removed records after {since}"
                )
            if low and warm.get(partition) == low and start > low:
                notices.append(
                    f"{topics.raw}/{partition} begins at @{low}: --warm may begin later than {warm_s:g} s before --from"
                )
            if start < min(stop, high):
                first = max(low, min(start, warm.get(partition, start)))
                writer = await lane_writer(reader, topics, partition)
                journal = await find_step(reader, topics.journal, partition, first, writer)
                out.append(Stretch(partition, start, min(stop, high), first, journal))
    if not out:
        held = ", ".join(f"{p}: @{lows[p]} to @{highs[p]}" for p in partitions)
        raise TopicMismatch(
            f"{topics.raw} has no record between these times (it holds {held}): retention may have removed them"
        )
    return out, notices


def _places(settings: Settings, topic: str, moment: Moment, otherwise: dict[int, int]) -> dict[int, int]:
    if moment.offset is not None:
        return dict.fromkeys(otherwise, moment.offset)
    return otherwise if moment.ms is None else offsets_at(settings, topic, moment.ms)


async def find_step(
    reader: PartitionReader, topic: str, partition: int, raw_offset: int, writer: int | None = None
) -> int:
    """An offset of the journal shortly before the step that took ``raw_offset``, by binary search.

    ``writer``: producer id of the lane, whose steps count (None = unknown: all steps).
    """
    low, high = await reader.offsets(topic, partition)
    while high - low > WINDOW:
        middle = (low + high) // 2
        at, found = middle, None
        while found is None and at < high:
            found = await _first_taken(reader, topic, partition, at, min(high, at + WINDOW), writer)
            at += WINDOW
        if found is not None and found[1].raw_offset < raw_offset:
            low = found[0]
        else:
            high = middle
    return low


async def _first_taken(
    reader: PartitionReader, topic: str, partition: int, start: int, end: int, writer: int | None
) -> tuple[int, StepRecord] | None:
    async for record in reader.read(topic, partition, start, end):
        step = step_of(record.value) if writer in (None, record.producer_id) else None
        if step is not None and step.kind in RAW_KINDS:
            return record.offset, step
    return None
