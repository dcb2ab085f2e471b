"""The simulator's kernels against their definitions, and the judge against planted faults."""

import random
from datetime import datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.wire.constants import encode_frame
from klais.sim.columns import columns_of_frames
from klais.sim.kernels import fnv1a64_column, next_random, put_fixed, white
from klais.sim.stream import CHUNK_FRAMES, FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate, Trace, TraceReplay
from klais.verify.judge import judge
from tests.support.examples import examples

MASK = (1 << 64) - 1


def naive_fnv1a64(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def naive_next_random(state):
    """SplitMix64: (new state, value)."""
    state = state + 0x9E3779B97F4A7C15 & MASK
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return state, z ^ z >> 31


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_hashes_equal_their_definition(frames):
    assert columns_of_frames(frames).hashes.tolist() == [naive_fnv1a64(frame) for frame in frames]


@given(st.integers(0, MASK))
def test_random_numbers_equal_their_definition(seed):
    state, expected = np.array([seed], np.uint64), seed
    for _ in range(3):
        expected, value = naive_next_random(expected)
        assert int(next_random(state)) == value
        assert int(state[0]) == expected


@given(st.integers(0, MASK))
def test_noise_equals_its_definition(bits):
    parts = [(bits >> 16 * k & 0xFFFF) / 65_536 for k in range(4)]
    assert abs(white(np.uint64(bits)) - (sum(parts) - 2) * 3**0.5) < 1e-9


@given(st.floats(-99_999, 99_999), st.sampled_from([1, 2]))
def test_fixed_decimals_are_within_half_a_unit_and_json(value, decimals):
    out = np.zeros(24, np.uint8)
    text = out[: put_fixed(out, 0, value, decimals)].tobytes().decode()
    assert abs(float(text) - value) <= 0.5 * 10**-decimals * (1 + 1e-6)
    assert len(text.split(".")[1]) == decimals
    assert text == f"{float(text):.{decimals}f}" and not (text.startswith("-") and float(text) == 0)


@given(st.integers(0, 2**63), st.integers(1, 5000), st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.1))
@settings(max_examples=examples(20), deadline=None)
def test_every_stream_is_whole(seed, devices, malformed, duplicates, reorder):
    options = StreamOptions(devices=devices, seed=seed, malformed=malformed, duplicates=duplicates, reorder=reorder)
    chunk = FrameStream(options).next_chunk()
    assert int(chunk.device.min()) >= 0 and int(chunk.device.max()) < devices
    assert CHUNK_FRAMES <= chunk.count <= 2 * CHUNK_FRAMES
    new = chunk.kind != 4
    assert len(np.unique(chunk.starts[new])) == int(new.sum()) == CHUNK_FRAMES
    assert chunk.lengths.min() > 0
    fnv1a64_column(chunk.buf, chunk.starts, chunk.lengths, hashes := np.zeros(chunk.count, np.uint64))
    assert (hashes == chunk.hashes).all()


_traces = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any)


@given(_traces, st.floats(1, 1000), st.floats(0.1, 100), st.data())
def test_a_schedule_agrees_with_itself(counts, scale, speed, data):
    row = data.draw(st.integers(0, len(counts) - 1))
    replay = TraceReplay(Trace(np.array(counts, float), 1.0, datetime(2026, 1, 1)), scale, row, speed)
    total = sum(counts) * scale
    assert abs(replay.due(len(counts) / speed) - total) <= 1
    frame = data.draw(st.integers(0, int(3 * total)))
    at_s = replay.time_of(frame)
    assert at_s <= replay.time_of(frame + 1)
    assert frame - 1 <= replay.due(at_s) and replay.due(at_s * (1 - 1e-9)) <= frame + 1


@given(st.floats(0.1, 1e6), st.integers(0, 10**7))
def test_a_steady_schedule_agrees_with_itself(rate, frame):
    schedule = SteadyRate(rate)
    assert abs(schedule.due(schedule.time_of(frame)) - frame) <= 1


@given(st.integers(0, 2**32), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=examples(50), deadline=None)
def test_the_judge_counts_what_was_planted(seed, missing, doubled, invented, dropped):
    rng = random.Random(seed)
    frames = [encode_frame(f"d{d}", n, b"{}") for n in range(20) for d in range(4)]
    chosen = rng.sample(range(len(frames)), missing + dropped + doubled)
    gone, twice = set(chosen[: missing + dropped]), set(chosen[missing + dropped :])
    landed = []
    for i, frame in enumerate(frames):
        landed += [] if i in gone else [frame] * (1 + (i in twice))
    for n in range(invented):
        landed.insert(rng.randrange(len(landed) + 1), encode_frame("d1", 1000 + n, b"{}"))
    verdict = judge(columns_of_frames(frames), columns_of_frames(landed), columns_of_frames([]), {"blocked": dropped})
    assert (verdict.missing, verdict.doubled, verdict.invented) == (missing, doubled, invented)
    assert verdict.out_of_order == verdict.repeated == verdict.overcounted == 0
    assert verdict.ok == (missing == doubled == invented == 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_device_is_out_of_order_exactly_when_it_landed_as_no_part_of_what_was_accepted(numbers, rng):
    accepted = [encode_frame("d", n, b"{}") for n in numbers]
    landed = rng.sample(accepted, rng.randint(0, len(accepted)))
    verdict = judge(columns_of_frames(accepted), columns_of_frames(landed), columns_of_frames([]), {})
    assert (verdict.out_of_order == 0) == _is_subsequence(landed, accepted)


def _is_subsequence(part, whole):
    rest = iter(whole)
    return all(item in rest for item in part)
