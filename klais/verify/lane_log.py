"""What a lane wrote to journal and changelog, read as its recovery reads it: copies from another KLAIS do not count."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from klais.core.devices.layout import Rows
from klais.core.lane.checkpoint import Marker
from klais.core.lane.journal import Kind, StepRecord
from klais.core.lane.journal_steps import JournalSteps
from klais.errors import JournalFormatError
from klais.kafka.marks import newest
from klais.kafka.reader import PartitionReader, RawRecord
from klais.kafka.topics import Topics
from klais.worker.changelog import OwnRecords, load_marker, load_partition
from klais.worker.recovery import is_known_record


async def lane_writer(reader: PartitionReader, topics: Topics, partition: int) -> int | None:
    """The producer id of a lane, None if its clean topic does not show it (new, or retention removed the marker).

    A fence leaves transaction markers there. Only Kafka writes those, so a program that copies records cannot.
    """

    def of_a_fence(record: RawRecord) -> int | None:
        return record.producer_id if record.control else None

    return await newest(reader, topics.telemetry, partition, of_a_fence, controls=True)


async def read_table(
    reader: PartitionReader, topic: str, partition: int, writer: int | None
) -> tuple[Rows, Marker | None]:
    """Rows (ROW [n]) and marker of a partition, read only from its changelog, like in a recovery."""
    rows, marker = await load_partition(reader, topic, partition, OwnRecords(writer))
    return rows, (await load_marker(reader, topic, partition, marker, OwnRecords(writer)))[0]


@dataclass(slots=True)
class JournalSummary:
    """Later contents of the journal: lost and doubled records counted by lanes, the last RESUMED step, and the ids that
    steps after the marker forget. Their rows may be in the table or not, because a checkpoint removes rows first.
    ``refused``: records (output, step, nth) that Kafka refused."""

    lost: int = 0
    doubled: int = 0
    last_resumed: int = 0
    forgotten: set[bytes] = field(default_factory=set)
    refused: set[tuple[str, int, int]] = field(default_factory=set)


async def scan_journal(
    reader: PartitionReader, topic: str, partition: int, marker_step: int, writer: int | None = None
) -> JournalSummary:
    """Read the whole journal once for facts that the replay needs in advance."""
    ahead = JournalSummary()
    async for record in journal_steps(reader, topic, partition, writer, marker_step):
        if record.resumed is not None and record.resumed.aside:  # these records are in no output and are not expected
            ahead.refused.update((one.output, one.step, one.nth) for one in record.resumed.aside)
        elif record.resumed is not None:
            ahead.lost += record.resumed.output_lost
            ahead.doubled += record.resumed.doubled
            ahead.last_resumed = record.step
        elif record.kind == Kind.FORGET and record.step > marker_step:
            ahead.forgotten.update(row.tobytes() for row in record.forgotten)
    return ahead


async def journal_steps(
    reader: PartitionReader, topic: str, partition: int, writer: int | None = None, marker_step: int = 0
) -> AsyncIterator[StepRecord]:
    """The steps of a journal from its start. ``marker_step``: the last one that the checkpoint covers.

    Raises
    ------
    JournalFormatError
        At the end, if steps follow a hole.
    """
    start, own = (await reader.offsets(topic, partition))[0], OwnRecords(writer)
    journal = JournalSteps(0, cut=start > 0)
    async for record in reader.read(topic, partition, start):
        if own.copied(record.producer_id, partial(is_known_record, record.value)):
            continue
        if (step := journal.take(record.value)) is not None:
            yield step
    journal.end()
    if journal.last_after_hole:
        first, last = journal.last + 1, journal.first_after_hole - 1
        why = f" ({journal.why})" if journal.why else ""
        if last <= marker_step:
            do = "the checkpoint covers them, so the lane goes on; nothing after them can be compared"
        else:
            do = "let a worker take over the lane, which counts doubled records"
        raise JournalFormatError(
            f"the journal lacks steps {first} to {last}{why}, steps up to {journal.last_after_hole} follow: {do}"
        )
