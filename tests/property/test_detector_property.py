"""Whatever devices send: the detector's state stays finite and bounded, and any split of the input gives the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.channel import FULL, LEVELS, LIGHT, rarity
from klais.core.anomaly.record import MAX_FIELDS
from klais.core.anomaly.series import score_series
from klais.core.anomaly.two_tier import TwoTier
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from tests.support.examples import examples
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000
VALUES = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 20.0, 20.0, 20.01, 1e300, -1e300, 5e-324, 1e18, float("nan")]),
)
STEPS_S = st.one_of(st.just(60.0), st.sampled_from([0.0, 1e-9, 10.0, 86_400.0, -60.0, -1e9, 1e9]))
ROWS = st.lists(st.tuples(STEPS_S, VALUES), min_size=1, max_size=150)
TIERS = pytest.mark.parametrize(("tier", "dtype"), [("light", LIGHT), ("full", FULL)])


def is_finite(state: np.ndarray) -> bool:
    return all(np.isfinite(state[name]).all() for name in state.dtype.names if state[name].dtype.kind == "f")


@TIERS
@settings(max_examples=examples(60), deadline=None)
@given(ROWS, ROWS)
def test_any_rows_leave_a_finite_state_and_a_prefix_gives_the_scores_of_the_whole(tier, dtype, first, second) -> None:
    rows = [*first, *second]
    t, x = 1.7e9 + np.cumsum([step for step, _ in rows]), np.array([value for _, value in rows])
    whole, state, again = score_series(t, x, tier), np.zeros(1, dtype), np.zeros(1, dtype)
    score_series(t, x, tier, again)
    parts = [score_series(t[: len(first)], x[: len(first)], tier, state)]
    moved = np.frombuffer(state.tobytes(), dtype).copy()  # as a saved profile
    parts.append(score_series(t[len(first) :], x[len(first) :], tier, moved))
    assert np.array_equal(np.concatenate(parts), whole)
    assert moved.tobytes() == again.tobytes()
    assert is_finite(moved) and np.isfinite(whole["score"]).all() and (whole["score"] >= 0).all()


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, 1.0])), min_size=1, max_size=80))
def test_levels_hold_every_row_and_the_usual_one_is_not_rare(values) -> None:
    state = np.zeros(1, LIGHT)
    for n, value in enumerate(values):
        found = rarity(state, 0, 0, value)
        assert 0.0 <= found <= 1.0
        assert int(state["levels"].sum()) == n + 1
        assert state["low"][0, 0] <= np.float32(value) <= state["high"][0, 0]
    assert state["levels"].shape == (1, 1, LEVELS)


PAYLOADS = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6).map(lambda v: b'{"t":%.3f,"h":50}' % v),
        st.integers(0, 9_999).map(lambda k: b'{"junk%d":%d,"t":20.5}' % (k, k)),
        st.sampled_from([b'{"t":1e999}', b'{"t":null}', b'{"t":"NaN"}', b"{}", b'{"t":{"x":1}}', b'{"t":-1e308}']),
    ),
    min_size=1,
    max_size=60,
)


def lane_of(payloads, cuts, period_s: float) -> tuple[bytes, bytes, list]:
    """State and flags of a lane that takes the frames in batches."""
    detector = TwoTier(64 * LIGHT.itemsize, period_s, CpuBudget(1.0, lambda: 0), 2.0)
    state, flags, begin = LaneState(detector=detector), [], 0
    for number, end in enumerate([*sorted(cuts), len(payloads)]):
        if end <= begin:
            continue
        some = frames(*((f"d{k % 2}", k, payload) for k, payload in enumerate(payloads[begin:end], begin)))
        step = take_raw(state, state.next_raw, batch(some, number, T0_NS), limits(), bounds(), T0_NS)
        flags += [(begin + int(f["frame"]), int(f["cause"]), float(f["score"])) for f in step.record.flags]
        begin = end
    assert is_finite(detector.light) and is_finite(detector.full)
    return detector.gates[: state.used].tobytes(), detector.light.tobytes(), flags


@settings(max_examples=examples(40), deadline=None)
@given(PAYLOADS, st.lists(st.integers(0, 60), max_size=4), st.sampled_from([0.1, 10.0]))
def test_any_split_into_batches_gives_the_same_flags_and_state(payloads, cuts, period_s) -> None:
    cuts = [min(cut, len(payloads)) for cut in cuts]
    assert lane_of(payloads, cuts, period_s) == lane_of(payloads, [], period_s)


def test_ten_thousand_field_names_take_no_more_than_eight_channels_and_raise_no_flag() -> None:
    detector = TwoTier(1 << 20, 10.0, CpuBudget(1.0, lambda: 0))
    state, raised = LaneState(detector=detector), 0
    for n in range(200):
        some = frames(*(("a", 50 * n + k, b'{"f%d":%d}' % ((50 * n + k) % 10_000, k)) for k in range(50)))
        at_ns = T0_NS + n * 60 * S
        step = take_raw(state, n, batch(some, n, at_ns), limits(), bounds(), at_ns)
        raised += step.record.flagged
    assert detector.channels[0] <= 2 * (1 + MAX_FIELDS) and raised == 0
    assert len(state.path_names) <= 1024


@pytest.mark.parametrize("step_s", [86_400.0, 1e-4])
def test_one_frame_a_day_and_ten_thousand_a_second_raise_no_flag(step_s) -> None:
    detector, rng = TwoTier(1 << 20, 10.0, CpuBudget(1.0, lambda: 0)), np.random.default_rng(5)
    state, raised = LaneState(detector=detector), 0
    for n in range(300):
        some, count = [], 1 if step_s > 1 else 40
        some = frames(*(("a", count * n + k, b'{"t":%.1f}' % (20 + rng.normal())) for k in range(count)))
        at_ns = T0_NS + int(n * count * step_s * S)
        step = take_raw(state, n, batch(some, n, at_ns), limits(device_rate=1e6, device_burst=1e6), bounds(), at_ns)
        raised += step.record.flagged
    assert raised == 0


def test_clocks_that_jump_raise_no_flag_of_the_rhythm() -> None:
    detector = TwoTier(1 << 20, 10.0, CpuBudget(1.0, lambda: 0))
    state, raised = LaneState(detector=detector), 0
    for n in range(300):
        at_ns = T0_NS + n * 60 * S + (-(10**6) * S if n >= 150 else 0) + (2 * 10**6 * S if n >= 250 else 0)
        step = take_raw(state, n, batch(frames(("a", n, b'{"t":20.5}')), n, at_ns), limits(), bounds(), at_ns)
        raised += sum(int(f["cause"]) == 7 for f in step.record.flags)
    assert raised == 0
