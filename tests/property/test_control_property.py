"""What must hold for any measurements: outputs within limits, no windup, shares that add up, cuts that do not flap."""

import math

from hypothesis import given
from hypothesis import strategies as st

from klais.control.cuts import HOLD_S, CutState, next_cut
from klais.control.decide import Inputs, LoopState, OperatorRequest, Targets, decide
from klais.control.forecast import TrafficForecast
from klais.control.pid import Gains, PidState, step, track
from klais.control.shares import FLOOR, share_out

NUMBER = st.floats(-1e6, 1e6)
GAIN = st.floats(0.0, 50.0)
GAINS = st.builds(Gains, GAIN, GAIN, GAIN, st.floats(0.0, 10.0))


@given(st.lists(st.tuples(NUMBER, NUMBER, GAINS, st.booleans(), st.floats(0.0, 1.0)), max_size=60))
def test_the_output_never_leaves_its_limits(ticks: list) -> None:
    state = PidState()
    for error, measurement, gains, manual, wanted in ticks:
        if manual:
            state, terms = track(state, gains, error, measurement, 0.1, wanted)
        else:
            state, terms = step(state, gains, error, measurement, 0.1, 0.0, 1.0)
        assert 0.0 <= terms.output <= 1.0
        assert math.isfinite(state.integral)


@given(st.integers(1, 2000), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_however_long_it_sat_at_a_limit_it_leaves_it_at_the_first_error_back(
    ticks: int, up: float, down: float
) -> None:
    gains, state = Gains(0.2, 0.1, 0.0, 0.5), PidState()
    for _ in range(ticks):
        state, before = step(state, gains, up, 0.0, 0.1, 0.0, 1.0)
    _, after = step(state, gains, -down, 0.0, 0.1, 0.0, 1.0)
    assert after.output < before.output


@given(st.dictionaries(st.integers(0, 31), st.floats(0, 1e9), max_size=32), st.integers(1, 32), st.floats(1, 1e7))
def test_shares_are_max_min_fair(demand: dict, partitions: int, rate: float) -> None:
    """From the definition: all is given, and whoever lacks has no less than anybody else."""
    demand = {p: want for p, want in demand.items() if p < partitions}
    found = share_out(demand, partitions, rate)
    even, near = 1 / partitions, 2e-6
    assert sorted(found) == list(range(partitions))
    assert abs(sum(found.values()) - 1.0) < 1e-4
    for p, want in demand.items():
        assert found[p] >= min(want / rate, even) - near
        assert found[p] >= FLOOR * even - near
        if found[p] < want / rate - near:
            assert found[p] >= max(found.values()) - near
    silent = [p for p in range(partitions) if p not in demand]
    again = share_out(dict.fromkeys(demand, 1e-9), partitions, rate, found)
    assert all(abs(again[p] - found[p]) < near for p in silent)  # nothing is known of them: they keep their last


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_a_cut_is_given_back_at_most_once_in_its_hold_time(probabilities: list) -> None:
    state, given_back = CutState(), [-1e9]
    for tick, probability in enumerate(probabilities):
        now_s = tick * 0.1
        after = next_cut(state, probability, now_s)
        assert after.cut in (0.0, 0.25, 0.5)
        assert after.cut >= (0.5 if probability > 0.8 else 0.25 if probability >= 0.5 else 0.0)
        if after.cut < state.cut:
            assert now_s - given_back[-1] >= HOLD_S - 1e-6
            given_back.append(now_s)
        state = after


MEASURED = st.builds(
    Inputs,
    lag=st.floats(0, 1e12),
    cpu=st.floats(0, 64),
    queue_depth=st.floats(0, 1e9),
    demand=st.dictionaries(st.integers(0, 3), st.floats(0, 1e9), max_size=4),
    hosts=st.dictionaries(st.sampled_from(["edge-1", "edge-2"]), st.floats(0, 1e9), max_size=2),
    forecast=st.builds(TrafficForecast, st.floats(0, 1), st.just(0.0), st.just(0.0), st.just("")),
    fresh=st.booleans(),
)
REQUESTS = st.one_of(
    st.just(OperatorRequest("auto")),
    st.builds(OperatorRequest, st.just("manual"), st.floats(1, 1e8)),
    st.just(OperatorRequest("fixed")),
)


@given(st.lists(st.tuples(MEASURED, REQUESTS), min_size=1, max_size=40))
def test_a_decision_is_within_its_bounds_and_its_parts_add_up(ticks: list) -> None:
    targets, state = Targets(1e5, 0.8, 1e3, 1e6, 1e4, 5e4, 1e6), LoopState()
    for tick, (inputs, request) in enumerate(ticks):
        state, decision = decide(state, inputs, targets, Gains(0.2, 0.1, 0.05, 0.5), request, 4, tick * 0.1, 0.1)
        if request.mode == "auto":
            assert targets.rate_min <= decision.rate <= targets.rate_max
        elif request.rate is not None:
            assert decision.rate == request.rate
        assert abs(sum(decision.shares.values()) - 1.0) < 1e-4
        assert set(decision.hosts) == set(inputs.hosts)
        if inputs.hosts:
            assert sum(rate for rate, _ in decision.hosts.values()) >= decision.rate * 0.999
        terms = decision.terms
        assert math.isclose(terms.raw, terms.p + terms.i + terms.d, abs_tol=1e-9)
