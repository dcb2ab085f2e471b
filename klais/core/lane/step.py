"""One step of a lane: a raw record or a release as input; verdicts, a journal record and outputs as result.

``take_raw`` and ``release`` decide (live). ``replay`` (:mod:`klais.core.lane.replay`) applies a journalled step to the
same state with the recorded verdicts, through the same code, so that both end in the same state, bit for bit.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.detector import Frames
from klais.core.anomaly.flags import remember_flags
from klais.core.anomaly.record import OF_ABSENT, OF_TYPE, StepFlags
from klais.core.dam import admit as dam_admit
from klais.core.dam.bucket import refill
from klais.core.dam.overrides import (
    NO_OVERRIDES,
    NO_PREFIXES,
    Overrides,
    Prefixes,
    only_referenced,
    rates_and_bursts,
    rows_of_frames,
)
from klais.core.devices.index import find_rows
from klais.core.devices.intervals import note_admitted
from klais.core.lane.columns import Columns, Fields, frame_hashes, read_headers, read_payloads, source_hashes
from klais.core.lane.journal import NO_VERDICTS, Kind, Limits, Resumed, StepRecord, fingerprint
from klais.core.lane.queue import FrameQueue, Part
from klais.core.lane.state import LaneState, Tally
from klais.core.wire.batch import FrameBatch, decode_batch
from klais.core.wire.constants import FIRST_MALFORMED, VERDICTS, Reason
from klais.errors import BatchFormatError, JournalFormatError

NEW_BURST_S = 10.0  # the bucket of new devices holds this many seconds of its rate
NO_LIMIT = 1 << 62
CLOCKLESS = (Kind.LOST, Kind.POISON, Kind.RESUMED, Kind.FORGET)  # steps that refill no bucket


class Bounds(NamedTuple):
    """Bounds of one lane that only deciding needs, not a replay.

    ``queue_limit`` frames and ``queue_bytes`` of memory for the queue, at most ``device_limit`` devices; ``blocked``
    ids; ``overrides`` (OVERRIDE [k], sorted), of which the journal gets the rows that a step used; ``uncounted``:
    PREFIX [k] of ids whose sequence numbers are ignored; ``strict``: see :mod:`klais.core.wire.json_strict`.
    ``sticky``: devices that have signed frames must continue to sign; ``no_restarts``: numbers of unsigned frames never
    go back.
    """

    queue_limit: int
    device_limit: int
    blocked: tuple[bytes, ...] = ()
    overrides: Overrides = NO_OVERRIDES
    queue_bytes: int = NO_LIMIT
    uncounted: Prefixes = NO_PREFIXES
    strict: bool = False
    sticky: bool = False
    no_restarts: bool = False


@dataclass(slots=True)
class Step:
    """A step taken: its journal ``record`` and the outputs to write once that is acknowledged.

    ``passed``: parts of batches for the clean topic, in order. ``columns``, ``dead`` (int32 index) and ``flags`` belong
    to the batch taken; ``corrupt`` is the value of a record that is not a frame batch.
    """

    record: StepRecord
    passed: list[Part] = field(default_factory=list)
    columns: Columns | None = None
    dead: npt.NDArray[np.int32] | None = None
    flags: StepFlags | None = None
    corrupt: bytes | None = None
    corrupt_why: str = ""
    bytes: int = 0
    next_raw: int = 0  # the lane's next raw offset after this step

    @property
    def passed_count(self) -> int:
        """Frames this step puts on the clean topic."""
        return sum(len(index) for _, index in self.passed)


def take_raw(state: LaneState, raw_offset: int, value: bytes, limits: Limits, bounds: Bounds, now_ns: int) -> Step:
    """Decide one raw record at ``now_ns`` (ns since the epoch) and apply it to ``state``.

    Raises
    ------
    ValueError
        If ``raw_offset`` is not the next one: a record would be skipped, or taken twice.
    """
    if raw_offset != state.next_raw:
        raise ValueError(f"the next raw offset of the lane is {state.next_raw}, not {raw_offset}")
    refill_buckets(state, limits, now_ns)
    record = StepRecord(state.step + 1, Kind.RAW, raw_offset, now_ns, limits, 0.0, 0, NO_VERDICTS)
    record.raw_crc = fingerprint(value)
    try:
        batch = decode_batch(value)
    except BatchFormatError as error:
        record.kind, record.count = Kind.CORRUPT, 1
        return corrupt_step(state, record, value, str(error))
    record.count, record.batch = batch.count, (batch.edge, batch.boot, batch.number)
    if state.seen_batch(*record.batch, now_ns):
        record.kind = Kind.REPEATED
        return finish(state, Step(record))
    columns = read_headers(batch)
    record.verdict = columns.verdict
    fields = read_payloads(columns, columns.verdict, bounds.strict)
    return run_frames(state, record, columns, fields, bounds, len(value))


def take_poison(state: LaneState, raw_offset: int, value: bytes, why: str, limits: Limits, now_ns: int) -> Step:
    """Dead-letter a raw record on which the lane failed repeatedly, and continue.

    Its frames are counted if the record can be read as a frame batch, else it counts as one frame.
    """
    try:
        frames = max(1, decode_batch(value).count)
    except BatchFormatError:
        frames = 1
    record = StepRecord(state.step + 1, Kind.POISON, raw_offset, now_ns, limits, state.tokens, frames, NO_VERDICTS)
    record.raw_crc = fingerprint(value)
    return corrupt_step(state, record, value, why)


def resume(state: LaneState, resumed: Resumed, last_step: int, next_raw: int, limits: Limits, now_ns: int) -> Step:
    """Continue after step ``last_step`` at raw offset ``next_raw``, and count losses and duplicates.

    Both may jump: the step number forward, past numbers that outputs already contain; the offset in either direction.
    """
    record = StepRecord(last_step + 1, Kind.RESUMED, next_raw - 1, now_ns, limits, state.tokens, 0, NO_VERDICTS)
    record.resumed = resumed
    return resume_step(state, record)


def resume_step(state: LaneState, record: StepRecord) -> Step:
    found = record.resumed or Resumed()
    state.queue = FrameQueue() if found.queue_lost else state.queue
    for place, frames in (
        (Tally.OUTPUT_LOST, found.output_lost),
        (Tally.QUEUE_LOST, found.queue_lost),
        (Tally.DOUBLED, found.doubled),
    ):
        state.tally[place] += np.uint64(frames)
    count_dead(state, len(found.aside), len(found.aside))
    step = finish(state, Step(record))
    state.rewind_to(state.next_raw)
    return step


def release(state: LaneState, limits: Limits, now_ns: int, max_count: int) -> Step | None:
    """Release at most ``max_count`` frames from the queue as the global bucket allows; None if none may leave."""
    if not state.queue.depth:
        return None
    before = state.tokens, state.new_devices, min(state.bucket_ns, now_ns)  # follow a clock that was set back
    refill_buckets(state, limits, now_ns)
    frames = min(state.queue.depth, int(state.tokens), max_count)
    if frames <= 0:
        state.tokens, state.new_devices, state.bucket_ns = before  # state changes only in steps
        return None
    record = StepRecord(state.step + 1, Kind.RELEASE, -1, now_ns, limits, 0.0, frames, NO_VERDICTS)
    return release_step(state, record)


def forget(state: LaneState, ids: npt.NDArray[np.uint8], limits: Limits, now_ns: int) -> Step:
    """Forget the devices ``ids`` (uint8 [k, 16], padded): their rows are freed, their queued frames stay."""
    tokens, count = state.tokens, len(ids)
    record = StepRecord(state.step + 1, Kind.FORGET, -1, now_ns, limits, tokens, count, NO_VERDICTS, forgotten=ids)
    return forget_step(state, record)


def note_lost(state: LaneState, first_available: int, limits: Limits, now_ns: int) -> Step:
    """Skip raw records that retention removed before the lane read them."""
    lost = first_available - state.next_raw
    record = StepRecord(state.step + 1, Kind.LOST, first_available - 1, now_ns, limits, state.tokens, lost, NO_VERDICTS)
    state.tally[Tally.LOST_RECORDS] += np.uint64(lost)
    return finish(state, Step(record))


def refill_buckets(state: LaneState, limits: Limits, now_ns: int) -> None:
    """Refill the global bucket and that of new devices up to ``now_ns``; they start full."""
    new_burst = max(1.0, NEW_BURST_S * limits.new_rate)
    if state.tokens < 0:
        state.tokens, state.new_devices = limits.burst, new_burst
    else:
        state.tokens = float(refill(state.tokens, state.bucket_ns, now_ns, limits.rate, limits.burst))
        state.new_devices = float(refill(state.new_devices, state.bucket_ns, now_ns, limits.new_rate, new_burst))
    state.bucket_ns = now_ns


def _limits_column(
    state: LaneState, record: StepRecord, columns: Columns, bounds: Bounds | None
) -> npt.NDArray[np.float64]:
    """Limits of a step for the kernel; in a replay only the limits in its journal record have an effect."""
    queue_limit, device_limit, sticky, strict = 0, NO_LIMIT, False, False
    if bounds is not None:
        room = state.queue.has_room(columns, bounds.queue_bytes)
        queue_limit, device_limit = bounds.queue_limit if room else 0, bounds.device_limit
        sticky, strict = bounds.sticky, bounds.no_restarts
    out = np.empty(dam_admit.LIMITS, np.float64)
    out[dam_admit.DEVICE_RATE], out[dam_admit.DEVICE_BURST] = record.limits.device_rate, record.limits.device_burst
    out[dam_admit.QUEUE_LIMIT], out[dam_admit.DEVICE_LIMIT] = queue_limit, device_limit
    out[dam_admit.ERAS_PER_NS] = 2e-9 / max(1e-9, record.limits.sequence_window_s)
    out[dam_admit.STICKY], out[dam_admit.STRICT] = sticky, strict
    out[dam_admit.NOW_S] = record.now_s
    return out


def run_frames(
    state: LaneState, record: StepRecord, columns: Columns, fields: Fields | None, bounds: Bounds | None, size: int
) -> Step:
    """Rows, admission, flags and outputs of one batch; ``bounds`` None = replay, which needs fields only for flags."""
    skip = _admit(state, record, columns, bounds)
    verdict = columns.verdict
    step = Step(record, columns=columns, bytes=size)
    interval_s = np.empty(columns.count)
    note_admitted(state.rows, columns.row, columns.time_ns, verdict, skip, columns.batch.edge, interval_s)
    if bounds is not None and fields is not None and state.detector is not None:
        _score(state, record, columns, fields, interval_s)
    step.flags = _note_flags(state, record, columns, fields, skip)
    counts = np.bincount(verdict, minlength=VERDICTS)
    state.tally[:VERDICTS] += counts.astype(np.uint64)
    if counts[Reason.QUEUED]:
        state.queue.push(record.raw_offset, columns, np.flatnonzero(verdict == Reason.QUEUED).astype(np.int32))
    if counts[Reason.PASSED]:
        step.passed.append((columns, np.flatnonzero(verdict == Reason.PASSED).astype(np.int32)))
    malformed = int(counts[FIRST_MALFORMED:].sum())
    if malformed:
        step.dead = np.flatnonzero(verdict >= FIRST_MALFORMED).astype(np.int32)[: record.limits.dead_letters]
        count_dead(state, len(step.dead), malformed)
    return finish(state, step)


def _admit(state: LaneState, record: StepRecord, columns: Columns, bounds: Bounds | None) -> npt.NDArray[np.uint8]:
    """Verdicts of a batch's frames, applied to the state; uint8 [n]: 1 if the row already contained the step."""
    n = columns.count
    state.make_room(n)
    if bounds is not None:
        record.uncounted = bounds.uncounted
    record.overrides, own = _own_limits(record, columns, bounds)
    room = np.empty(n, np.uint64), np.empty(1)
    find_rows(state.slots, state.index_key, state.rows, columns.ids, columns.id_size, columns.row, *room)
    skip = np.zeros(n, np.uint8)
    if bounds is None:
        dam_admit.already_done(state.rows, columns.row, record.step, skip)
    frames = dam_admit.Frames(
        columns.ids,
        columns.id_size,
        columns.row,
        columns.sequence,
        columns.epoch,
        frame_hashes(columns, state.hash_key, record.uncounted),
        columns.time_ns,
        source_hashes(columns, state.hash_key),
        columns.verdict,
        skip,
        _blocked_column(columns, bounds),
        own,
    )
    dam = state.new_dam()
    state.dirty_count = dam_admit.admit(
        bounds is not None,
        record.step,
        state.clean_step,
        dam_admit.Devices(state.slots, state.index_key, state.rows, state.free, state.room),
        frames,
        rates_and_bursts(record.overrides),
        _limits_column(state, record, columns, bounds),
        dam,
        state.dirty,
        state.dirty_count,
    )
    state.tokens, state.new_devices = float(dam[dam_admit.TOKENS]), float(dam[dam_admit.NEW_DEVICES])
    return skip


def _score(
    state: LaneState, record: StepRecord, columns: Columns, fields: Fields, interval_s: npt.NDArray[np.float64]
) -> None:
    """Score the admitted frames with the lane's detector; its flags go into ``record``. Learns names of fields."""
    detector = state.detector
    assert detector is not None
    detector.make_room(len(state.rows))
    frames = Frames(
        columns.row,
        columns.ids,
        columns.time_ns,
        columns.batch.lengths,
        interval_s,
        fields.frame,
        fields.path,
        fields.value,
        fields.count,
    )
    found = detector.score(frames, state.devices, record.limits.flags, state.path_names.get)
    record.flagged, record.flags, record.flag_names = found.raised, found.flags, found.names
    state.path_names.keep(found.names, record.now_ns)
    state.path_names.learn(detector.paths, detector.slots, columns, fields, record.step, record.now_ns)


def _note_flags(
    state: LaneState, record: StepRecord, columns: Columns, fields: Fields | None, skip: npt.NDArray[np.uint8]
) -> StepFlags | None:
    """Count the flags of ``record`` and record them in the rows that do not contain the step yet."""
    flags = record.flags
    if len(flags) > record.flagged or int(flags["frame"].max(initial=0)) >= max(1, columns.count):
        text = f"{len(flags)} flags of {record.flagged}, one of frame {flags['frame'].max()} of {columns.count}"
        raise JournalFormatError(f"step {record.step} has {text}")
    state.tally[Tally.FLAGS_WRITTEN] += np.uint64(len(flags))
    state.tally[Tally.FLAGS_SUPPRESSED] += np.uint64(record.flagged - len(flags))
    if not len(flags) or fields is None:
        return None
    first = np.searchsorted(fields.frame[: fields.count], flags["frame"])
    of_field = np.minimum(first + flags["nth"], max(0, fields.count - 1))
    path = np.where(flags["nth"] < OF_TYPE, fields.path[of_field], 0).astype(np.uint64)
    named = np.clip(np.nan_to_num(flags["value"]), 0, 0xFFFFFFFF).astype(np.uint64)
    path = np.where((flags["nth"] == OF_ABSENT) | (flags["nth"] == OF_TYPE), named, path)
    remember_flags(state.rows, columns.row, columns.time_ns, skip, flags, path.astype(np.uint32))
    return StepFlags(flags, path, record.flag_names)


def _blocked_column(columns: Columns, bounds: Bounds | None) -> npt.NDArray[np.uint8]:
    if bounds is None or not bounds.blocked:
        return np.zeros(columns.count, np.uint8)
    return (rows_of_frames(columns.ids, np.sort(np.array(bounds.blocked, "S16"))) >= 0).astype(np.uint8)


def _own_limits(record: StepRecord, columns: Columns, bounds: Bounds | None) -> tuple[Overrides, npt.NDArray[np.int32]]:
    """Overrides that this step uses (in a replay those that it used), and each frame's row in them."""
    overrides = record.overrides if bounds is None else bounds.overrides
    return only_referenced(overrides, rows_of_frames(columns.ids, overrides["id"]))


def forget_step(state: LaneState, record: StepRecord) -> Step:
    state.forget(record.forgotten, record.step, record.now_s)
    state.tally[Tally.FORGOTTEN] += np.uint64(record.count)
    return finish(state, Step(record))


def release_step(state: LaneState, record: StepRecord) -> Step:
    if record.count > state.queue.depth:
        raise JournalFormatError(f"step {record.step} releases {record.count} frames, {state.queue.depth} queued")
    step = Step(record, passed=state.queue.pop(record.count))
    state.tokens -= record.count
    state.tally[Tally.RELEASED] += np.uint64(record.count)
    return finish(state, step)


def corrupt_step(state: LaneState, record: StepRecord, value: bytes, why: str) -> Step:
    count_corrupt(state, record)
    step = Step(record, bytes=len(value))
    if record.limits.dead_letters:
        step.corrupt, step.corrupt_why = value, why
    return finish(state, step)


def count_corrupt(state: LaneState, record: StepRecord) -> None:
    if record.kind == Kind.POISON:
        state.tally[Tally.POISON_FRAMES] += np.uint64(record.count)
    else:
        state.tally[Tally.CORRUPT_RECORDS] += np.uint64(1)
    count_dead(state, int(record.limits.dead_letters > 0), 1)


def count_dead(state: LaneState, written: int, malformed: int) -> None:
    state.tally[Tally.DEAD_WRITTEN] += np.uint64(written)
    state.tally[Tally.DEAD_SUPPRESSED] += np.uint64(malformed - written)


def finish(state: LaneState, step: Step) -> Step:
    record = step.record
    record.tokens, record.new_devices = state.tokens, state.new_devices
    state.step = record.step
    if record.kind not in (Kind.RELEASE, Kind.FORGET):
        state.next_raw = record.raw_offset + 1
    step.next_raw = state.next_raw
    if record.kind == Kind.REPEATED:
        state.tally[Tally.REPEATED_BATCHES] += np.uint64(1)
        state.tally[Tally.REPEATED_FRAMES] += np.uint64(record.count)
    if record.kind in (Kind.RAW, Kind.REPEATED, Kind.CORRUPT, Kind.POISON):
        state.newest_taken = (record.raw_offset, record.raw_crc)
        state.tally[Tally.RAW_RECORDS] += np.uint64(1)
        state.tally[Tally.RAW_BYTES] += np.uint64(step.bytes)
    return step


__all__ = [
    "Bounds",
    "FrameBatch",
    "Step",
    "forget",
    "note_lost",
    "release",
    "resume",
    "take_poison",
    "take_raw",
]
