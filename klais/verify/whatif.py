"""Computes the verdicts of past frames of ``klais_raw`` under other settings, next to those of the journal.

Nothing is written to Kafka. Raw records and journal are applied to two lane states in memory. One applies the verdicts
of the journal (``klais.core.lane.replay``), the other decides (``take_raw``, ``release``) at the times of the journal.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.dam.overrides import NO_OVERRIDES, PREFIX
from klais.core.devices.layout import Rows
from klais.core.lane.columns import read_headers
from klais.core.lane.counters import dropped, passed, received
from klais.core.lane.journal import MAGIC, Kind, Limits, StepRecord, decode_step, fingerprint
from klais.core.lane.queue import FrameQueue
from klais.core.lane.replay import replay
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.lane.step import Bounds, Step, release, take_raw
from klais.core.wire.batch import decode_batch, received_at_of
from klais.core.wire.constants import VERDICTS, Reason
from klais.errors import BatchFormatError, JournalFormatError
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.verify.lane_log import lane_writer
from klais.worker.detector import detector_maker
from klais.worker.limits import MIN_LANE_RATE
from klais.worker.session import MAX_RELEASE_FRAMES

SERIES = ("passed", "queued", "dropped", "flagged")
"""Counters of both sides per second; ``passed`` immediately or from the queue."""
DEVICE_COUNTS = ("received", "admitted", "dropped", "malformed", "flags")
ALL = 1 << 30  # unlimited allowance of output records: no records are sent here
NO_NEW_RATE = 1e9
TICK_S, MAX_PACE_S = 0.005, 1.0
RAW_KINDS = (Kind.RAW, Kind.REPEATED, Kind.CORRUPT, Kind.POISON)
_FIELDS = {
    "rate": "dam_max_rate",
    "burst": "dam_burst_size",
    "device_rate": "dam_device_rate",
    "device_burst": "dam_device_burst",
    "new_rate": "devices_new_rate",
    "sequence_window_s": "sequence_window_s",
}
_DROPPED_IN_ROW = ("duplicate", "blocked", "device_rate", "queue_full", "replayed", "unsigned")
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Raw offsets ``start`` to ``end`` of a partition; the state learns devices from ``warm`` on (<= start).

    ``journal``: first journal offset to read.
    """

    partition: int
    start: int
    end: int
    warm: int
    journal: int


@dataclass(frozen=True, slots=True)
class Question:
    """The settings to try, and the names of the fields that differ from the present ones."""

    settings: Settings
    changed: frozenset[str]

    def limits(self, found: Limits | None, known_devices: bool) -> Limits:
        """Limits of a step: those that were in force for it, except the changed ones.

        ``known_devices``: False while devices are new only because the interval begins; then their rate is unlimited.
        """
        s, n = self.settings, self.settings.partitions
        own = Limits(
            rate=max(MIN_LANE_RATE, s.dam_max_rate / n),
            burst=max(1.0, s.dam_burst_size / n),
            device_rate=s.dam_device_rate,
            device_burst=s.dam_device_burst,
            dead_letters=ALL,
            flags=ALL,
            new_rate=s.devices_new_rate,
            sequence_window_s=s.sequence_window_s,
        )
        if found is not None:
            kept = {name: getattr(found, name) for name, setting in _FIELDS.items() if setting not in self.changed}
            own = replace(own, **kept)
            own = replace(
                own, rate=max(MIN_LANE_RATE, own.rate), burst=max(1.0, own.burst)
            )  # also for an unusual record
        if not known_devices and "devices_new_rate" not in self.changed:
            own = replace(own, new_rate=NO_NEW_RATE)
        return own

    def bounds(self, found: StepRecord | None, blocked: tuple[bytes, ...]) -> Bounds:
        """Bounds of a step; blocks and limits of single devices are unchanged."""
        s, n = self.settings, self.settings.partitions
        return Bounds(
            queue_limit=s.dam_queue_limit // n,
            device_limit=max(1, s.devices_max // n),
            blocked=blocked,
            overrides=NO_OVERRIDES if found is None else found.overrides,
            queue_bytes=s.dam_queue_bytes // n,
            uncounted=np.array(s.uncounted_prefixes, PREFIX),
            strict=s.json_strict,
            sticky=s.auth in ("sticky", "require"),
            no_restarts=s.sequence_strict,
        )


class Side:
    """One of the two sides: a lane state, and its counters per second."""

    def __init__(self, state: LaneState) -> None:
        self.state = state
        self.seconds: defaultdict[int, Counts] = defaultdict(lambda: np.zeros(len(SERIES), np.int64))
        self._tally: Counts = np.zeros(TALLIES, np.int64)
        self._rows: Rows = state.rows[:0].copy()

    def begin(self) -> None:
        """Start counting; earlier steps only made devices known."""
        self.seconds.clear()
        self._tally = self.state.tally.astype(np.int64)
        self._rows = self.state.rows[: self.state.used].copy()

    def note(self, step: Step, released: int = 0) -> None:
        """Count a step in its second."""
        record = step.record
        counts = np.bincount(record.verdict, minlength=VERDICTS)
        gone = int(counts[Reason.DUPLICATE :].sum()) + (record.count if record.kind in RAW_KINDS[1:] else 0)
        passed_now = int(counts[Reason.PASSED]) + released
        self.seconds[record.now_ns // 1_000_000_000] += (passed_now, int(counts[Reason.QUEUED]), gone, record.flagged)

    @property
    def tally(self) -> Counts:
        """The counters, int64 [TALLIES]."""
        return self.state.tally.astype(np.int64) - self._tally

    def devices(self) -> tuple[npt.NDArray[np.bytes_], Counts]:
        """Ids S16 [n], sorted, and DEVICE_COUNTS of each, int64 [n, 5]."""
        rows = self.state.rows[: self.state.used]
        ids, counts = _device_counts(rows)
        before, base = _device_counts(self._rows)
        if len(before):
            at = np.searchsorted(ids, before)  # no devices are forgotten here
            counts[at] -= base
        return ids, counts


def _device_counts(rows: Rows) -> tuple[npt.NDArray[np.bytes_], Counts]:
    rows = rows[rows["id_size"] > 0]
    ids = np.ascontiguousarray(rows["id"]).view("S16").reshape(-1)
    gone = sum((rows[name].astype(np.int64) for name in _DROPPED_IN_ROW), np.zeros(len(rows), np.int64))
    columns = [rows["received"], rows["admitted"], gone, rows["malformed"], rows["flags"]]
    order = np.argsort(ids)
    return ids[order], np.stack([column.astype(np.int64) for column in columns], axis=1)[order]


@dataclass(slots=True)
class Answer:
    """Both sides of one partition. ``unknown``: frames without a verdict in the journal (no longer, or not yet)."""

    partition: int
    happened: Side
    would: Side
    records: int = 0
    frames: int = 0
    unknown: int = 0
    first_ns: int = 0
    last_ns: int = 0
    waiting: int = 0  # in the queue of the deciding side at the end
    reasons: dict[str, tuple[int, int]] = field(default_factory=dict)


def by_reason(happened: Counts, would: Counts) -> dict[str, tuple[int, int]]:
    """Verdicts of the frames, actual and computed, by name; first those that are not drops."""
    sums = [
        {
            "received": received(tally),
            "passed": passed(tally),
            "queued": int(tally[Reason.QUEUED]),
            "flagged": int(tally[Tally.FLAGS_WRITTEN] + tally[Tally.FLAGS_SUPPRESSED]),
            **{reason.label: frames for reason, frames in dropped(tally).items()},
        }
        for tally in (happened, would)
    ]
    names = dict.fromkeys([*sums[0], *sums[1]])
    return {name: (sums[0].get(name, 0), sums[1].get(name, 0)) for name in names}


def blocked_in(found: StepRecord, value: bytes) -> tuple[bytes, ...]:
    """Ids whose frames a step of the journal dropped as blocked."""
    which = found.verdict == Reason.BLOCKED
    if not which.any() or fingerprint(value) != found.raw_crc:
        return ()
    try:
        columns = read_headers(decode_batch(value))
    except BatchFormatError:
        return ()
    if columns.count != len(which):
        return ()
    return tuple(np.unique(np.ascontiguousarray(columns.ids[which]).view("S16").reshape(-1)).tolist())


class Courses:
    """Takes the raw records of one partition in order, with their steps of the journal."""

    def __init__(self, question: Question, stretch: Stretch) -> None:
        settings = question.settings
        make = detector_maker(settings, CpuBudget(1.0, lambda: 0))  # a stopped clock sets no limit
        self._question, self._stretch = question, stretch
        self._warm = stretch.warm < stretch.start
        self._now_ns, self._latest_ns = 0, time.time_ns()
        happened = Side(LaneState(hash_key=settings.frame_hash_key))
        would = Side(LaneState(hash_key=settings.frame_hash_key, detector=make()))
        self.answer = Answer(stretch.partition, happened, would)
        self._counting = False

    def released(self, record: StepRecord) -> None:
        """Apply a release of the journal."""
        if self._counting:
            self.answer.happened.state.tally[Tally.RELEASED] += np.uint64(record.count)
            self.answer.happened.note(Step(record), record.count)

    def take(self, offset: int, value: bytes, found: StepRecord | None) -> None:
        """Apply one raw record; ``found``: its step in the journal."""
        if not self._counting and offset >= self._stretch.start:
            self._counting = True
            self.answer.would.begin()
        actual = None if found is None or not self._counting else self._apply(found, value)
        blocked = () if found is None else blocked_in(found, value)
        limits = self._question.limits(found.limits if found else None, self._warm and self._counting)
        now_ns = found.now_ns if found else received_at_of(value)
        now_ns = max(
            self._now_ns, min(now_ns, self._latest_ns)
        )  # a record may have any time, and all later ones would wait
        self._release_queued(limits, now_ns)
        self._now_ns = now_ns
        state = self.answer.would.state
        state.skip_to(offset)
        step = take_raw(state, offset, value, limits, self._question.bounds(found, blocked), now_ns)
        self.answer.would.note(step, 0)
        if self._counting:
            self._count(step, actual, now_ns)

    def _count(self, step: Step, actual: Step | None, now_ns: int) -> None:
        answer = self.answer
        answer.records += 1
        answer.frames += step.record.count
        answer.first_ns = answer.first_ns or now_ns
        answer.last_ns = now_ns
        if actual is None:
            answer.unknown += step.record.count
        else:
            answer.happened.note(actual)

    def _apply(self, found: StepRecord, value: bytes) -> Step | None:
        """The original step, on a separate state; None if the record is not the one that it decided."""
        state = self.answer.happened.state
        state.step = found.step - 1
        try:
            step = replay(state, found, value)
        except JournalFormatError:
            return None
        state.queue = FrameQueue()  # its releases are counted, not executed
        return step

    def _release_queued(self, limits: Limits, until_ns: int) -> None:
        """Release queued frames as tokens become available, up to ``until_ns``."""
        would, state = self.answer.would, self.answer.would.state
        pace_s = min(MAX_PACE_S, max(TICK_S, 0.5 * limits.burst / limits.rate))
        at_ns = self._now_ns
        while state.queue.depth and at_ns < until_ns:
            wait_s = max(pace_s, (1.0 - state.tokens) / limits.rate)
            at_ns = min(until_ns, at_ns + int(wait_s * 1e9) + 1)
            while (step := release(state, limits, at_ns, MAX_RELEASE_FRAMES)) is not None:
                would.note(step, step.record.count)
                if step.record.count < MAX_RELEASE_FRAMES:
                    break

    def end(self) -> Answer:
        """The answer."""
        answer = self.answer
        answer.waiting = answer.would.state.queue.depth
        answer.reasons = by_reason(answer.happened.tally, answer.would.tally)
        return answer


async def ask(
    settings: Settings, question: Question, stretch: Stretch, progress: Callable[[int], None] = lambda _: None
) -> Answer:
    """Apply an interval of one partition to both sides.

    Parameters
    ----------
    settings : Settings
        Settings with the address of Kafka.
    progress : callable
        Called with the raw offset of each taken record.

    Raises
    ------
    klais.errors.OffsetGone
        If retention has removed raw records of the interval.
    klais.errors.KafkaUnavailable, klais.errors.TopicMismatch
        If reading fails.
    """
    topics, partition = Topics.of(settings), stretch.partition
    courses = Courses(question, stretch)
    courses.answer.would.state.next_raw = stretch.warm
    async with PartitionReader(settings) as raw, PartitionReader(settings) as journal_reader:
        writer = await lane_writer(journal_reader, topics, partition)
        journal = _steps(journal_reader, topics.journal, partition, stretch.journal, writer)
        held = await anext(journal, None)
        async for record in raw.read(topics.raw, partition, stretch.warm, stretch.end):
            while held is not None and (held.kind not in RAW_KINDS or held.raw_offset < record.offset):
                if held.kind == Kind.RELEASE:
                    courses.released(held)
                held = await anext(journal, None)
            found = held if held is not None and held.raw_offset == record.offset else None
            courses.take(record.offset, record.value or b"", found)
            progress(record.offset)
    return courses.end()


async def _steps(
    reader: PartitionReader, topic: str, partition: int, start: int, writer: int | None
) -> AsyncIterator[StepRecord]:
    """The readable steps of the journal that the lane wrote itself."""
    async for record in reader.read(topic, partition, start):
        step = step_of(record.value) if writer in (None, record.producer_id) else None
        if step is not None:
            yield step


def step_of(value: bytes | None) -> StepRecord | None:
    """A step of the journal; None for owner records, records of other programs, and damaged ones."""
    try:
        return decode_step(value) if value is not None and value[:4] == MAGIC else None
    except JournalFormatError:
        return None
