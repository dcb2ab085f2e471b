"""A herd is let in and queued; an attack meets a lower limit a device; ordinary traffic notices neither."""

import orjson
import pytest

from klais.config.load import Settings
from klais.control.decide import Inputs, LoopState, OperatorRequest, Targets, decide, is_change
from klais.control.defence import ATTACK_S, MIN_CONFIDENCE, RELEASE_S, Defence, next_defence
from klais.control.forecast import TrafficForecast
from klais.control.pid import Gains
from klais.control.setpoints import ControlFollower
from klais.worker.limits import LaneLimits

GAINS = Gains(0.2, 0.1, 0.05, 0.5)
TARGETS = Targets(100_000, 0.8, 1000, 1e6, 10_000, 50_000, 1e6, device_rate=1000.0)


def forecast(kind: str, confidence: float = 0.9, probability: float = 0.9, busiest: float = 40.0) -> TrafficForecast:
    return TrafficForecast(probability, 2e4, 1e3, "", (1e4, 2e4, 5e4), kind, confidence, busiest, "test")


def one(state: LoopState, of: TrafficForecast, now_s: float, lag: float = 0.0):
    inputs = Inputs(lag=lag, cpu=0.1, passed=1000.0, forecast=of, fresh=True)
    return decide(state, inputs, TARGETS, GAINS, OperatorRequest("auto"), 4, now_s, 0.1)


def test_a_herd_is_not_cut_and_a_burst_is() -> None:
    start = LoopState(output=0.5)
    _, herd = one(start, forecast("thundering_herd"), 0.0)
    _, burst = one(start, forecast("burst"), 0.0)
    _, unsure = one(start, forecast("thundering_herd", MIN_CONFIDENCE - 0.01), 0.0)
    assert (herd.cut.cut, burst.cut.cut, unsure.cut.cut) == (0.0, 0.5, 0.5)
    assert herd.rate >= 5e4, "ready for the upper decile of the forecast"
    assert "devices reconnect" in herd.why()


def test_there_is_no_feed_forward_into_a_system_that_is_behind() -> None:
    start = LoopState(output=0.2)
    _, behind = one(start, forecast("thundering_herd"), 0.0, lag=300_000)
    assert behind.rate < 5e4


def test_an_attack_lowers_the_limit_after_a_while_and_the_calm_lifts_it() -> None:
    state = next_defence(Defence(), forecast("attack"), 1000.0, 10.0)
    assert state.limit is None
    state = next_defence(state, forecast("attack"), 1000.0, 10.0 + ATTACK_S)
    assert state.limit == 80.0, "twice what the busiest device usually sends"
    state = next_defence(state, forecast("attack", busiest=900.0), 1000.0, 13.0)
    assert state.limit == 80.0, "what an attacker sends does not count as usual"
    state = next_defence(state, forecast("normal"), 1000.0, 20.0)
    assert state.limit == 80.0
    assert next_defence(state, forecast("attack"), 1000.0, 21.0).limit == 80.0
    assert next_defence(state, forecast("normal"), 1000.0, 20.0 + RELEASE_S).limit is None


@pytest.mark.parametrize(("busiest", "limit"), [(0.0, 50.0), (400.0, 800.0), (5000.0, 1000.0)])
def test_the_limit_is_never_above_the_settings_and_never_nothing(busiest: float, limit: float) -> None:
    state = next_defence(Defence(attack_since_s=0.0), forecast("attack", busiest=busiest), 1000.0, 5.0)
    assert state.limit == limit


def test_who_is_not_sure_changes_nothing() -> None:
    assert (
        next_defence(Defence(attack_since_s=0.0), forecast("attack", MIN_CONFIDENCE - 0.01), 1000.0, 9.0) == Defence()
    )


def test_lanes_follow_the_lower_limit_and_only_in_auto() -> None:
    record = {"mode": "auto", "rate": 5e4, "burst": 5e4, "shares": {}, "hosts": {}, "device_rate": 80.0}
    for auto, expected in ((True, (80.0, 400.0)), (False, (1000.0, 5000.0))):
        settings = Settings(control_auto=auto)
        follower = ControlFollower(settings)
        follower.consume("global", orjson.dumps(record))
        limits = LaneLimits(settings, follower)
        assert limits.of_devices() == expected
        assert limits.tightened is auto
        assert limits.of_lane(0)[0].device_rate == expected[0]


def test_a_new_limit_is_worth_a_record() -> None:
    state = LoopState(output=0.5, defence=Defence(attack_since_s=-10.0))
    after, tight = one(state, forecast("attack", probability=0.0), 0.0)
    _, before = one(LoopState(output=0.5), forecast("normal", probability=0.0), 0.0)
    assert is_change(before, tight) and tight.record()["device_rate"] == 80.0
    assert after.defence.limit == 80.0 and "attack" in tight.why()
