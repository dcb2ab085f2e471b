"""The worker's wall clock is set forward and back: ends of blocks and limits stay where they are, devices known."""

import time

import numpy as np
import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.worker.forget import STEADY_S, SWEEP_S, Forgetter
from klais.worker.limits import LaneLimits
from tests.support.lane import batch, bounds, frames, limits

S = 1_000_000_000
NOW_S = 1_700_000_000
YEAR_S = 365 * 86_400


def test_a_block_that_a_wrong_clock_ended_is_in_force_again_when_the_clock_is_right(monkeypatch: pytest.MonkeyPatch):
    now_ns = [NOW_S * S]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns[0])
    follower = ControlFollower(Settings())
    until = (NOW_S + 3600) * 1000
    follower.consume("device/a", b'{"block":true,"until_ms":%d,"rate":5,"limits_until_ms":%d}' % (until, until))
    lane = LaneLimits(Settings(), follower)
    for at_s, blocked in (
        (0, True),
        (YEAR_S, False),
        (1, True),
        (-NOW_S, True),
        (3599, True),
        (3600, False),
        (0, True),
    ):
        now_ns[0] = (NOW_S + at_s) * S
        assert (lane.blocked() == (b"a",), len(lane.device_overrides()) == 1) == (blocked, blocked), at_s


def lane_of_devices(count: int) -> LaneState:
    state = LaneState()
    value = batch(frames(*((f"d{n}", 1) for n in range(count))), at_ns=NOW_S * S)
    take_raw(state, 0, value, limits(), bounds(), NOW_S * S)
    return state


def test_a_clock_that_is_set_forward_makes_no_device_silent():
    state = lane_of_devices(5)
    forgetter = Forgetter(Settings(), LaneLimits(Settings(), None), 0)
    assert forgetter.step(state, NOW_S * S, 0.0) is None
    for second in (SWEEP_S + 1, SWEEP_S + 2, STEADY_S):
        assert forgetter.step(state, int(NOW_S + YEAR_S + second) * S, second) is None
    state.rows["last_seen_s"][: state.used - 1] = NOW_S + YEAR_S  # these sent since
    step = forgetter.step(state, int(NOW_S + YEAR_S + STEADY_S + SWEEP_S + 2) * S, STEADY_S + SWEEP_S + 2)
    assert step is not None and np.array_equal(step.record.forgotten[:, :2], [[ord("d"), ord("4")]])
