"""Recovery of a lane: fence, rows and marker from the table, then the journal replayed as it was written down."""

import ctypes
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klais import fault
from klais.errors import JournalFormatError, OffsetGone, TopicMismatch
from klais.kafka.fenced import FencedSender, fence
from klais.kafka.reader import PartitionReader, last_own_position
from klais.kafka.record_batch import RecordBatchWriter
from klais.lane.checkpoint import Marker, decode_marker, restore
from klais.lane.columns import read_headers
from klais.lane.journal import OWNER_KEY, Kind, StepRecord, decode_step, encode_owner, is_owner
from klais.lane.state import LaneState
from klais.lane.step import Step, replay
from klais.log import get
from klais.wire.batch import decode_batch

if TYPE_CHECKING:
    from agents.lane import Shared

log = get("agents.recovery")


@dataclass(slots=True)
class Senders:
    """One fenced sender for each topic that the lane is the one writer of."""

    journal: FencedSender
    telemetry: FencedSender
    anomalies: FencedSender
    dead_letter: FencedSender
    changelog: FencedSender


@dataclass(slots=True)
class Recovered:
    """A lane's state at its marker, its senders, and how far each output had got; ``replay`` brings it up to the journal."""

    shared: "Shared"
    partition: int
    reader: PartitionReader
    state: LaneState
    marker: Marker | None
    senders: Senders
    positions: dict[str, tuple[int, int]]
    floors: dict[str, int]
    journal: list[StepRecord]

    @property
    def epoch(self) -> int:
        """The producer epoch this owner writes with."""
        return self.senders.journal.identity.epoch

    async def replay(self) -> AsyncIterator[Step]:
        """Apply the journalled steps after the marker, in order; yields each with its outputs."""
        needed = [record.raw_offset for record in self.journal if record.kind in (Kind.RAW, Kind.CORRUPT)]
        if not needed:
            for journalled in self.journal:
                yield replay(self.state, journalled, None)
            return
        steps = iter(self.journal)
        record: StepRecord | None = next(steps, None)
        topic = self.shared.topics.raw
        async for raw in self.reader.read(topic, self.partition, needed[0], needed[-1] + 1):
            while record is not None and record.kind not in (Kind.RAW, Kind.CORRUPT):
                yield replay(self.state, record, None)
                record = next(steps, None)
            if record is not None and record.raw_offset == raw.offset:
                yield replay(self.state, record, raw.value or b"")
                record = next(steps, None)
        while record is not None:
            yield replay(self.state, record, None)
            record = next(steps, None)


async def recover(shared: "Shared", partition: int, reader: PartitionReader) -> Recovered:
    """Take the lane over and read what is needed to go on.

    Raises
    ------
    klais.errors.KlaisError
        Of the fence, of the reader, of the formats; TopicMismatch when the partition count has changed.
    """
    began = time.monotonic()
    topics = shared.topics
    outputs = {"telemetry": topics.telemetry, "anomalies": topics.anomalies, "dead_letter": topics.dead_letter}
    transactional_id = f"{topics.app_id}-lane-{partition}"
    identity = await fence(shared.settings, transactional_id, [(topic, partition) for topic in outputs.values()])
    fault.at("lane_fenced")
    senders = Senders(
        FencedSender(shared.journal_producer, identity, topics.journal, partition),
        FencedSender(shared.output_producer, identity, topics.telemetry, partition),
        FencedSender(shared.output_producer, identity, topics.anomalies, partition),
        FencedSender(shared.output_producer, identity, topics.dead_letter, partition),
        FencedSender(shared.changelog_producer, identity, topics.devices_changelog, partition),
    )
    await _write_owner(senders, shared.worker_id, partition)
    async with shared.loading:  # one lane at a time, so that the copies made on the way do not add up
        await shared.table.load(reader, topics.devices_changelog, partition)
        value = shared.table.marker(partition)
        marker = decode_marker(value) if value else None
        state = restore(marker, shared.table.rows(partition))
        give_memory_back()
    if marker is not None and marker.partitions != topics.partitions:
        raise TopicMismatch(
            f"lane {partition} was written with {marker.partitions} partitions, KLAIS_PARTITIONS is {topics.partitions}: "
            "devices would change lanes; set it back, or start with a new KLAIS_TOPIC_PREFIX"
        )
    await _refill_queue(state, marker, reader, topics.raw, partition)
    journal = await _read_journal(reader, topics.journal, partition, marker)
    await _check_raw(reader, topics.raw, partition, max([state.next_raw, *(r.raw_offset + 1 for r in journal)]))
    positions, floors = {}, {}
    for name, topic in outputs.items():
        floors[name] = marker.outputs.get(name, 0) if marker else 0
        # the last record of each of our batches carries the mark: one before the floor shows how far that batch got
        position = await last_own_position(reader, topic, partition, max(0, floors[name] - 1))
        if position is not None:
            positions[name] = position
        else:  # nothing of ours there: no need to look below here again
            floors[name] = (await reader.offsets(topic, partition))[1]
    seconds = round(time.monotonic() - began, 3)
    log.info("lane_recovered", partition=partition, devices=state.used, steps=len(journal), seconds=seconds)
    return Recovered(shared, partition, reader, state, marker, senders, positions, floors, journal)


def give_memory_back() -> None:
    """Return freed heap pages to the system (glibc keeps what lies between live objects): 300 MB at a million devices."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _check_raw(reader: PartitionReader, topic: str, partition: int, next_raw: int) -> None:
    """The staging topic must still be the one that was read: a new one would look as if all of it had been taken."""
    _, end = await reader.offsets(topic, partition)
    if end < next_raw:
        raise JournalFormatError(
            f"{topic}/{partition} ends at {end}, this lane has already taken up to {next_raw}: the topic was recreated; "
            "recreate the journal and the devices changelog too, or start with a new KLAIS_TOPIC_PREFIX"
        )


async def _write_owner(senders: Senders, worker_id: str, partition: int) -> None:
    """Write the owner record into journal and changelog: from now on the broker refuses older epochs there too."""
    now_ms = time.time_ns() // 1_000_000
    for sender, key in ((senders.journal, None), (senders.changelog, OWNER_KEY + b"-%d" % partition)):
        writer = RecordBatchWriter(limit_bytes=65_536)
        writer.append_one(key, encode_owner(worker_id, sender.identity.epoch, now_ms), (), now_ms)
        await sender.send(writer)


async def _refill_queue(state: LaneState, marker: Marker | None, reader: PartitionReader, topic: str, partition: int) -> None:
    """Read the frames that waited at the marker from the staging topic, where they still are."""
    if marker is None or not marker.ranges:
        return
    waiting = {raw_offset: (count, index) for raw_offset, count, index in marker.ranges}
    async for raw in reader.read(topic, partition, min(waiting), max(waiting) + 1):
        if raw.offset not in waiting:
            continue
        count, index = waiting.pop(raw.offset)
        columns = read_headers(decode_batch(raw.value or b""))
        if columns.count != count:
            raise JournalFormatError(f"checkpoint names {count} frames at raw offset {raw.offset}, it has {columns.count}")
        state.queue.push(raw.offset, columns, index)
    if waiting:
        raise JournalFormatError(f"{len(waiting)} raw records with queued frames are gone from {topic}/{partition}")


async def _read_journal(reader: PartitionReader, topic: str, partition: int, marker: Marker | None) -> list[StepRecord]:
    """Journalled steps after the marker."""
    after = marker.step if marker else 0
    start = marker.journal_offset if marker else (await reader.offsets(topic, partition))[0]
    records: list[StepRecord] = []
    try:
        async for raw in reader.read(topic, partition, start):
            if raw.value is None or is_owner(raw.value):
                continue
            record = decode_step(raw.value)
            if record.step > after:
                records.append(record)
    except OffsetGone as gone:
        if gone.log_start < start:
            why = f"the journal ends at {gone.log_end}, before the checkpoint's {start}: was it recreated?"
            raise JournalFormatError(why) from gone
        log.warning("journal_expired", partition=partition, wanted=start, have=gone.log_start)
        return await _read_from(reader, topic, partition, gone.log_start, after)
    return records


async def _read_from(reader: PartitionReader, topic: str, partition: int, start: int, after: int) -> list[StepRecord]:
    values = [raw.value async for raw in reader.read(topic, partition, start) if raw.value and not is_owner(raw.value)]
    return [record for record in map(decode_step, values) if record.step > after]
