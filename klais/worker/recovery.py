"""Recovery of a lane: fence, then read rows, marker, journal and output positions, and judge them.

Nothing here decides about frames. :mod:`klais.worker.replay` brings the state up to the journal afterwards.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from klais import fault
from klais.core.lane.checkpoint import Marker, restore
from klais.core.lane.journal import OWNER_KEY, Kind, StepRecord, decode_step, encode_owner, is_owner
from klais.core.lane.journal_steps import JournalSteps
from klais.core.lane.state import LaneState
from klais.core.wire.constants import Reason
from klais.errors import JournalFormatError, TopicMismatch
from klais.kafka.fenced import FencedSender, fence
from klais.kafka.marks import first_own_mark, last_own_mark, newest_mark
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from klais.system.memory import trim_heap
from klais.telemetry.log import get
from klais.worker.changelog import OwnRecords, load_marker, load_partition
from klais.worker.context import LaneContext
from klais.worker.doubled import Frame, count_doubled
from klais.worker.invariant import OutputSeen, RecoveryInputs, RecoveryPlan, Violation, judge
from klais.worker.progress import Progress
from klais.worker.raw_landmarks import compare_landmarks
from klais.worker.session import RecoveredState, Senders

log = get("klais.worker.recovery")

# A new partition leader may report a lower end offset for a moment, until its followers have fetched from it.
NEW_LEADER_S = 5.0
FIRST_MARK_RECORDS = 50_000  # more than a batch of the clean topic holds: among them is a mark, or they are not ours
MAX_COUNTED = 2_000_000  # offsets of the clean topic whose records are compared, to count doubled ones
CONTROL_RECORDS = 2  # that a fence leaves in an output
# Violations that lose nothing and need no action.
WITHOUT_LOSS = (Violation.OUTPUT_RECREATED, Violation.JOURNAL_CUT)


@dataclass(frozen=True, slots=True)
class JournalSeen:
    """Steps after the marker, in log order; ``lineage`` as in the newest owner record, 0 = none.

    ``last_after_hole``: the highest step after a gap (:mod:`klais.core.lane.journal_steps`), 0 = none.
    """

    steps: list[StepRecord]
    end: int
    lineage: int
    last_after_hole: int


async def recover(
    context: LaneContext, partition: int, reader: PartitionReader, progress: Progress, unusable: int | None = None
) -> RecoveredState:
    """Take the lane over and read the state that it needs to continue. ``unusable``: a step that cannot be replayed.

    Raises
    ------
    klais.errors.KlaisError
        If the fence, a read or a format check fails; TopicMismatch if the partition count has changed.
    """
    began, topics = time.monotonic(), context.topics
    outputs = {"telemetry": topics.telemetry, "anomalies": topics.anomalies, "dead_letter": topics.dead_letter}
    # Before the fence, because its control records would hide that an output lost its tail.
    bounds = {name: await reader.offsets(topic, partition) for name, topic in outputs.items()}
    senders = await _take_over(context, partition, list(outputs.values()))
    progress.begin("turn")
    async with context.loading:
        producer_id, changelog = senders.journal.identity.producer_id, topics.devices_changelog
        rows, value = await load_partition(reader, changelog, partition, OwnRecords(producer_id), progress)
        marker, why = await load_marker(reader, changelog, partition, value, OwnRecords(producer_id))
        newest_stamp = int(rows["stamp"].max()) if len(rows) else 0
        state = restore(marker, rows, context.settings.frame_hash_key, context.new_detector())
        del rows
        trim_heap()
    if marker is not None and marker.partitions != topics.partitions:
        raise TopicMismatch(
            f"lane {partition} was written with {marker.partitions} partitions, KLAIS_PARTITIONS is "
            f"{topics.partitions}: devices would change lanes; set it back, or start with a new KLAIS_TOPIC_PREFIX"
        )
    journal = await read_journal(reader, topics.journal, partition, marker, OwnRecords(producer_id), progress, unusable)
    lineage = await _lineage(senders, context.worker_id, marker, journal, (reader, topics.telemetry, partition))
    floor, epoch = _floor(marker, journal.steps)
    where = (reader, topics.telemetry, partition, bounds["telemetry"], lineage)
    clean = await _inspect_new_topic(*where, floor, marker, journal)
    clean = clean or await _inspect_clean_topic(*where, (floor, epoch))
    seen_outputs = {"telemetry": clean}
    for name in ("anomalies", "dead_letter"):
        wanted = marker.outputs.get(name, 0) if marker else 0
        seen_outputs[name] = await _inspect_output(reader, outputs[name], partition, bounds[name], lineage, wanted)
    plan = judge(await _inputs(reader, topics, partition, state, newest_stamp, journal, seen_outputs, (marker, why)))
    doubled, sent = 0, list[Frame]()
    if plan.steps_missing and clean.mark is not None:
        last = journal.steps[-1].step if journal.steps else state.step
        next_raw = _next_raw(state, journal) if plan.rewind is None else min(plan.rewind, _next_raw(state, journal))
        begin = max(min(clean.floor, clean.end), clean.end - MAX_COUNTED)
        doubled, sent = await count_doubled(reader, topics, partition, lineage, begin, last, next_raw)
    _report(partition, plan)
    seconds = round(time.monotonic() - began, 3)
    log.info("lane_recovered", partition=partition, devices=state.devices, steps=len(journal.steps), seconds=seconds)
    positions = {name: seen.mark for name, seen in seen_outputs.items() if seen.mark is not None}
    # If no own record is found, later recoveries need not search below the present end.
    floors = {name: min(seen.floor, seen.end) if seen.mark else seen.end for name, seen in seen_outputs.items()}
    # An offset in a journal that was cut or recreated is meaningless: search from its start until the next checkpoint.
    journal_floor = marker.journal_offset if marker and marker.journal_offset <= journal.end else 0
    epoch = epoch if floors["telemetry"] == floor else -1
    if epoch < 0 < floors["telemetry"]:
        epoch = await reader.epoch_at(topics.telemetry, partition, floors["telemetry"] - 1)
    return RecoveredState(
        state, marker, senders, positions, floors, journal.steps, journal_floor, lineage, plan, doubled, epoch, sent
    )


def _floor(marker: Marker | None, steps: list[StepRecord]) -> tuple[int, int]:
    """Offset up to which the clean topic must hold its records, and the producer epoch before it (-1 = unknown).

    A session that ended before its first checkpoint may have found less than the checkpoint names, and has counted the
    difference. Only records that the topic has lost since then are missing.
    """
    floor, epoch = (marker.outputs.get("telemetry", 0), marker.telemetry_epoch) if marker else (0, -1)
    for step in steps:
        if step.resumed is not None and 0 <= step.resumed.floor < floor:
            floor, epoch = step.resumed.floor, step.resumed.floor_epoch
    return floor, epoch


async def _inspect_output(
    reader: PartitionReader, topic: str, partition: int, bounds: tuple[int, int], lineage: int, floor: int
) -> OutputSeen:
    """Find the newest mark of one output; ``bounds`` are its first and end offset before our fence."""
    start, end = bounds[0], await _settled_end(reader, topic, partition, bounds[1], floor)
    # The mark is on the last record of each batch: one before the floor shows how far the batch there got.
    mark = await last_own_mark(reader, topic, partition, max(0, floor - 1) if end >= floor else 0, lineage)
    return OutputSeen(floor, start, end, mark)


async def _inspect_new_topic(
    reader: PartitionReader,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    lineage: int,
    floor: int,
    marker: Marker | None,
    journal: JournalSeen,
) -> OutputSeen | None:
    """As :func:`_inspect_output`, where the clean topic was deleted, created again, and written to; else None.

    Below the floor lie records of steps that the marker covers. In a new topic a later step's lie there.
    """
    start, end = bounds
    if marker is None or start >= min(floor, end):
        return None
    first = await first_own_mark(reader, topic, partition, start, min(floor, end, start + FIRST_MARK_RECORDS), lineage)
    if first is None or first[0].step <= marker.step:
        return None
    mark, offset = first
    before = sum(passed_by(step) for step in journal.steps if step.step < mark.step)
    missed = max(0, before + mark.done - (offset + 1 - start))
    return OutputSeen(floor, start, end, await last_own_mark(reader, topic, partition, start, lineage), missed=missed)


async def _inspect_clean_topic(
    reader: PartitionReader,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    lineage: int,
    known: tuple[int, int],
) -> OutputSeen:
    """As :func:`_inspect_output`, for the topic whose losses are counted; ``known`` is the result of :func:`_floor`."""
    floor, epoch = known
    start, end = bounds[0], await _settled_end(reader, topic, partition, bounds[1], floor)
    kept = await _end_of_epoch(reader, topic, partition, (start, min(floor, end)), epoch) if epoch >= 0 else None
    end = end if kept is None else min(end, kept)
    begin, controls = max(0, min(floor, end) - 1), 0
    if end < floor:
        # It was cut: the newest mark may be anywhere, with control records after it.
        begin, controls = 0, await _count_control_records(reader, topic, partition, end, epoch)
    mark = await last_own_mark(reader, topic, partition, begin, lineage)
    return OutputSeen(floor, start, end, mark, controls)


async def _settled_end(reader: PartitionReader, topic: str, partition: int, end: int, floor: int) -> int:
    """The end offset before our fence, requested again if it may come from a new partition leader."""
    if (
        0 < end < floor
        and await _await_end(reader, topic, partition, floor + CONTROL_RECORDS) >= floor + CONTROL_RECORDS
    ):
        return floor
    return end


async def _end_of_epoch(
    reader: PartitionReader, topic: str, partition: int, bounds: tuple[int, int], epoch: int
) -> int | None:
    """End offset of records of epochs up to ``epoch`` between two offsets; None if there is no newer record.

    A clean topic that lost its tail grows again with each fence, including fences of sessions that ended before they
    could count the loss. So its end offset alone can hide a small loss.
    """
    low, high = bounds
    if low >= high or await reader.epoch_at(topic, partition, high - 1) <= epoch:
        return None
    while low < high:
        middle = (low + high) // 2
        if await reader.epoch_at(topic, partition, middle) <= epoch:
            low = middle + 1
        else:
            high = middle
    return low


async def _count_control_records(reader: PartitionReader, topic: str, partition: int, end: int, newest: int) -> int:
    """Count control records of epochs up to ``newest`` that were between the end of a cut clean topic and the floor."""
    if newest < 0 or end <= 0:
        return 0
    epoch = await reader.epoch_at(topic, partition, end - 1)
    return CONTROL_RECORDS * (newest - epoch) if 0 <= epoch < newest else 0


async def _take_over(context: LaneContext, partition: int, outputs: list[str]) -> Senders:
    """Take a new producer epoch in all topics of the lane, so that brokers refuse later writes of previous owners."""
    topics = context.topics
    transactional_id = f"{topics.app_id}-lane-{partition}"
    identity = await fence(context.settings, transactional_id, [(topic, partition) for topic in outputs])
    fault.at("lane_fenced")
    senders = Senders(
        FencedSender(context.journal_producer, identity, topics.journal, partition),
        FencedSender(context.output_producer, identity, topics.telemetry, partition),
        FencedSender(context.output_producer, identity, topics.anomalies, partition),
        FencedSender(context.output_producer, identity, topics.dead_letter, partition),
        FencedSender(context.changelog_producer, identity, topics.devices_changelog, partition),
        FencedSender(context.changelog_producer, identity, topics.profiles_changelog, partition),
    )
    # Journal and changelogs are fenced by a record, not by a transaction marker: their readers know owner records.
    await _write_owner(senders.journal, None, context.worker_id)
    await _write_owner(senders.changelog, OWNER_KEY + b"-%d" % partition, context.worker_id)
    await _write_owner(senders.profiles, OWNER_KEY + b"-%d" % partition, context.worker_id)
    return senders


async def _write_owner(sender: FencedSender, key: bytes | None, worker_id: str, lineage: int = 0) -> None:
    now_ms = time.time_ns() // 1_000_000
    writer = RecordBatchWriter(limit_bytes=65_536)
    writer.append_one(key, encode_owner(worker_id, sender.identity.epoch, now_ms, lineage), (), now_ms)
    await sender.send(writer)


async def _lineage(
    senders: Senders,
    worker_id: str,
    marker: Marker | None,
    journal: JournalSeen,
    clean: tuple[PartitionReader, str, int],
) -> int:
    """The lane's lineage. A new lane draws one and writes it before its first output.

    If neither the checkpoint nor the journal has one, both may have been recreated: then it is that of the newest mark
    on the clean topic, if a previous owner of this lane wrote it. Brokers keep the producer id of the owners.
    """
    known = (marker.facts["lineage"] if marker else 0) or journal.lineage
    if known:
        return int(known)
    reader, topic, partition = clean
    newest = await newest_mark(reader, topic, partition)
    adopted = newest is not None and newest[1] == senders.journal.identity.producer_id and newest[0].lineage
    lineage = adopted or secrets.randbelow(2**32 - 1) + 1
    await _write_owner(senders.journal, None, worker_id, lineage)
    return lineage


async def read_journal(
    reader: PartitionReader,
    topic: str,
    partition: int,
    marker: Marker | None,
    own: OwnRecords,
    progress: Progress | None = None,
    unusable: int | None = None,
) -> JournalSeen:
    """Read the journalled steps after the marker, up to the first gap, without those of another system."""
    after, start = (marker.step, marker.journal_offset) if marker else (0, 0)
    log_start, log_end = await reader.offsets(topic, partition)
    begin = max(start, log_start) if start <= log_end else log_start  # cut or recreated: read all that it holds
    found, steps = JournalSteps(after, begin != start, unusable), list[StepRecord]()
    progress = progress or Progress()
    progress.begin("journal", begin, log_end)
    async for raw in reader.read(topic, partition, max(begin - 1, log_start)):  # the one before shows who wrote there
        progress.at = raw.offset
        if own.copied(raw.producer_id, partial(is_known_record, raw.value)) or raw.offset < begin:
            continue
        if (step := found.take(raw.value)) is not None:
            steps.append(step)
    found.end()
    own.report(topic, partition)
    if found.unreadable:
        say = log.error if found.last_after_hole else log.warning
        say("unreadable_records", topic=topic, partition=partition, records=found.unreadable, why=found.why)
    return JournalSeen(steps, log_end, found.lineage, found.last_after_hole)


async def _inputs(
    reader: PartitionReader,
    topics: Topics,
    partition: int,
    state: LaneState,
    newest_stamp: int,
    journal: JournalSeen,
    outputs: dict[str, OutputSeen],
    read: tuple[Marker | None, str],
) -> RecoveryInputs:
    marker, why = read
    next_raw = _next_raw(state, journal)
    raw_start, _ = await reader.offsets(topics.raw, partition)
    raw_end = await _await_end(reader, topics.raw, partition, next_raw)
    landmarks = await compare_landmarks(reader, topics.raw, partition, state, (raw_start, raw_end))
    return RecoveryInputs(
        last_step=journal.steps[-1].step if journal.steps else state.step,
        next_raw=next_raw,
        newest_stamp=newest_stamp,
        last_after_hole=journal.last_after_hole,
        unreadable_marker=why,
        rows_missing=_rows_missing(marker, state.devices, journal),
        journal_passed=sum(passed_by(record) for record in journal.steps),
        marker_journal=marker.journal_offset if marker else 0,
        journal_end=journal.end,
        raw_start=raw_start,
        raw_end=raw_end,
        landmarks=landmarks,
        outputs=outputs,
    )


def _rows_missing(marker: Marker | None, devices: int, journal: JournalSeen) -> int:
    """Least number of devices that the marker counts and the changelog lacks; an unfinished checkpoint removes some."""
    removed = sum(len(record.forgotten) for record in journal.steps if record.kind == Kind.FORGET)
    return int(marker.facts["devices"]) - devices - removed if marker else 0


def is_known_record(value: bytes | None) -> bool:
    """Whether a journal record is a step or an owner record of this version."""
    try:
        return is_owner(value or b"") or decode_step(value or b"") is not None
    except JournalFormatError:
        return False


def _next_raw(state: LaneState, journal: JournalSeen) -> int:
    """The next raw offset to take, as of marker and journal."""
    return max([state.next_raw, *(record.raw_offset + 1 for record in journal.steps)])


async def _await_end(reader: PartitionReader, topic: str, partition: int, expected: int) -> int:
    """End offset of a partition, requested again for a while if it is below ``expected``."""
    until_s = time.monotonic() + NEW_LEADER_S
    while (end := await reader.end(topic, partition)) < expected and time.monotonic() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return end


def passed_by(record: StepRecord) -> int:
    """Number of frames that a journalled step sent to the clean topic."""
    if record.kind == Kind.RELEASE:
        return record.count
    return int(np.count_nonzero(record.verdict == Reason.PASSED)) if record.kind == Kind.RAW else 0


def _report(partition: int, plan: RecoveryPlan) -> None:
    for finding in plan.findings:
        say = log.warning if finding.violation in WITHOUT_LOSS else log.error
        what = {"violation": finding.violation.value, "lost": finding.lost, "doubled": finding.doubled}
        say("lane_inconsistent", partition=partition, **what, why=finding.text)
