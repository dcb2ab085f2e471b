"""The controller's decision against a model of the worker, and each of its rules alone."""

from dataclasses import replace

import pytest

from klais.config.load import Settings
from klais.control.cuts import HOLD_S, CutState, next_cut
from klais.control.decide import (
    Inputs,
    LoopState,
    OperatorRequest,
    Targets,
    decide,
    errors_of,
    is_change,
    output_of,
    rate_of,
)
from klais.control.forecast import TrafficForecast
from klais.control.pid import Gains
from klais.edge.shedding import LoadShedder

DEFAULTS = Settings()
TARGETS = Targets(
    DEFAULTS.pid_lag_setpoint,
    DEFAULTS.pid_cpu_setpoint,
    DEFAULTS.pid_rate_min,
    DEFAULTS.pid_rate_max,
    DEFAULTS.dam_max_rate,
    DEFAULTS.dam_burst_size,
    DEFAULTS.dam_queue_limit,
)
GAINS = Gains(DEFAULTS.pid_kp, DEFAULTS.pid_ki, DEFAULTS.pid_kd, DEFAULTS.pid_filter_s)
AUTO = OperatorRequest("auto")
DT = DEFAULTS.pid_period_s


class Worker:
    """A worker with one CPU: taking a frame in costs ``take_us``, landing it ``land_us``; intake comes first."""

    def __init__(self, take_us: float = 1.5, land_us: float = 1.8) -> None:
        self.take_us, self.land_us = take_us, land_us
        self.lag = self.queue = self.landed = self.dropped = 0.0
        self.cpu = 0.0

    def run(self, arriving_per_s: float, rate: float, dt_s: float) -> None:
        self.lag += arriving_per_s * dt_s
        budget_us = dt_s * 1e6
        # Both go on side by side in the event loop: a backlog of either kind gets its part of the time.
        want_out = min(self.queue, rate * dt_s)
        land_us = min(want_out * self.land_us, budget_us)
        take = min(self.lag, (budget_us - land_us) / self.take_us)
        self.lag -= take
        self.queue += take
        out = min(want_out, land_us / self.land_us)
        self.queue -= out
        self.landed += out
        self.dropped += max(0.0, self.queue - TARGETS.queue_limit)
        self.queue = min(self.queue, TARGETS.queue_limit)
        self.cpu = (take * self.take_us + out * self.land_us) / budget_us


def simulate(
    arriving_per_s: list[float], late: int = 3, targets: Targets = TARGETS, sheds: bool = False, lag: float = 0.0
) -> tuple[Worker, list[tuple[float, float, float]]]:
    """Each item is one second; gives (landed a second, lag, rate) of each tick. Measurements come ``late`` ticks late.

    With ``sheds`` the edge lets no more in than its host's intake, and workers say what passed, a mean over a second.
    """
    worker, state, trace = Worker(), LoopState(), []
    worker.lag, intake, landed = lag, LoadShedder(), [0.0] * 11
    seen: list[Inputs] = []
    rate, now_s = TARGETS.rate_start, 0.0
    for per_s in arriving_per_s:
        for _ in range(round(1 / DT)):
            before = worker.landed
            now_s += DT
            worker.run(intake.acquire(round(per_s * DT), round(now_s * 1e9)) / DT, rate, DT)
            landed = [*landed[1:], worker.landed]
            passed = landed[-1] - landed[0] if sheds else None
            hosts = {"h": per_s} if sheds else {}
            seen.append(Inputs(worker.lag, worker.cpu, worker.queue, {0: per_s}, hosts, passed=passed, fresh=True))
            state, decision = decide(state, seen[max(0, len(seen) - 1 - late)], targets, GAINS, AUTO, 1, now_s, DT)
            rate = decision.rate
            if sheds:
                intake.limit(*decision.hosts["h"])
            trace.append(((worker.landed - before) / DT, worker.lag, rate))
    return worker, trace


CAPACITY = 1e6 / (1.5 + 1.8)


def test_an_idle_system_opens_and_stays_open() -> None:
    _, trace = simulate([1000.0] * 30)
    assert trace[0][2] == pytest.approx(TARGETS.rate_start, rel=0.5)
    assert all(rate == TARGETS.rate_max for _, _, rate in trace[100:])


@pytest.mark.parametrize("overload", [1.4, 2.0])
def test_overload_keeps_landing_nearly_all_it_can_and_ends_soon(overload: float) -> None:
    _, trace = simulate([0.5 * CAPACITY] * 15 + [overload * CAPACITY] * 60 + [0.2 * CAPACITY] * 10)
    during = [row[0] for row in trace[200:750]]
    # What is taken in and then dropped costs too: that is the goodput a worker can reach at this load.
    reachable = max(0.0, 1e6 - overload * CAPACITY * 1.5) / 1.8
    assert sum(during) / len(during) >= 0.9 * min(CAPACITY, reachable)
    assert max(row[1] for row in trace[250:750]) < 5 * TARGETS.lag
    assert all(row[1] < TARGETS.lag for row in trace[800:])


@pytest.mark.parametrize("late", [3, 10])
@pytest.mark.parametrize("overload", [1.4, 2.0, 5.0])
def test_what_the_edges_shed_leaves_the_worker_its_whole_capacity(overload: float, late: int) -> None:
    small = replace(TARGETS, queue_limit=CAPACITY)
    worker, trace = simulate(
        [0.3 * CAPACITY] * 15 + [overload * CAPACITY] * 60 + [0.3 * CAPACITY] * 10, late, small, True
    )
    during = [row[0] for row in trace[150:750]]
    assert sum(during) / len(during) >= 0.95 * CAPACITY
    for begin in range(200, 730):  # settled within 5 s, for good
        assert sum(during[begin - 150 : begin - 130]) / 20 >= 0.9 * CAPACITY
    assert max(row[1] for row in trace) < (1.5 + 0.2 * late) * CAPACITY * max(1.0, overload - 1.0)
    assert worker.dropped == 0.0
    assert all(row[1] < 0.05 * CAPACITY for row in trace[800:])


def test_a_backlog_of_an_outage_is_landed_at_full_speed_and_nothing_of_it_dropped() -> None:
    """The rate must not fall so far that the frames only move from klais_raw into the bounded queue."""
    worker, trace = simulate([0.2 * CAPACITY] * 60, targets=TARGETS, sheds=True, lag=20 * TARGETS.queue_limit)
    landed = [row[0] for row in trace[50:]]
    assert sum(landed) / len(landed) >= 0.9 * CAPACITY and worker.dropped == 0.0


def test_the_error_is_weighted_and_bounded() -> None:
    assert errors_of(0, 0, TARGETS).weighted == pytest.approx(1.0)
    assert errors_of(TARGETS.lag, TARGETS.cpu, TARGETS).weighted == pytest.approx(0.0)
    assert errors_of(1e12, 0.0, TARGETS).weighted == pytest.approx(-0.7 + 0.3)
    assert errors_of(0, 2 * TARGETS.cpu, TARGETS).weighted == pytest.approx(0.7 - 0.3)


def test_rate_and_output_are_inverse() -> None:
    for rate in (1000.0, 10_000.0, 123_456.0, 1_000_000.0):
        assert rate_of(output_of(rate, TARGETS), TARGETS) == pytest.approx(rate)
    assert output_of(1.0, TARGETS) == 0.0
    assert rate_of(2.0, TARGETS) == TARGETS.rate_max


def test_the_start_is_the_rate_that_is_set_and_unknown_holds_it() -> None:
    state, decision = decide(LoopState(), Inputs(), TARGETS, GAINS, AUTO, 4, 0.0, DT)
    assert decision.rate == pytest.approx(TARGETS.rate_start)
    for tick in range(100):
        state, decision = decide(state, Inputs(), TARGETS, GAINS, AUTO, 4, tick * DT, DT)
    assert decision.rate == pytest.approx(TARGETS.rate_start)
    assert "no worker" in decision.why()


def test_manual_holds_exactly_and_automatic_goes_on_from_there() -> None:
    state, calm = LoopState(), Inputs(fresh=True)
    for tick in range(50):
        state, decision = decide(state, calm, TARGETS, GAINS, AUTO, 4, tick * DT, DT)
    manual = OperatorRequest("manual", 5000.0, 700.0, "ops", "maintenance")
    for tick in range(50, 60):
        state, decision = decide(state, calm, TARGETS, GAINS, manual, 4, tick * DT, DT)
        assert (decision.rate, decision.burst) == (5000.0, 700.0)
    assert decision.record()["author"] == "ops"
    assert decision.record()["reason"] == "maintenance"
    _, decision = decide(state, calm, TARGETS, GAINS, AUTO, 4, 6.0, DT)
    assert 5000.0 <= decision.rate < 6000.0


def test_a_burst_cuts_at_once_and_is_given_back_after_a_calm_time() -> None:
    state, now_s = CutState(), 0.0
    state = next_cut(state, 0.6, now_s)
    assert (state.cut, state.alert) == (0.25, False)
    state = next_cut(state, 0.9, now_s)
    assert (state.cut, state.alert) == (0.5, True)
    assert next_cut(state, 0.75, 100.0).cut == 0.5  # within the hysteresis: never
    for _ in range(400):
        now_s += 0.1
        state = next_cut(state, 0.0, now_s)
        if now_s < HOLD_S - 0.2:
            assert state.cut == 0.5
        elif HOLD_S + 0.3 < now_s < 2 * HOLD_S - 0.2:
            assert state.cut == 0.25
    assert state.cut == 0.0


def test_a_probability_around_a_threshold_does_not_flap() -> None:
    state, changes = CutState(), 0
    for tick in range(6000):  # ten minutes around 0.5, and around 0.8
        probability = (0.5 if tick < 3000 else 0.8) + (0.05 if tick % 2 else -0.05)
        after = next_cut(state, probability, tick * 0.1)
        changes += after.cut != state.cut
        state = after
    assert changes == 2


def test_a_cut_takes_its_part_of_the_rate() -> None:
    state, calm = LoopState(), Inputs(fresh=True)
    for tick in range(200):
        state, decision = decide(state, calm, TARGETS, GAINS, AUTO, 1, tick * DT, DT)
    burst = Inputs(fresh=True, forecast=TrafficForecast(0.9, 1.0, 1.0, "test"))
    state, decision = decide(state, burst, TARGETS, GAINS, AUTO, 1, 21.0, DT)
    assert decision.rate == pytest.approx(TARGETS.rate_max / 2)
    assert decision.record()["alert"] is True
    assert "cut by 50 %" in decision.why()


def test_only_what_changes_something_is_written() -> None:
    state, before = decide(LoopState(), Inputs(fresh=True), TARGETS, GAINS, AUTO, 4, 0.0, DT)
    assert is_change(None, before)
    written, last = 0, before
    for tick in range(1, 600):
        state, decision = decide(state, Inputs(fresh=True), TARGETS, GAINS, AUTO, 4, tick * DT, DT)
        if is_change(last, decision):
            written, last = written + 1, decision
    assert last.rate == pytest.approx(TARGETS.rate_max, rel=0.01)
    assert written < 100  # until it is open; then nothing more
    state, decision = decide(state, Inputs(fresh=True), TARGETS, GAINS, OperatorRequest("manual", 3.0), 4, 60.0, DT)
    assert is_change(last, decision)


def test_the_edges_intake_is_what_drains_and_what_the_queue_can_hold() -> None:
    request = OperatorRequest("manual", 1000.0, 100.0)
    empty = Inputs(fresh=True, hosts={"edge-1": 50_000.0, "edge-2": 150_000.0})
    _, decision = decide(LoopState(), empty, TARGETS, GAINS, request, 1, 0.0, DT)
    assert sum(rate for rate, _ in decision.hosts.values()) == pytest.approx(1000.0 + TARGETS.queue_limit / 5)
    assert decision.hosts["edge-2"][0] > decision.hosts["edge-1"][0]
    halves = Inputs(fresh=True, lag=0.3 * TARGETS.queue_limit, queue_depth=0.3 * TARGETS.queue_limit, hosts={"e": 1.0})
    wide = OperatorRequest("manual", 1e6, 100.0, "ops", "test")
    for passed, drains in ((None, 1e6), (70_000.0, 70_000.0), (0.0, TARGETS.rate_min)):
        _, decision = decide(LoopState(), replace(halves, passed=passed), TARGETS, GAINS, wide, 1, 0.0, DT)
        room = 0.4 * TARGETS.queue_limit / 5 if passed is None else (2 / 3 - 0.6) * TARGETS.queue_limit / 2.5
        assert decision.hosts["e"][0] == pytest.approx(drains + room)
    over = replace(halves, lag=0.9 * TARGETS.queue_limit, passed=2_000_000.0)
    _, decision = decide(LoopState(), over, TARGETS, GAINS, wide, 1, 0.0, DT)
    rate, burst = decision.hosts["e"]
    assert rate == pytest.approx(1e6 - (1.2 - 2 / 3) * TARGETS.queue_limit / 2.5)
    assert burst == pytest.approx(0.1 * rate)  # nothing may wait, and yet a bucket needs room to let its rate through
    _, decision = decide(LoopState(), replace(over, lag=1e9), TARGETS, GAINS, wide, 1, 0.0, DT)
    assert decision.hosts["e"][0] == pytest.approx(0.5 * 1e6)
    full = Inputs(fresh=True, queue_depth=2 * TARGETS.queue_limit, hosts={"edge-1": 10.0})
    _, decision = decide(LoopState(), full, TARGETS, GAINS, request, 1, 0.0, DT)
    assert decision.hosts == {"edge-1": (1000.0, 100.0)}


def test_without_a_queue_the_edges_let_in_what_the_dam_lets_through() -> None:
    idle = Inputs(fresh=True, hosts={"one": 10.0, "two": 10.0})
    none = replace(TARGETS, queue_limit=0)
    _, decision = decide(LoopState(), idle, none, GAINS, OperatorRequest("manual", 40.0, 20.0), 1, 0.0, DT)
    assert decision.hosts == {"one": (20.0, 10.0), "two": (20.0, 10.0)}
