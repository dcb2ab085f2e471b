"""Blocks and limits end by Kafka's time where the clock of a host is wrong."""

import time

import orjson
import pytest

from klais.config.load import Settings
from klais.control.ends import blocks_now, in_force
from klais.control.setpoints import OVERRIDE, ControlFollower
from klais.system.shared_clock import FORGET_NS, TOLERANCE_S, SharedClock, shared

S = 1_000_000_000
DAY_NS = 86_400 * S


class Clocks:
    """Clocks of a host and of a broker, in ns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.right, self.ahead, self.monotonic = 1_790_000_000 * S, 0, 5 * S
        monkeypatch.setattr(time, "time_ns", lambda: self.right + self.ahead)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic)

    def pass_s(self, seconds: float) -> None:
        self.right += int(seconds * S)
        self.monotonic += int(seconds * S)

    @property
    def broker_ms(self) -> int:
        return self.right // 1_000_000


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_a_clock_that_is_about_right_is_used_as_it_is(clocks: Clocks) -> None:
    clock = SharedClock()
    clocks.ahead = DAY_NS
    assert clock.time_ns() == time.time_ns(), "nothing is known about the broker"
    clocks.ahead = int(TOLERANCE_S * S) - 1
    clock.heard(clocks.broker_ms)
    assert clock.time_ns() == time.time_ns()


@pytest.mark.parametrize("ahead_ns", [DAY_NS, -DAY_NS, 3600 * S])
def test_a_wrong_clock_and_its_steps_have_no_effect(clocks: Clocks, ahead_ns: int) -> None:
    clock = SharedClock()
    clock.heard(clocks.broker_ms)
    clocks.pass_s(3)
    clocks.ahead = ahead_ns
    assert abs(clock.time_ns() - clocks.right) < 1_000_000
    clocks.ahead = 0
    assert clock.time_ns() == clocks.right


def test_records_that_waited_to_be_read_do_not_set_it_back_but_the_broker_may(clocks: Clocks) -> None:
    clock = SharedClock()
    clocks.ahead = DAY_NS
    clock.heard(clocks.broker_ms)
    clock.heard(clocks.broker_ms - 600_000)
    assert abs(clock.time_ns() - clocks.right) < 1_000_000
    clocks.pass_s(FORGET_NS / S + 1)
    clock.heard(clocks.broker_ms - 600_000)
    assert abs(clock.time_ns() - (clocks.right - 600 * S)) < 1_000_000


def test_a_block_is_in_force_on_a_host_whose_clock_is_a_day_ahead(clocks: Clocks) -> None:
    clocks.ahead = DAY_NS
    block = {"block": True, "until_ms": clocks.broker_ms + 60_000}
    assert not blocks_now(block), "by its own clock"
    shared.heard(clocks.broker_ms)
    assert blocks_now(block) and in_force(block["until_ms"] * 1_000_000)
    clocks.pass_s(61)
    assert not blocks_now(block)


def test_an_operators_rate_is_in_force_on_a_host_whose_clock_is_a_day_ahead(clocks: Clocks) -> None:
    follower = ControlFollower(Settings())
    clocks.ahead = DAY_NS
    override = {"mode": "manual", "rate": 500.0, "until_ms": clocks.broker_ms + 60_000}
    follower.consume(OVERRIDE, orjson.dumps(override))
    assert follower.rate(9.0) == 9.0, "by its own clock"
    shared.heard(clocks.broker_ms)
    assert follower.rate(9.0) == 500.0
    clocks.pass_s(61)
    assert follower.rate(9.0) == 9.0
