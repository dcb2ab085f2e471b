"""Records of ``klais_control`` and ``klais_stats`` with other values in them, through all that reads them.

What one client may write there must not end a follower, a term of the controller, a page or a command.
"""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from klais.cli.control import line, override_line
from klais.config.load import Settings
from klais.control.decide import LoopState, decide, is_change
from klais.control.forecast import TrendPredictor
from klais.control.incidents import Mutes, Wanted, mutes_in_force, page
from klais.control.measure import activity_of, measure, offenders_of
from klais.control.offenders import Offenders, own_blocks
from klais.control.operator_requests import gains_of, operator_request, recovered, targets_of
from klais.control.overrides import merged
from klais.control.setpoints import ControlFollower
from klais.control.shown import control_in_force
from klais.control.window import TrafficWindow
from klais.control.xdp_applier import Applier
from klais.core.incidents.grouping import Grouping, Rules
from klais.core.incidents.incident import facts
from klais.core.incidents.summary import FlagSeen, read_flag
from klais.edge.blocked_sources import ranges_of
from klais.edge.host_checks import ClockCheck
from klais.edge.linger import LingerController
from klais.edge.shedding import HostLimit, LoadShedder
from klais.edge.worker_load import WorkerLoad
from klais.kafka.same_id import SameIdCheck
from klais.kafka.stats import StatsFollower
from klais.telemetry.view import SystemView
from klais.text import escape
from klais.ui.incidents import incident_body
from klais.ui.sample import Sampler
from klais.ui.status import problems, sentence
from klais.worker.limits import LaneLimits
from tests.hostile.cases import CASES, SEED, changed, rng

T0_MS = 1_700_000_000_000
PARTITIONS = 4
DEFAULTS = Settings(control_auto=True)


def flags(count: int, cause: str = "level") -> list[FlagSeen]:
    return [FlagSeen(f"dev-{k}", "t", cause, T0_MS + k, 12.0 + k, 9.0, 5.0, explanation="t is 9") for k in range(count)]


def grouping() -> Grouping:
    """Incidents of all kinds, and flags that wait."""
    made = Grouping(Rules())
    for flag in flags(5):
        made.absorb(flag)
    made.settle(T0_MS + 1000)
    made.absorb(FlagSeen("lone", "h", "stuck", T0_MS, 20.0))
    made.settle(T0_MS + 60_000)
    made.fleet(FlagSeen("", "frames_per_s", "burst", T0_MS, 4.0, 900.0, 100.0), T0_MS + 60_000)
    made.absorb(FlagSeen("waits", "p", "level", T0_MS + 60_000, 5.0, 1.0, 2.0, firmware="2.1"))
    made.settle(T0_MS + 60_001)
    return made


def good_records() -> dict[str, Any]:
    """Records as their writers make them, by scope."""
    made = grouping()
    state, decision = LoopState(), None
    for second in range(2):
        state, decision = decide(
            state,
            measure(
                SystemView.of(lambda kind: {kind: STATS | {"kind": kind}}), TrendPredictor().predict(np.zeros((1, 13)))
            ),
            targets_of(DEFAULTS, ControlFollower(DEFAULTS)),
            gains_of(DEFAULTS, ControlFollower(DEFAULTS)),
            operator_request(DEFAULTS, ControlFollower(DEFAULTS)),
            PARTITIONS,
            float(second),
            1.0,
        )
    assert decision is not None
    incidents = {f"incident/{one.id}": one.state() for one in made.incidents.values()}
    assert len(incidents) == 3
    first = next(iter(incidents)).removeprefix("incident/")
    who = {"author": "ops", "reason": "why", "at": T0_MS}
    return {
        "global": decision.record() | {"mode": "auto", "by": "w", "term": 3, "at": T0_MS},
        "override": {"mode": "auto", "burst": 10, "gains": {"kp": 1.0}, "setpoints": {"lag": 5000, "cpu": 0.5}, **who},
        "device/a": {"block": True, "until_ms": 99 * T0_MS // 50, **who | {"author": "controller"}},
        "device/b": {"rate": 5, "burst": 6, "limits_until_ms": 2 * T0_MS, "forget_ms": T0_MS, **who},
        "source/192.0.2.0/24": {"block": True, "until_ms": 2 * T0_MS, **who},
        "source/2001:db8::/32": {"block": True, **who},
        "edge/e": {"first": 1024, "count": 2},
        **incidents,
        "incidents": made.state() | {"next": {"0": 5, "1": 7}, "floor": 4, "unsent": {first: 1}},
        f"ack/{first}": {"ack": True, "until_ms": None, **who},
        "mute/device/dev-1": {"mute": True, "until_ms": 2 * T0_MS, **who},
        "mute/prefix/test-": {"mute": True, **who},
        "mute/feature/t": {"mute": True, "until_ms": None, **who},
    }


STATS: dict[str, Any] = {
    "v": 1, "kind": "worker", "id": "w", "host": "h", "instance": "i", "at_ms": T0_MS, "uptime_s": 5.0,
    "counters": {"received": 9, "received_bytes": 900, "passed": 5, "dropped": {"duplicate": 1, "bad_json": 2}},
    "rates": {"received": 9.0, "passed": 5.0, "raw_records": 2.0, "batches": 2.0, "dropped": 3.0},
    "gauges": {
        "queue_depth": 1, "lag": 2.0, "lag_records": {"0": 1.0}, "lag_frames": {"0": 9.0}, "lag_s": {"0": 1.0},
        "demand": {"0": 10.0, "1": 5.0}, "cpu_share": 0.5, "host_cpu_share": 0.2, "offenders": {"dev-1": 200.0},
        "traffic": {"seconds": 1.0, "frames": 9, "devices": 3.0, "log_sum": 2.0, "top": 4, "bytes": 90,
                    "bytes_squared": 1e3},
        "kafka_ms": {"p50": 1, "p99": 2, "count": 3}, "processing_ms": {"p50": 1, "p99": 2, "count": 3},
        "breaker": "open", "epoch": 3, "devices": 5, "checkpoint_age_s": 70.0, "spooled": 4, "lanes_live": 1,
    },
}  # fmt: skip


def tried(name: str, share: int, look: Callable[[np.random.Generator, int], bool]) -> None:
    random, outcomes = rng(name), [0, 0]
    for turn in range(max(100, CASES // share)):
        outcomes[look(random, turn)] += 1
    assert all(outcomes), outcomes


def on_failure(what: Any) -> str:
    return f"seed {SEED}: {orjson.dumps(what).decode()}"


def read_all(follower: ControlFollower, settings: Settings) -> None:
    """What edge, worker, controller, page and commands do with records that a follower took."""
    records = follower.records()
    limits = LaneLimits(settings, follower)
    for partition in range(PARTITIONS):
        lane, bounds = limits.of_lane(partition)
        assert all(np.isfinite(value) and value >= 0 for value in astuple(lane)), lane
        assert np.isfinite(bounds.overrides["rate"]).all() and (bounds.overrides["rate"] > 0).all()
    assert follower.intake("h") is None or all(np.isfinite(value) and value > 0 for value in follower.intake("h") or ())
    request, targets = operator_request(settings, follower), targets_of(settings, follower)
    gains, state = gains_of(settings, follower), recovered(follower.record("global"), PARTITIONS)
    inputs = measure(
        SystemView.of(lambda kind: {kind: STATS | {"kind": kind}}), TrendPredictor().predict(np.zeros((1, 13)))
    )
    for second in range(3):
        state, decision = decide(state, inputs, targets, gains, request, PARTITIONS, float(second), 1.0)
        sound(decision)
    own_blocks(records, T0_MS)
    blocked = tuple(follower.blocked_sources_in_force())
    assert len(ranges_of(blocked).entry) <= 2 * len(blocked)
    before = follower.record("device/a") or {}
    orjson.dumps(merged(before, {"block": True}))
    shown = [control_in_force(follower, settings, 100), follower.overrides(), page(records, Wanted(), T0_MS)]
    for incident in page(records, Wanted(unacknowledged=True), T0_MS)["items"]:
        shown.append(facts(incident))
        shown.append(incident_body(records, incident["id"]))
    shown.append(mutes_in_force(records, T0_MS))
    orjson.dumps(shown)
    for flag in flags(2):
        Mutes.of(records, T0_MS).cover(flag)
    for record in follower.decisions:
        line(record)
    for record in follower.overrides():
        override_line(record)


def sound(decision: Any) -> None:
    """A decision that all followers take."""
    record = decision.record()
    again = ControlFollower(DEFAULTS)
    again.consume("global", orjson.dumps(record))
    assert 0 < decision.rate < 1e15 and 0 < decision.burst < 1e300
    assert all(0 <= share <= 1 for share in decision.shares.values()), decision.shares
    is_change(decision, decision)


def test_any_control_record_is_refused_or_all_readers_go_on(tmp_path: Path) -> None:
    settings, good = Settings(state_dir=tmp_path, control_auto=True), good_records()
    scopes, whole = list(good), {name: orjson.dumps(record) for name, record in good.items()}

    def look(random: np.random.Generator, turn: int) -> bool:
        follower, taken = ControlFollower(settings), True
        scope = scopes[turn % len(scopes)]
        wrong = changed(random, good[scope])
        for name, value in (whole | {scope: orjson.dumps(wrong)}).items():
            try:
                follower.consume(name, value)
            except ValueError as error:
                assert name == scope, (name, error)
                taken = False
        try:
            read_all(follower, settings)
        except Exception as error:
            raise AssertionError(on_failure({scope: wrong})) from error
        return taken

    tried("control records", 400, look)


def test_any_state_of_incidents_is_refused_or_the_grouping_goes_on() -> None:
    good = good_records()
    names = [name for name in good if name.startswith("incident")]

    def look(random: np.random.Generator, turn: int) -> bool:
        name = names[turn % len(names)]
        wrong = orjson.loads(orjson.dumps(changed(random, good[name])))
        records = good | {name: wrong}
        made, taken = Grouping(Rules()), True
        try:
            state = records["incidents"]
            made.restore(
                state if isinstance(state, dict) else {},
                [records[n] for n in names if n != "incidents" and isinstance(records[n], dict)],
            )
        except ValueError:
            made, taken = Grouping(Rules()), False
        try:
            for at, flag in enumerate(flags(6) + flags(3, "silence")):
                made.absorb(flag)
                if at % 3 == 2:
                    made.settle(T0_MS + 61_000 + at)
            made.settle(T0_MS + 3_000_000)
            orjson.dumps([made.state(), *(one.state() for one in made.take_dirty())])
        except Exception as error:
            raise AssertionError(on_failure({name: wrong})) from error
        return taken

    tried("incident states", 200, look)


def test_any_statistics_record_is_refused_or_the_controller_goes_on() -> None:
    settings = Settings(control_auto=True)
    follower = ControlFollower(settings)
    targets, gains, request = (
        targets_of(settings, follower),
        gains_of(settings, follower),
        operator_request(settings, follower),
    )

    def look(random: np.random.Generator, turn: int) -> bool:
        wrong = orjson.loads(orjson.dumps(changed(random, STATS, 6)))
        if not isinstance(wrong, dict) or not all(
            isinstance(wrong.get(k), dict) for k in ("counters", "gauges", "rates")
        ):
            return False
        try:
            window, sampler, state, offenders = TrafficWindow(), Sampler(), LoopState(), Offenders()
            for second in range(11):
                other = STATS if second % 2 else wrong
                system = SystemView.of(
                    lambda kind, other=other: {f"{kind}-{n}": other | {"kind": kind} for n in range(2)}
                )
                window.add(float(second), system)
                assert all(math.isfinite(value) for value in activity_of(system).values())
                forecast = TrendPredictor().predict(window.rows())
                state, decision = decide(
                    state, measure(system, forecast), targets, gains, request, PARTITIONS, float(second), 1.0
                )
                sound(decision)
                offenders.update(float(second), offenders_of(system))
                sample = sampler.sample(system, float(second))
                orjson.dumps([sample, found := problems(sample, system, PARTITIONS), sentence(found, sample, sample)])
                system.leader(), system.live_lanes(), system.counter("passed"), system.dropped()
        except Exception as error:
            raise AssertionError(on_failure(wrong)) from error
        return True

    tried("stats records", 1200, look)


def test_any_statistics_record_is_refused_or_the_edges_go_on() -> None:
    """An edge reads the records of all processes in the thread that receives frames."""
    settings = Settings(control_auto=True)
    control = ControlFollower(settings)
    limits = {"hosts": {"h": {"rate": 5000.0, "burst": 100.0}}, "mode": "auto", "rate": 5000.0}
    control.consume("global", orjson.dumps(limits))
    applier = Applier(settings, control)

    def look(random: np.random.Generator, turn: int) -> bool:
        wrong, taken = changed(random, STATS, 6), True
        system = StatsFollower(settings)
        shedder, linger = LoadShedder(4), LingerController(5_000_000, 1 << 24, 1024)
        try:
            for name, kind in (("edge-1", "edge"), ("edge-2", "edge"), ("w", "worker"), ("c", "controller")):
                record = STATS if name == "edge-1" and turn % 2 else wrong
                record = record | {"kind": kind} if isinstance(record, dict) else record
                try:
                    system.consume(name, orjson.dumps(record), T0_MS)
                except ValueError:
                    taken = False
            HostLimit(shedder, "edge-1", "h", control, system, applier).on_tick(1.0)
            WorkerLoad(linger, system).on_tick(10.0)
            SameIdCheck(system, "edge-1", "j").on_tick(1.0)
            clock = ClockCheck(system, "edge-1")
            clock.problem()
            assert 0 <= clock.record_ms() < 1 << 62
            assert shedder.rate_per_s > 0 and 0 <= shedder.acquire(10, 1) <= 10
            assert 0 < linger.linger_ns < 10**12
            orjson.dumps([system.newest("worker"), system.senders()])
        except Exception as error:
            raise AssertionError(on_failure(wrong)) from error
        return taken

    tried("stats records at the edge", 1200, look)


@pytest.mark.parametrize("value", ["x", None, [1], {}, True, -1.0, 1e300, -1e300, 10**400, ""])
def test_no_value_of_another_process_ends_an_edge(value: Any) -> None:
    settings = Settings(control_auto=True)
    control, system = ControlFollower(settings), StatsFollower(settings)
    limits = {"hosts": {"h": {"rate": 5000.0, "burst": 100.0}}, "mode": "auto", "rate": 5000.0}
    control.consume("global", orjson.dumps(limits))
    gauges = {"cpu_share": value, "host_cpu_share": value}
    record = STATS | {"at_ms": value, "rates": {"received": value}, "gauges": gauges}
    for name, kind in (("edge-1", "edge"), ("edge-2", "edge"), ("w", "worker"), ("c", "controller")):
        text = json.dumps(record | {"kind": kind}).encode()
        with suppress(ValueError):  # a number that no JSON parser of ours takes
            system.consume(name, text, T0_MS)
    HostLimit(LoadShedder(4), "edge-1", "h", control, system, Applier(settings, control)).on_tick(1.0)
    WorkerLoad(LingerController(5_000_000, 1 << 24, 1024), system).on_tick(10.0)
    assert 0 <= ClockCheck(system, "edge-1").record_ms() < 1 << 62


def test_any_flag_is_read_or_left_out() -> None:
    good = {
        "kind": "flag",
        "device_id": "a",
        "feature": "t",
        "cause": "level",
        "score": 9.0,
        "value": 1.0,
        "expected": 2,
    }
    good |= {"before": 3, "edge": 1, "firmware": "2", "explanation": "t is 1"}

    def look(random: np.random.Generator, turn: int) -> bool:
        wrong = changed(random, good)
        try:
            flag = read_flag(orjson.dumps(wrong), 0, T0_MS)
            if flag is None:
                return False
            made = Grouping(Rules(devices=1))
            made.absorb(flag)
            made.absorb(flags(1)[0])
            made.settle(T0_MS + 100), made.settle(T0_MS + 100_000)
            for one in made.incidents.values():
                assert escape(one.state()["explanation"]).isprintable()
                orjson.dumps(one.state())
        except Exception as error:
            raise AssertionError(on_failure(wrong)) from error
        return True

    tried("flags", 100, look)
