"""Audit of a lane: replays its journal from step 0 and compares the result with the output topics and the table.

The steps must cover every record of ``klais_raw`` once. If Kafka lost records and the lane has counted them (RESUMED
steps), exactly that number of records must be missing or doubled.
"""

import itertools
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.core.devices.layout import ROW, Rows
from klais.core.incidents.incident import INCIDENT_HEADER
from klais.core.lane.checkpoint import Marker
from klais.core.lane.journal import GONE, NEEDS_RAW, Kind, Resumed, StepRecord, fingerprint
from klais.core.lane.queue import FrameQueue
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.replay import replay, replay_unread
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import Step
from klais.core.wire.constants import VERDICTS, Reason
from klais.errors import JournalFormatError, OffsetGone
from klais.kafka.reader import PartitionReader, RawRecord
from klais.kafka.record_batch import read_mark
from klais.kafka.topics import Topics
from klais.verify.comparison import ANY, Comparison, Found
from klais.verify.lane_log import journal_steps, lane_writer, read_table, scan_journal
from klais.worker.invariant import Violation

CLEAN = re.compile(rb'^\{"device_id":"((?:[^"\\]|\\.)*)","seq":(\d{1,19}),"ts":(\d{1,19}),"data":(.*)\}$', re.DOTALL)
MAX_PROBLEMS = 20
# Counters that a step itself determines. The others need its raw record.
_EXACT_TALLIES = (
    *range(VERDICTS),
    Tally.RELEASED,
    Tally.LOST_RECORDS,
    Tally.QUEUE_LOST,
    Tally.OUTPUT_LOST,
    Tally.DOUBLED,
)


@dataclass(slots=True)
class LaneAudit:
    """Result of an audit; ``problems`` is empty if everything agrees.

    ``written``: records that the lane wrote to its journal meanwhile. Above 0, problems may be records that were read
    before the step that decided them. ``not_compared``: what the journal does not determine after a loss of Kafka.
    """

    partition: int
    steps: int = 0
    raw_end: int = 0
    next_raw: int = 0
    devices: int = 0
    marker_step: int = 0
    telemetry: int = 0
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    lost_records: int = 0
    dead_letters: int = 0
    anomalies: int = 0
    queued: int = 0
    written: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Add one difference."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    @property
    def settled(self) -> bool:
        """Whether the lane has read the whole staging topic and its queue is empty."""
        return self.next_raw == self.raw_end and not self.queued


async def audit_lane(
    settings: Settings,
    partition: int,
    archive: Mapping[int, bytes] | None = None,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> LaneAudit:
    """Replay the journal of one lane from step 0 and compare topics, table and counters with it.

    ``archive``: raw records (offset to value) saved before ``klais_raw`` lost its beginning. ``progress`` is called
    with each replayed step and the number of the journal's records.

    Raises
    ------
    klais.errors.KafkaUnavailable, klais.errors.TopicMismatch
        If reading fails.
    """
    audit = LaneAudit(partition)
    journal = Topics.of(settings).journal
    readers = [PartitionReader(settings) for _ in range(4)]
    try:
        for reader in readers:
            await reader.start()
        start, end = await readers[0].offsets(journal, partition)
        try:
            await _audit(settings, audit, readers, archive or {}, lambda step: progress(step, end - start))
        except (JournalFormatError, OffsetGone) as error:
            audit.problem(str(error))
        audit.written = max(0, await readers[0].end(journal, partition) - end)
    finally:
        for reader in readers:
            await reader.stop()
    return audit


async def _audit(
    settings: Settings,
    audit: LaneAudit,
    readers: Sequence[PartitionReader],
    archive: Mapping[int, bytes],
    progress: Callable[[int], None],
) -> None:
    topics, partition = Topics.of(settings), audit.partition
    writer = await lane_writer(readers[0], topics, partition)
    rows, marker = await read_table(readers[0], topics.devices_changelog, partition, writer)
    audit.raw_end = (await readers[0].offsets(topics.raw, partition))[1]
    ahead = await scan_journal(readers[0], topics.journal, partition, marker.step if marker else 0, writer)
    clean = Comparison(topics.telemetry, _clean(readers[1], topics.telemetry, partition), audit.problem, ahead.lost)
    dead = Comparison(topics.dead_letter, _dead_letters(readers[2], topics.dead_letter, partition), audit.problem)
    flags = Comparison(topics.anomalies, _flags(readers[3], topics.anomalies, partition), audit.problem)
    state = LaneState(hash_key=settings.frame_hash_key)
    unread, at_marker = Unread(audit, clean, ahead.last_resumed), False
    async for step in _replay_all(settings, writer, state, audit, unread, archive):
        progress(step.record.step)
        await unread.settle(step)
        number, place = step.record.step, itertools.count()
        for columns, index in step.passed:
            for i in index.tolist():
                if ("telemetry", number, next(place)) in ahead.refused:
                    continue
                sequence, ts_ms = int(columns.sequence[i]), int(columns.ts_ms[i])
                await clean.expect((columns.device_id(i), sequence, ts_ms, columns.payload(i)))
        if not ahead.last_resumed:
            await _expect_others(step, dead, flags, ahead.refused)
        if marker is not None and step.record.step == marker.step:
            _compare_table(audit, state, rows, marker, ahead.forgotten, unread.ever)
            at_marker = True
    for comparison in (clean,) if ahead.last_resumed else (clean, dead, flags):
        await comparison.end()
    if ahead.last_resumed:  # lanes do not count losses of these
        audit.not_compared += [topics.dead_letter, topics.anomalies]
    if marker is not None and marker.step and (unread.ever or not at_marker):
        audit.not_compared.append(f"the rows of {topics.devices_changelog}")
    if clean.doubled != ahead.doubled:
        audit.problem(f"{topics.telemetry}: {clean.doubled} records are doubled, the journal has {ahead.doubled}")
    audit.telemetry, audit.dead_letters, audit.anomalies = clean.count, dead.count, flags.count
    audit.lost, audit.doubled, audit.unknown = clean.lost, clean.doubled, clean.unknown
    _conclude(audit, state, marker)


async def _expect_others(step: Step, dead: Comparison, flags: Comparison, refused: set[tuple[str, int, int]]) -> None:
    """Expect the dead letters and flags of a step, except those that Kafka refused."""
    number = step.record.step
    for nth, (_, value, headers, _) in enumerate(dead_letter_records(step)):
        if ("dead_letter", number, nth) not in refused:
            await dead.expect((dict(headers)["reason"], value))
    for nth, (key, value, _, _) in enumerate(anomaly_records(step)):
        if ("anomalies", number, nth) not in refused:
            await flags.expect((key, value))


class Unread:
    """Steps whose raw records Kafka lost: from the first of them to the RESUMED step of the lane that detected it.

    They are replayed from the journal. Their frames are gone, so rows miss them, and any record is accepted in place of
    one of their outputs.
    """

    def __init__(self, audit: LaneAudit, clean: Comparison, last_resumed: int) -> None:
        self._audit, self._clean, self._last_resumed = audit, clean, last_resumed
        self._now = False
        self._passed = self._queued = self._step = 0
        self.ever = False

    def replay(self, state: LaneState, record: StepRecord, value: bytes | None) -> Step:
        """Apply one step of the journal."""
        gone = record.kind in NEEDS_RAW and (value is None or fingerprint(value) != record.raw_crc)
        if gone and not self._now and record.step < self._last_resumed:
            self._now = self.ever = True
            self._queued, state.queue = state.queue.depth, FrameQueue()
        if record.kind == Kind.LOST and record.count != record.raw_offset + 1 - state.next_raw:
            self._audit.problem(
                f"step {record.step} counts {record.count} raw records as lost, from {state.next_raw} to "
                f"{record.raw_offset} there were {record.raw_offset + 1 - state.next_raw}"
            )
        if not self._now:
            return replay(state, record, value)
        passed, queued = replay_unread(state, record)
        self._passed += passed
        self._queued += queued
        return Step(record, next_raw=state.next_raw)

    async def settle(self, step: Step) -> None:
        """After a RESUMED step: check the outputs before it, and whether the lane has counted the rest."""
        resumed, before, self._step = step.record.resumed, self._step, step.record.step
        if resumed is None or resumed.aside:
            return
        # The lane has applied steps without their frames, even if we have them.
        self.ever |= GONE in resumed.why or Violation.ROWS_MISSING.value in resumed.why
        if self._now:
            await self._settle(resumed)
        if self._step > before + 1:
            await self._clean.set_aside(before + 1, self._step - 1)

    async def _settle(self, resumed: Resumed) -> None:
        lost = min(self._passed, resumed.output_lost)
        for _ in range(self._passed - lost):
            await self._clean.expect(ANY)
        self._clean.miss(lost)
        if self._queued != resumed.queue_lost:
            self._audit.problem(f"{self._queued} frames waited for raw records that are gone, {_said(resumed)}")
        self._now, self._passed, self._queued = False, 0, 0


def _said(resumed: Resumed) -> str:
    return f"the journal counts {resumed.queue_lost} as lost"


async def _replay_all(
    settings: Settings,
    writer: int | None,
    state: LaneState,
    audit: LaneAudit,
    unread: Unread,
    archive: Mapping[int, bytes],
) -> AsyncIterator[Step]:
    partition, topics = audit.partition, Topics.of(settings)
    async with PartitionReader(settings) as journal, PartitionReader(settings) as raw_reader:
        raw = RawCoverage(audit, raw_reader, topics.raw, archive)
        await raw.begin(min([(await raw_reader.offsets(topics.raw, partition))[0], *archive]))
        async for record in journal_steps(journal, topics.journal, partition, writer):
            if record.resumed is not None and "journal_cut" in record.resumed.why and record.step > state.step + 1:
                raise JournalFormatError(
                    f"Kafka lost the journal's steps {state.step + 1} to {record.step - 1}, which a checkpoint covers: "
                    "their outputs cannot be audited"
                )
            yield unread.replay(state, record, await raw.value_of(record))
            audit.steps = state.step


class RawCoverage:
    """The records of ``klais_raw`` with the steps that took them: each record must have a step.

    The next offset of a step can skip records, which a replay of steps alone would not detect.
    """

    def __init__(self, audit: LaneAudit, reader: PartitionReader, topic: str, archive: Mapping[int, bytes]) -> None:
        self._audit, self._reader, self._topic, self._archive = audit, reader, topic, archive
        self._records: AsyncIterator[RawRecord] | None = None

    async def begin(self, offset: int) -> None:
        """Continue with the record at ``offset``."""
        self._records = self._from(offset)

    async def _from(self, offset: int) -> AsyncIterator[RawRecord]:
        start, end = await self._reader.offsets(self._topic, self._audit.partition)
        for kept in sorted(self._archive):
            if offset <= kept < start:
                yield RawRecord(kept, None, self._archive[kept], ())
        async for record in self._reader.read(self._topic, self._audit.partition, min(max(start, offset), end)):
            yield record

    async def value_of(self, step: StepRecord) -> bytes | None:
        """The raw record that a step took, None if it took none or the record is gone."""
        if step.kind in (Kind.RESUMED, Kind.LOST):  # the lane has counted the records between; RESUMED may also go back
            await self.begin(step.raw_offset + 1)
        elif step.kind not in (Kind.RELEASE, Kind.FORGET) and self._records is not None:
            async for record in self._records:
                if record.offset >= step.raw_offset:
                    return (
                        (record.value or b"") if record.offset == step.raw_offset and step.kind in NEEDS_RAW else None
                    )
                self._audit.problem(f"{self._topic}: the record at offset {record.offset} was skipped, no step took it")
        return None


async def _clean(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[Found]:
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        found = CLEAN.match(record.value or b"")
        if found is None:
            yield ("not a clean record", record.value), None
        else:
            mark = read_mark(record.headers)
            yield (record.key, int(found[2]), int(found[3]), found[4]), mark.step if mark else None


async def _dead_letters(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[Found]:
    """Dead letters of the lane; edges write to the same topic."""
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        headers = dict(record.headers)
        if headers.get("stage") == b"lane":
            yield (headers.get("reason"), record.value), None


async def _flags(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[Found]:
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        if INCIDENT_HEADER not in record.headers:
            yield (record.key, record.value), None


def _sorted(rows: Rows) -> Rows:
    order: npt.NDArray[np.intp] = np.lexsort((rows["id"][:, 0], rows["id"][:, 1]))
    return rows[order]


def _ids(rows: Rows) -> npt.NDArray[np.bytes_]:
    """Ids as bytes (S16 [n])."""
    return np.ascontiguousarray(rows["id"]).view("S16").reshape(len(rows))


def _without(rows: Rows, ids: npt.NDArray[np.bytes_]) -> Rows:
    """The rows (ROW [n]) of other devices than ``ids`` (S16 [k])."""
    return rows[~np.isin(_ids(rows), ids)]


def _compare_table(
    audit: LaneAudit, state: LaneState, rows: Rows, marker: Marker, forgotten: set[bytes], unread: bool
) -> None:
    """Compare rows and marker of the table with the replayed state at the marker's step.

    An unfinished checkpoint has written rows that are newer than the marker, and has removed those that later steps
    forget. These devices cannot be compared at the marker's step, and need not be. After steps without frames
    (``unread``) the replayed rows differ from those of the lane.
    """
    if not unread:
        _compare_rows(audit, state, rows, marker, forgotten)
    sure = _EXACT_TALLIES if unread else range(len(state.tally))
    found, wanted = [[tally[place] for place in sure] for tally in (marker.facts["tally"], state.tally.tolist())]
    if found != wanted:
        audit.problem(f"counters {found} at step {marker.step}, the journal gives {wanted}")
    facts = [("next_raw", state.next_raw), ("tokens", state.tokens)]
    for name, value in facts if unread else [*facts, ("devices", state.devices)]:
        if marker.facts[name] != value:
            audit.problem(f"marker has {name} {marker.facts[name]}, the journal gives {value}")
    if sum(len(index) for _, _, index in marker.ranges) != state.queue.depth:
        audit.problem(f"marker has a different queue than the journal, in which {state.queue.depth} frames wait")


def _compare_rows(audit: LaneAudit, state: LaneState, rows: Rows, marker: Marker, forgotten: set[bytes]) -> None:
    gone = np.array(sorted(forgotten), "S16")
    newer = np.concatenate([_ids(rows[rows["stamp"] > np.uint64(marker.step)]), gone])
    kept = _sorted(_without(rows[rows["stamp"] <= np.uint64(marker.step)], gone))
    live = state.rows[: state.used]
    wanted = _sorted(_without(live[live["id_size"] > 0], newer))
    if len(kept) != len(wanted):
        audit.problem(f"table has {len(kept)} devices at step {marker.step}, the journal {len(wanted)}")
    elif kept.tobytes() != wanted.tobytes():
        wrong = [name for name in ROW.names or () if kept[name].tobytes() != wanted[name].tobytes()]
        audit.problem(f"table differs from the journal at step {marker.step} in {', '.join(wrong)}")


def _conclude(audit: LaneAudit, state: LaneState, marker: Marker | None) -> None:
    audit.next_raw, audit.devices, audit.queued = state.next_raw, state.devices, state.queue.depth
    audit.lost_records = int(state.tally[Tally.LOST_RECORDS])
    audit.marker_step = marker.step if marker else 0
    audit.verdicts = {Reason(k).label: int(n) for k, n in enumerate(state.tally[:VERDICTS]) if n and k <= max(Reason)}
    if marker is not None and marker.step > state.step:
        audit.problem(f"the checkpoint is at step {marker.step}, the journal ends at {state.step}")
    received = int(state.tally[:VERDICTS].sum())
    out = int(state.tally[Reason.PASSED] + state.tally[Tally.RELEASED])
    dropped = received - int(state.tally[Reason.PASSED] + state.tally[Reason.QUEUED])
    if received != out + state.queue.depth + dropped:
        audit.problem(f"received {received} != passed {out} + queued {state.queue.depth} + dropped {dropped}")
