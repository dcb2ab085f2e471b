"""Replay: apply journalled steps to a state again, with the recorded verdicts."""

import numpy as np

from klais.core.lane.columns import Columns, read_headers, read_payloads
from klais.core.lane.journal import Kind, StepRecord, fingerprint
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import (
    CLOCKLESS,
    Step,
    corrupt_step,
    count_corrupt,
    count_dead,
    finish,
    forget_step,
    release_step,
    resume_step,
    run_frames,
)
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import FIRST_MALFORMED, VERDICTS, Reason
from klais.errors import BatchFormatError, JournalFormatError

ELSEWHERE = "see the log of the worker that decided it"


def replay(state: LaneState, record: StepRecord, value: bytes | None) -> Step:
    """Apply a journalled step; ``value`` is the raw record of the step (RAW, CORRUPT and POISON).

    Raises
    ------
    JournalFormatError
        If the step does not follow the state's, or the raw record is not the one that was decided.
    """
    if record.step != state.step + 1 and not (record.kind == Kind.RESUMED and record.step > state.step):
        raise JournalFormatError(f"journal goes from step {state.step} to {record.step}: a record is missing")
    tokens, new_devices = record.tokens, record.new_devices
    _set_buckets(state, record)
    if record.kind == Kind.RELEASE:
        step = release_step(state, record)
    elif record.kind == Kind.FORGET:
        step = forget_step(state, record)
    elif record.kind == Kind.LOST:
        state.tally[Tally.LOST_RECORDS] += np.uint64(record.count)
        step = finish(state, Step(record))
    elif record.kind == Kind.REPEATED:
        step = finish(state, Step(record))
    elif record.kind == Kind.RESUMED:
        step = resume_step(state, record)
    elif value is None or fingerprint(value) != record.raw_crc:
        raise JournalFormatError(
            f"step {record.step} needs raw record {record.raw_offset}, which is missing or has other content"
        )
    elif record.kind in (Kind.CORRUPT, Kind.POISON):
        step = corrupt_step(state, record, value, ELSEWHERE)
    else:
        step = _replay_frames(state, record, value)
    record.tokens = state.tokens = tokens
    record.new_devices = state.new_devices = new_devices
    return step


def _set_buckets(state: LaneState, record: StepRecord) -> None:
    """Set both buckets to their state after the step. A step that does not refill them keeps their time."""
    state.tokens, state.new_devices = record.tokens, record.new_devices
    if record.kind not in CLOCKLESS:
        state.bucket_ns = record.now_ns


def replay_unread(state: LaneState, record: StepRecord) -> tuple[int, int]:
    """Apply the parts of a journalled step that need no raw record, because that, or that of an earlier step, is gone.

    Counters, step, offsets and the numbers of edges' batches are correct afterwards. Rows, windows and the queue's
    content are not, because the frames are gone.

    Returns
    -------
    tuple of int
        Frames that the step passed, and frames that it added to the queue (below 0: removed from it).
    """
    state.step = record.step - 1
    _set_buckets(state, record)
    if record.kind == Kind.RELEASE:
        state.tally[Tally.RELEASED] += np.uint64(record.count)
        finish(state, Step(record))
        return record.count, -record.count
    if record.kind in (Kind.RESUMED, Kind.FORGET):
        (resume_step if record.kind == Kind.RESUMED else forget_step)(state, record)
        return 0, 0
    if record.kind == Kind.RAW:
        state.seen_batch(*record.batch, record.now_ns)
    counts = np.bincount(record.verdict, minlength=VERDICTS)
    state.tally[:VERDICTS] += counts.astype(np.uint64)
    written = len(record.flags)
    state.tally[Tally.FLAGS_WRITTEN] += np.uint64(written)
    state.tally[Tally.FLAGS_SUPPRESSED] += np.uint64(record.flagged - written)
    malformed = int(counts[FIRST_MALFORMED:].sum())
    count_dead(state, min(malformed, record.limits.dead_letters), malformed)
    if record.kind == Kind.LOST:
        state.tally[Tally.LOST_RECORDS] += np.uint64(record.count)
    elif record.kind in (Kind.CORRUPT, Kind.POISON):
        count_corrupt(state, record)
    finish(state, Step(record))
    return int(counts[Reason.PASSED]), int(counts[Reason.QUEUED])


def outputs_of_unread(step: Step, value: bytes) -> None:
    """Fill in clean records and dead letters of a step that :func:`replay_unread` has applied, because its own raw
    record is there: they depend on nothing else. Flags are left out, and so are frames that the step queued.
    """
    record = step.record
    step.bytes = len(value)
    if record.kind in (Kind.CORRUPT, Kind.POISON):
        if record.limits.dead_letters:
            step.corrupt, step.corrupt_why = value, ELSEWHERE
    elif record.kind == Kind.RAW:
        step.columns = columns = _decided_columns(record, value)
        passed = np.flatnonzero(record.verdict == Reason.PASSED).astype(np.int32)
        if len(passed):
            step.passed.append((columns, passed))
        malformed = np.flatnonzero(record.verdict >= FIRST_MALFORMED).astype(np.int32)
        step.dead = malformed[: record.limits.dead_letters] if len(malformed) else None


def _decided_columns(record: StepRecord, value: bytes) -> Columns:
    try:
        batch = decode_batch(value)
    except BatchFormatError as error:
        raise JournalFormatError(f"step {record.step} decided frames, raw is not a frame batch: {error}") from error
    if batch.count != record.count:
        raise JournalFormatError(f"step {record.step} decided {record.count} frames, raw has {batch.count}")
    columns = read_headers(batch)
    columns.verdict[:] = record.verdict
    return columns


def _replay_frames(state: LaneState, record: StepRecord, value: bytes) -> Step:
    columns = _decided_columns(record, value)
    batch = columns.batch
    state.seen_batch(batch.edge, batch.boot, batch.number, record.now_ns)
    malformed = np.where(record.verdict >= FIRST_MALFORMED, record.verdict, 0).astype(np.uint8)
    fields = read_payloads(columns, malformed) if len(record.flags) else None
    return run_frames(state, record, columns, fields, None, len(value))
