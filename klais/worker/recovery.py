"""Recovery of a lane: fence, rows and marker from the changelog, then the journal replayed as it was written down."""

import ctypes
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from klais import fault
from klais.core.lane.checkpoint import Marker, decode_marker, restore
from klais.core.lane.columns import read_headers
from klais.core.lane.journal import OWNER_KEY, Kind, StepRecord, decode_step, encode_owner, is_owner
from klais.core.lane.queue import FrameQueue
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import Step, replay
from klais.core.wire.batch import decode_batch
from klais.errors import JournalFormatError, OffsetGone, TopicMismatch
from klais.kafka.fenced import FencedSender, fence
from klais.kafka.reader import PartitionReader, last_own_position
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from klais.telemetry.log import get
from klais.worker.changelog import load_partition

if TYPE_CHECKING:
    from klais.worker.lane import Shared

log = get("klais.worker.recovery")


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
        rows, value = await load_partition(reader, topics.devices_changelog, partition)
        marker = decode_marker(value) if value else None
        state = restore(marker, rows)
        del rows
        give_memory_back()
    if marker is not None and marker.partitions != topics.partitions:
        raise TopicMismatch(
            f"lane {partition} was written with {marker.partitions} partitions, KLAIS_PARTITIONS is {topics.partitions}: "
            "devices would change lanes; set it back, or start with a new KLAIS_TOPIC_PREFIX"
        )
    try:
        await _refill_queue(state, marker, reader, topics.raw, partition)
        journal = await _read_journal(reader, topics.journal, partition, marker)
        await _check_kept(reader, topics.raw, partition, journal)
        expired = False
    except OffsetGone as gone:
        journal, expired = [], True
        await _give_up_expired(state, marker, reader, topics, partition, gone)
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
    if expired:  # new steps come after all that was ever put out
        state.step = max([state.step, *(step for step, _ in positions.values())])
        positions = {}
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


async def _read_journal(
    reader: PartitionReader, topic: str, partition: int, marker: Marker | None
) -> list[StepRecord]:
    """Journalled steps after the marker; OffsetGone when retention has removed some of them."""
    after = marker.step if marker else 0
    log_start, log_end = await reader.offsets(topic, partition)
    start = marker.journal_offset if marker else 0
    if start > log_end:
        raise JournalFormatError(f"{topic}/{partition} ends at {log_end}, before the checkpoint's {start}: was it recreated?")
    records: list[StepRecord] = []
    async for raw in reader.read(topic, partition, max(start, log_start)):
        if raw.value is None or is_owner(raw.value):
            continue
        record = decode_step(raw.value)
        if record.step > after:
            records.append(record)
    if records and records[0].step != after + 1:
        raise OffsetGone(f"{topic}/{partition}: step {after + 1} is gone, the oldest is {records[0].step}", log_start, log_end)
    return records


async def _check_kept(reader: PartitionReader, topic: str, partition: int, journal: list[StepRecord]) -> None:
    """OffsetGone when a raw record that the journal names has been removed."""
    needed = [record.raw_offset for record in journal if record.kind in (Kind.RAW, Kind.CORRUPT)]
    log_start, log_end = await reader.offsets(topic, partition)
    if needed and needed[0] < log_start:
        raise OffsetGone(f"{topic}/{partition} starts at {log_start}, the journal needs {needed[0]}", log_start, log_end)


async def _give_up_expired(
    state: LaneState, marker: Marker | None, reader: PartitionReader, topics: Topics, partition: int, gone: OffsetGone
) -> None:
    """Retention (24 h) removed what the lane needs to finish its last steps: go on without, counted and alarmed.

    The lane goes on at the first raw record that is left; live input shows what lies between as lost.
    """
    waiting = sum(len(index) for _, _, index in marker.ranges) if marker else 0
    state.queue = FrameQueue()
    state.tally[Tally.QUEUE_LOST] += np.uint64(waiting)
    start, end = await reader.offsets(topics.journal, partition)
    async for raw in reader.read(topics.journal, partition, start, end):
        if raw.value and not is_owner(raw.value):
            record = decode_step(raw.value)
            state.step = max(state.step, record.step)
            if record.kind != Kind.RELEASE:
                state.next_raw = max(state.next_raw, record.raw_offset + 1)
    log.error("records_expired", partition=partition, queued_frames_lost=waiting, next_raw=state.next_raw, why=str(gone))
