"""Steps of a lane that goes on although something is missing, and of a record on which it cannot go on."""

import numpy as np
import pytest

from klais.core.lane.checkpoint import decode_marker, encode_marker, restore, snapshot
from klais.core.lane.counters import conservation, passed, received
from klais.core.lane.journal import Kind, Resumed, decode_step, encode_step, fingerprint
from klais.core.lane.render import CLIP_BYTES, dead_letter_records
from klais.core.lane.replay import outputs_of_unread, replay, replay_unread
from klais.core.lane.state import MAX_LANDMARKS, LaneState, Tally
from klais.core.lane.step import Step, forget, note_lost, release, resume, take_poison, take_raw
from klais.core.wire.batch import decode_batch, encode_batch
from klais.errors import BatchFormatError, JournalFormatError
from klais.kafka.record_batch import RecordBatchWriter
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored


def take(state, value, number=None, lim=None, queue=100):
    return take_raw(state, state.next_raw, value, lim or limits(), bounds(queue), T0_NS)


def test_a_poison_record_is_a_dead_letter_and_its_replay_counts_the_same():
    state, value = LaneState(), batch(frames(("a", 1), ("b", 1)))
    step = take_poison(state, 0, value, "IndexError: x", limits(), T0_NS)
    ((_, letter, headers, _),) = dead_letter_records(step)
    assert letter == value and dict(headers)["reason"] == b"poison" and dict(headers)["detail"] == b"IndexError: x"
    assert received(state.tally) == 2 and conservation(state.tally, 0).holds and state.next_raw == 1
    again = LaneState()
    replay(again, decode_step(encode_step(step.record)), value)
    assert again.tally.tolist() == state.tally.tolist()


def test_a_dead_letter_of_any_size_fits():
    state = LaneState()
    step = take(state, b"x" * (CLIP_BYTES + 1000))
    ((key, letter, headers, ts_ms),) = dead_letter_records(step)
    assert dict(headers)["bytes"] == str(CLIP_BYTES + 1000).encode()
    assert RecordBatchWriter(limit_bytes=900_000).append_one(key, letter, headers, ts_ms, 1, 1)


def test_times_that_no_int64_holds_are_no_frame_batch():
    for at_ns in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        value = encode_batch(frames(("a", 1)), at_ns, 1, 1, 0, np.array([4_000_000_000], np.uint32))
        with pytest.raises(BatchFormatError):
            decode_batch(value)


def test_resume_jumps_and_its_replay_does_the_same():
    state = LaneState()
    first, value = None, batch(frames(("a", 1), ("b", 1)))
    first = take(state, value)
    step = resume(state, Resumed(1, 0, 3, "why"), 40, 17, limits(), T0_NS)
    assert (state.step, state.next_raw) == (41, 17)
    assert (state.tally[Tally.OUTPUT_LOST], state.tally[Tally.DOUBLED]) == (1, 3)
    assert conservation(state.tally, 0).holds and passed(state.tally) == 1
    again = LaneState()
    replay(again, decode_step(encode_step(first.record)), value)
    replay(again, decode_step(encode_step(step.record)), None)
    assert (again.step, again.next_raw, again.tally.tolist()) == (41, 17, state.tally.tolist())


def test_steps_that_refill_no_bucket_leave_its_time_alone_in_a_replay_too():
    state, again, lim = LaneState(), LaneState(), limits(rate=1.0, burst=10.0)
    values = [batch(frames(("a", n), ("b", n)), n) for n in range(2)]
    ids = np.frombuffer(b"a".ljust(16, b"\0"), np.uint8).reshape(1, 16)
    later = T0_NS + 3 * 10**9
    steps = [
        (take_raw(state, 0, values[0], lim, bounds(), T0_NS), values[0]),
        (take_poison(state, 1, b"?", "why", lim, later), b"?"),
        (forget(state, ids, lim, later), None),
        (note_lost(state, 4, lim, later), None),
        (resume(state, Resumed(), state.step, 4, lim, later), None),
        (take_raw(state, 4, values[1], lim, bounds(), later + 10**9), values[1]),
    ]
    for step, value in steps:
        replay(again, decode_step(encode_step(step.record)), value)
        if step is not steps[-1][0]:
            assert again.bucket_ns == T0_NS
    for name in ("step", "next_raw", "tokens", "new_devices", "bucket_ns", "devices"):
        assert getattr(again, name) == getattr(state, name), name
    assert again.tally.tolist() == state.tally.tolist() and state.devices == 2


def test_devices_are_forgotten_although_the_frames_of_earlier_steps_are_gone():
    state, value, lim = LaneState(), batch(frames(("a", 1), ("b", 1))), limits()
    record = take_raw(state, 0, value, lim, bounds(), T0_NS).record
    ids = np.frombuffer(b"a".ljust(16, b"\0"), np.uint8).reshape(1, 16)
    forgotten = forget(state, ids, lim, T0_NS).record
    again = LaneState()
    replay(again, record, value)
    assert replay_unread(again, decode_step(encode_step(forgotten))) == (0, 0)
    assert (again.find(b"a"), again.devices, again.next_raw, again.forgotten) == (-1, 1, 1, {b"a"})
    assert again.tally.tolist() == state.tally.tolist()


def test_a_replay_refuses_another_record_at_the_same_offset():
    state, value = LaneState(), batch(frames(("a", 1)))
    record = take(state, value).record
    with pytest.raises(JournalFormatError, match="missing or has other content"):
        replay(LaneState(), record, batch(frames(("a", 2)), number=1))


def test_steps_without_their_frames_count_as_those_with_them():
    """Received, passed and dropped are right; what waited is counted by the caller. What goes out at once goes out."""
    state, steps = LaneState(), []
    lim = limits(rate=2.0, burst=2.0)
    for number in range(4):
        value = batch([*frames(("a", number), ("b", number)), b"rubbish"], number)
        steps.append(take_raw(state, number, value, lim, bounds(3), T0_NS))
    steps.append(release(state, lim, T0_NS + 10**9, 10))
    journal = [step.record for step in steps]
    again, waiting, went = LaneState(), 0, 0
    for record, step in zip(journal, steps, strict=True):
        out, queued = replay_unread(again, decode_step(encode_step(record)))
        waiting, went = waiting + queued, went + out
        if record.kind == Kind.RAW:
            alone = Step(decode_step(encode_step(record)))
            outputs_of_unread(alone, step.columns.batch.buf.tobytes())
            assert (alone.passed_count, alone.bytes) == (out, step.bytes)
            assert [index.tolist() for _, index in alone.passed] == [index.tolist() for _, index in step.passed]
            assert [*dead_letter_records(alone)] == [*dead_letter_records(step)] != []
    assert again.tally[: Tally.REPEATED_BATCHES].tolist() == state.tally[: Tally.REPEATED_BATCHES].tolist()
    assert (waiting, went) == (state.queue.depth, passed(state.tally))
    assert (again.step, again.next_raw, again.tokens) == (state.step, state.next_raw, state.tokens)


def test_a_batch_is_known_for_a_repeat_though_its_raw_record_is_gone():
    state, values = LaneState(), [batch(frames(("a", number)), number) for number in range(3)]
    journal = [take_raw(state, n, value, limits(), bounds(), T0_NS).record for n, value in enumerate(values)]
    again = LaneState()
    for record in journal:
        replay_unread(again, decode_step(encode_step(record)))
    assert take_raw(again, 3, values[-1], limits(), bounds(), T0_NS).record.kind == Kind.REPEATED
    assert take_raw(again, 4, batch(frames(("a", 9)), 3), limits(), bounds(), T0_NS).record.kind == Kind.RAW
    assert again.tally[Tally.MISSING_BATCHES] == 0


def test_a_lane_that_goes_back_does_not_expect_what_lay_there_before():
    state = LaneState()
    for number in range(4):
        take_raw(state, number, batch(frames(("a", number)), number), limits(), bounds(), T0_NS)
        state.note_taken(*state.newest_taken)
    resume(state, Resumed(why="raw_replaced"), state.step, 2, limits(), T0_NS)
    assert state.next_raw == 2 and state.newest_taken is None
    assert [offset for offset, _ in state.landmarks] == [0, 1]


def test_landmarks_are_few_and_reach_far_back():
    state = LaneState()
    for offset in range(0, 100_000, 10):
        state.note_taken(offset, offset)
    offsets = [offset for offset, _ in state.landmarks]
    assert len(offsets) <= MAX_LANDMARKS and offsets == sorted(offsets)
    assert offsets[-1] == 99_990 and offsets[0] < 50_000 and offsets[-2] > 99_000
    state.note_taken(70_000, 1)  # after a rewind, what lay beyond is not the log any more
    assert state.landmarks[-1] == (70_000, 1)


def test_the_marker_keeps_landmarks_and_lineage():
    state, value = LaneState(), batch(frames(("a", 1)))
    take(state, value)
    shot = snapshot(state)
    marker = decode_marker(encode_marker(shot, 5, {}, 4, 99))
    assert marker.facts["lineage"] == 99
    assert restore(marker, shot.rows).landmarks == [(0, fingerprint(value))]


def test_a_half_written_checkpoint_of_a_step_with_many_flags():
    """Rows of all devices but one contain the step: its replay counts the flag of that one only."""
    devices, state, raw, journal = [f"d{i}" for i in range(40)], scored(), [], []

    def round_(number: int, payload: bytes):
        at_ns = T0_NS + number * 10**9
        value = batch(frames(*((d, number, payload) for d in devices)), number, at_ns)
        raw.append(value)
        step = take_raw(state, len(raw) - 1, value, limits(), bounds(), at_ns)
        journal.append(step.record)
        return step

    for number in range(40):
        round_(number, b'{"t":20}')
    shot = snapshot(state)
    rows = {row["id"].tobytes(): row.copy() for row in shot.rows}
    flagged = round_(40, b'{"t":900}')
    assert len(flagged.flags.found) == 40
    for row in snapshot(state).rows[:-1]:
        rows[row["id"].tobytes()] = row.copy()
    recovered = restore(decode_marker(encode_marker(shot, 0, {}, 4)), np.array(list(rows.values()), shot.rows.dtype))
    step = replay(recovered, journal[-1], raw[-1])
    assert len(step.flags.found) == 40
    assert recovered.rows["flags"][: recovered.used].tolist() == [1] * 40
    assert journal[-1].kind is Kind.RAW
