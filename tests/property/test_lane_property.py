"""The lane against its plain twin, against its own replay, and against itself with other splits."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.anomaly.zscore import ZScore
from klais.core.devices.layout import ROW
from klais.core.lane.checkpoint import (
    begin_snapshot,
    copy_rows,
    decode_marker,
    encode_marker,
    refill_queue,
    restore,
    snapshot,
)
from klais.core.lane.columns import read_headers
from klais.core.lane.journal import decode_step, encode_step
from klais.core.lane.render import anomaly_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import forget, release, take_poison, take_raw
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import VERDICTS, Reason
from tests.support.examples import examples
from tests.support.lane import T0_NS, NaiveLane, batch, bounds, frames, limits

HASH_KEY = bytes(range(16))
SEQUENCES = st.one_of(st.integers(0, 40), st.integers(2**32 - 5, 2**32 - 1), st.integers(0, 2**32 - 1))
FRAME = st.tuples(st.sampled_from("abc"), SEQUENCES, st.sampled_from([b"{}", b'{"t":1}', b'{"t":2.5,"u":{"v":-3}}']))
RUBBISH = st.one_of(st.binary(max_size=60), FRAME.map(lambda f: frames(f)[0][:-1]))
LIMITS = st.builds(
    limits,
    rate=st.sampled_from([1.0, 50.0, 1e6]),
    burst=st.sampled_from([1.0, 3.0, 1e6]),
    device_rate=st.sampled_from([1.0, 100.0]),
    device_burst=st.sampled_from([1.0, 4.0, 5000.0]),
    dead_letters=st.integers(0, 3),
    flags=st.integers(0, 2),
)
WAIT = st.one_of(st.integers(0, 10**9), st.integers(0, 10**11))
AGES = st.sampled_from([0, 0, 500_000_000, 5 * 10**9, 7200 * 10**9])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.lists(FRAME, max_size=8), WAIT),
        st.tuples(st.just("release"), st.integers(1, 5), WAIT),
    ),
    min_size=1,
    max_size=15,
)
WILD = st.lists(
    st.one_of(
        st.tuples(
            st.just("take"),
            st.lists(st.one_of(FRAME.map(lambda f: frames(f)[0]), RUBBISH), max_size=8),
            st.integers(0, 10**9),
        ),
        st.tuples(
            st.just("signed"),
            st.lists(st.tuples(st.one_of(FRAME.map(lambda f: frames(f)[0]), RUBBISH), st.integers(0, 2)), max_size=8),
            st.integers(0, 10**9),
        ),
        st.tuples(st.just("release"), st.integers(1, 5), st.integers(0, 10**9)),
        st.tuples(st.just("record"), st.binary(max_size=80), st.integers(0, 10**9)),
        st.tuples(st.just("poison"), st.binary(max_size=80), st.integers(0, 10**9)),
        st.tuples(st.just("repeat"), st.just(0), st.integers(0, 10**9)),
        st.tuples(st.just("forget"), st.lists(st.sampled_from("abc"), unique=True), st.integers(0, 10**9)),
    ),
    min_size=1,
    max_size=12,
)


def flagged(step) -> list[bytes]:
    return [value for _, value, _, _ in anomaly_records(step)]


def out(step) -> list[bytes]:
    return [columns.batch.frame(int(i)) for columns, index in step.passed for i in index]


@settings(max_examples=examples(150), deadline=None)
@given(MOVES, LIMITS, st.integers(0, 6), st.lists(AGES, min_size=15))
def test_verdicts_are_those_of_the_definition(moves, lim, queue_limit, ages):
    """``ages``: how long before the lane takes a batch the edge received it (a spool, a clock that is behind)."""
    state, twin, now = LaneState(), NaiveLane(), T0_NS
    number = 0
    for (kind, what, wait), age in zip(moves, ages, strict=False):
        now += wait
        if kind == "take":
            some = frames(*what)
            step = take_raw(state, number, batch(some, number, now - age), lim, bounds(queue_limit), now)
            number += 1
            assert [Reason(int(v)) for v in step.record.verdict] == twin.take(some, now - age, now, lim, queue_limit)
        else:
            step = release(state, lim, now, what)
            assert (out(step) if step else []) == twin.release(now, lim, what)
    assert state.devices == len(twin.devices)
    for device, known in twin.devices.items():
        row, window = state.rows[state.find(device.rstrip(b"\0"))], known.window
        found = [int(row[name]) for name in ("gaps", "late", "resets", "jumps")]
        expected = [window.top, window.gaps, window.late, window.resets, window.jumps]
        assert [int(row["top"][row["main"]]), *found] == expected


def devices_of(state: LaneState):
    rows = state.rows[: state.used]
    return rows[rows["id_size"] > 0]


def rows_of(state: LaneState) -> bytes:
    rows = devices_of(state)
    return rows[np.lexsort((rows["id"][:, 0], rows["id"][:, 1]))].tobytes()


def padded(devices):
    return np.frombuffer(b"".join(device.encode().ljust(16, b"\0") for device in devices), np.uint8).reshape(-1, 16)


def write(table, shot, draw=lambda: True):
    """A checkpoint into the changelog, ended where ``draw`` says so: ids of forgotten devices, then rows."""
    for key in shot.forgotten:
        if not draw():
            return
        table.pop(key.ljust(16, b"\0"), None)
    for row in shot.live_rows():
        if draw():
            table[row["id"].tobytes()] = row


def rows_in(table):
    return np.array(list(table.values()), ROW) if table else np.zeros(0, ROW)


def run(moves, choose_limits, queue_limit):
    """Live run: the state, its raw records, journal, outputs and flags by step."""
    state = LaneState(hash_key=HASH_KEY, detector=ZScore(0.5, 1, 500))  # flags come early, and often
    now, raw, journal, outputs, flags = T0_NS, [], [], [], []
    for turn, (kind, what, wait) in enumerate(moves):
        now += wait
        lim = choose_limits[turn % len(choose_limits)]
        if kind == "release":
            step = release(state, lim, now, what)
            if step is None:
                continue
        elif kind == "forget":
            step = forget(state, padded(what), lim, now)
        elif kind == "poison":
            step = take_poison(state, len(raw), what, "IndexError", lim, now)
            raw.append(what)
        else:
            if kind == "take":
                value = batch(what, number=len(raw), at_ns=now)
            elif kind == "signed":
                value = batch([frame for frame, _ in what], len(raw), now, epochs=[epoch for _, epoch in what])
            elif kind == "repeat":
                value = raw[-1] if raw else b""
            else:
                value = what
            how = {"uncounted": [[], [b"a"]][turn % 2], "sticky": turn % 3 == 0, "no_restarts": turn % 5 < 2}
            step = take_raw(state, len(raw), value, lim, bounds(queue_limit, 3, **how), now)
            raw.append(value)
        journal.append(encode_step(step.record))
        outputs.append(out(step))
        flags.append(flagged(step))
    return state, raw, journal, outputs, flags


def replay_on(state: LaneState, raw, journal, flags: list[list[bytes]] | None = None) -> list[list[bytes]]:
    """Outputs of the steps after the state's, whose flags are those of the live run (``flags``, by step)."""
    outputs = []
    for n, record in enumerate(map(decode_step, journal)):
        if record.step > state.step:
            step = replay(state, record, raw[record.raw_offset] if record.raw_offset >= 0 else None)
            outputs.append(out(step))
            assert flags is None or flagged(step) == flags[n]
    return outputs


@settings(max_examples=examples(150), deadline=None)
@given(WILD, st.lists(LIMITS, min_size=1, max_size=3), st.integers(0, 6))
def test_replay_from_step_0_gives_the_same_state_and_outputs(moves, choose_limits, queue_limit):
    state, raw, journal, outputs, flags = run(moves, choose_limits, queue_limit)
    again = LaneState(hash_key=HASH_KEY)
    assert replay_on(again, raw, journal, flags) == outputs
    assert rows_of(again) == rows_of(state)
    assert again.tally.tolist() == state.tally.tolist()
    for name in ("next_raw", "tokens", "new_devices", "bucket_ns", "devices"):
        assert getattr(again, name) == getattr(state, name), name
    assert (again.queue.depth, again.queue.bytes) == (state.queue.depth, state.queue.bytes)


@settings(max_examples=examples(150), deadline=None)
@given(WILD, WILD, WILD, LIMITS, st.integers(0, 6), st.data())
def test_recovery_from_a_checkpoint_even_a_half_written_one(first, second, third, lim, queue_limit, data):
    """Checkpoint after ``first``; another after ``second`` of which only some rows were written.

    Crash after ``third``.
    """
    moves = [*first, *second, *third]
    whole, raw, journal, outputs, flags = run(moves, [lim], queue_limit)
    # live again up to each checkpoint, by replay (shown equal above)
    state, table = LaneState(hash_key=HASH_KEY), {}
    cuts = [min(len(journal), len(first)), min(len(journal), len(first) + len(second))]
    replay_on(state, raw, journal[: cuts[0]])
    shot = snapshot(state)
    write(table, shot)
    marker = decode_marker(encode_marker(shot, 0, {}, 4))
    replay_on(state, raw, journal[: cuts[1]])
    write(table, snapshot(state), lambda: data.draw(st.booleans()))
    recovered = restore(marker, rows_in(table), HASH_KEY)
    refill_queue(recovered, marker, {at: read_headers(decode_batch(raw[at])) for at, _, _ in marker.ranges})
    assert replay_on(recovered, raw, journal, flags) == outputs[cuts[0] :]
    assert rows_of(recovered) == rows_of(whole)
    assert recovered.tally.tolist() == whole.tally.tolist()
    # and everything that the second checkpoint or the journal changed would be written by the next one
    write(table, snapshot(recovered))
    final = {row["id"].tobytes(): row.tobytes() for row in devices_of(whole)}
    assert {key: row.tobytes() for key, row in table.items()} == final


@settings(max_examples=examples(100), deadline=None)
@given(WILD, WILD, LIMITS, st.integers(0, 6), st.data())
def test_recovery_from_a_checkpoint_whose_rows_were_copied_while_the_lane_went_on(
    first, second, lim, queue_limit, data
):
    whole, raw, journal, outputs, flags = run([*first, *second], [lim], queue_limit)
    cut = min(len(journal), len(first))
    state, table = LaneState(hash_key=HASH_KEY), {}
    replay_on(state, raw, journal[:cut])
    shot = begin_snapshot(state)
    at = cut
    while not copy_rows(state, shot, data.draw(st.integers(1, 2))):
        upto = data.draw(st.integers(at, len(journal)))
        replay_on(state, raw, journal[at:upto])
        at = upto
    marker = decode_marker(encode_marker(shot, 0, {}, 4))
    write(table, shot)
    recovered = restore(marker, rows_in(table), HASH_KEY)
    refill_queue(recovered, marker, {at: read_headers(decode_batch(raw[at])) for at, _, _ in marker.ranges})
    assert replay_on(recovered, raw, journal, flags) == outputs[cut:]
    assert rows_of(recovered) == rows_of(whole)
    assert recovered.tally.tolist() == whole.tally.tolist()


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(FRAME, max_size=30), LIMITS, st.lists(st.integers(0, 30), max_size=4))
def test_any_split_into_batches_gives_the_same_verdicts_and_rows(parts, lim, cuts):
    some = frames(*parts)

    def feed(pieces):
        state, verdicts = LaneState(), []
        for number, piece in enumerate(pieces):
            step = take_raw(state, number, batch(piece, number), lim, bounds(5), T0_NS)
            verdicts += step.record.verdict.tolist()
        rows = state.rows[: state.used].copy()
        rows["stamp"] = 0
        return verdicts, rows.tobytes()

    edges = sorted({0, len(some), *(c for c in cuts if c < len(some))})
    assert feed([some]) == feed([some[a:b] for a, b in itertools.pairwise(edges)] or [[]])


@settings(max_examples=examples(100), deadline=None)
@given(WILD, LIMITS, st.integers(0, 6))
def test_every_frame_is_accounted_for(moves, lim, queue_limit):
    state, raw, _, outputs, _ = run(moves, [lim], queue_limit)
    verdicts = state.tally[:VERDICTS]
    dropped = int(verdicts.sum() - verdicts[Reason.PASSED] - verdicts[Reason.QUEUED])
    published = sum(map(len, outputs))
    assert published == int(verdicts[Reason.PASSED] + state.tally[Tally.RELEASED])
    assert int(verdicts.sum()) == published + state.queue.depth + dropped
    assert len(raw) == int(state.tally[Tally.RAW_RECORDS])


WAVES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2 * 10**9)), min_size=1, max_size=20)


@settings(max_examples=examples(100), deadline=None)
@given(WAVES, st.floats(0.5, 200), st.floats(1, 50))
def test_admitted_is_at_most_burst_plus_rate_times_time(waves, rate, burst):
    state, now = LaneState(), T0_NS
    lim = limits(rate=rate, burst=burst)
    admitted, times = [], []
    for number, (count, wait) in enumerate(waves):
        now += wait
        some = frames(*[(f"d{i}", number) for i in range(count)])
        released = release(state, lim, now, 1000)
        step = take_raw(state, number, batch(some, number, now), lim, bounds(10_000), now)
        admitted.append(step.passed_count + (released.passed_count if released else 0))
        times.append(now)
    for a in range(len(times)):
        for b in range(a, len(times)):
            assert sum(admitted[a : b + 1]) <= burst + rate * (times[b] - times[a]) * 1e-9 + 1e-6
