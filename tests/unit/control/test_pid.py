"""The PID controller against plain plants: step response, windup, noise, changes of gains and of manual/automatic."""

import numpy as np
import pytest

from klais.control.pid import Gains, PidState, step, track

GAINS = Gains(0.5, 0.2, 0.05, 0.5)
DT = 0.1


def run(gains: Gains, seconds: float, set_point: float = 1.0, lag_s: float = 1.0) -> list[float]:
    """A first-order plant under control: what it does after a step of the set-point."""
    state, y, out = PidState(), 0.0, []
    for _ in range(round(seconds / DT)):
        state, terms = step(state, gains, set_point - y, y, DT, 0.0, 2.0)
        y += (terms.output - y) * DT / lag_s
        out.append(y)
    return out


def test_step_response_settles_on_the_set_point_with_little_overshoot() -> None:
    y = run(Gains(1.0, 1.0, 0.05, 0.5), 20.0)
    assert max(y) < 1.2
    assert all(abs(value - 1.0) < 0.02 for value in y[100:])


def test_without_integral_an_offset_stays() -> None:
    y = run(Gains(1.0, 0.0, 0.0, 0.5), 20.0)
    assert y[-1] == pytest.approx(0.5, abs=0.01)  # kp / (1 + kp)


def test_no_windup_time_at_the_limit_does_not_delay_the_way_back() -> None:
    def ticks_until_it_moves(stuck: int) -> int:
        state = PidState()
        for _ in range(stuck):
            state, terms = step(state, GAINS, 1.0, 0.0, DT, 0.0, 1.0)
        assert terms.output == 1.0
        for tick in range(1000):
            state, terms = step(state, GAINS, -0.5, 1.5, DT, 0.0, 1.0)
            if terms.output < 1.0:
                return tick
        raise AssertionError("it never came back")

    assert ticks_until_it_moves(100) == ticks_until_it_moves(100_000) == 0


def test_the_derivative_sees_the_measurement_only_and_filters_noise() -> None:
    only_d = Gains(0.0, 0.0, 1.0, 1.0)
    state, _ = step(PidState(), only_d, 0.0, 5.0, DT, -100.0, 100.0)
    _, terms = step(state, only_d, 50.0, 5.0, DT, -100.0, 100.0)  # the set-point jumps
    assert terms.output == 0.0
    rng, state, unfiltered, d = np.random.default_rng(1), PidState(), [], []
    y_before = 0.0
    for y in rng.normal(0.0, 1.0, 1000).tolist():
        state, terms = step(state, only_d, 0.0, y, DT, -100.0, 100.0)
        d.append(terms.d)
        unfiltered.append((y - y_before) / DT)
        y_before = y
    assert np.std(d) < np.std(unfiltered) / 8


def test_a_change_of_gains_makes_no_bump() -> None:
    state = PidState()
    for y in (0.2, 0.4, 0.5, 0.55):
        state, before = step(state, GAINS, 1.0 - y, y, DT, -10.0, 10.0)
    # The same measurement again: what differs is one more step of integral, and the filter's run-out.
    new = Gains(2.0, 0.2, 0.4, 0.5)
    _, stays = step(state, GAINS, 0.45, 0.55, DT, -10.0, 10.0)
    _, after = step(state, new, 0.45, 0.55, DT, -10.0, 10.0)
    slope_change = abs(stays.d - before.d) * new.kd / GAINS.kd
    assert abs(after.output - stays.output) <= slope_change + 1e-12
    assert after.p == pytest.approx(0.9)


def test_manual_to_automatic_makes_no_bump() -> None:
    state, output = PidState(), 0.37
    for _ in range(50):
        state, terms = track(state, GAINS, 0.8, 0.2, DT, output)
        assert terms.output == output
    _, terms = step(state, GAINS, 0.8, 0.2, DT, 0.0, 1.0)
    assert terms.output == pytest.approx(output + GAINS.ki * 0.8 * DT)


@pytest.mark.parametrize("dt_s", [0.0, -0.1])
def test_time_must_go_on(dt_s: float) -> None:
    with pytest.raises(ValueError, match="dt_s"):
        step(PidState(filtered=0.0), GAINS, 0.0, 0.0, dt_s, 0.0, 1.0)
