"""The worker's wall clock is set forward and back: ends of blocks and limits stay where they are, devices known."""

import time
from typing import Any

import numpy as np
import orjson
import pytest

from klais.config.load import Settings
from klais.control.forecast import NoPredictor
from klais.control.setpoints import ControlFollower
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.kafka.stats import StatsFollower
from klais.system.shared_clock import shared
from klais.worker.forget import STEADY_S, SWEEP_S, Forgetter
from klais.worker.limits import LaneLimits
from klais.worker.term import Term
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


@pytest.mark.parametrize(("ahead_s", "corrected_s"), [(-3600, 3600), (3600, -3600), (-3, 0)])
async def test_a_block_of_a_leader_whose_clock_is_wrong_ends_by_kafkas_clock(ahead_s: int, corrected_s: int) -> None:
    settings, written = Settings(control_auto_block="on"), list[dict[str, Any]]()
    term = Term(settings, "controller-w1", NoPredictor(), None, StatsFollower(settings), dict)

    async def send(epoch: int, sender: Any, scope: str, record: dict[str, Any]) -> int:
        written.append(record)
        return len(written) - 1

    term._send = send
    term._offenders.update = lambda *_: {"flood": 60.0}
    shared.heard(round((time.time() - ahead_s) * 1000))
    begin_ms = (time.time() + corrected_s) * 1000
    await term._block_offenders(1, None, 0.0)
    (record,) = written
    assert begin_ms + 60_000 <= record["until_ms"] + 1 <= begin_ms + 600_000
    term._follower.consume("device/flood", orjson.dumps(record))
    await term._block_offenders(1, None, 1.0)
    assert len(written) == 1, "it is in force"


def test_a_step_of_the_wall_clock_does_not_move_the_time_of_incidents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day ahead for one second, all open incidents would close."""
    settings = Settings()
    term = Term(settings, "controller-w1", NoPredictor(), None, StatsFollower(settings), dict)
    assert term._ahead_s() == 0.0
    record = {"v": 1, "kind": "worker", "at_ms": NOW_S * 1000, "counters": {}, "gauges": {}, "rates": {}}
    term._stats.consume("w1", orjson.dumps(record), NOW_S * 1000)
    for step_s in (0, 86_400, -86_400):
        wall_ms = (NOW_S + step_s) * 1000
        monkeypatch.setattr(time, "time_ns", lambda wall_ms=wall_ms: wall_ms * 1_000_000)
        assert -1 <= wall_ms - 1000 * term._ahead_s() - NOW_S * 1000 < 60_000
