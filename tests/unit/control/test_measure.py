"""From records to inputs; the schema against what the processes really say; operators' wishes."""

import json
from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError

from klais.config.load import Settings
from klais.control.forecast import NOTHING
from klais.control.measure import measure
from klais.control.operator_requests import gains_of, operator_request, recovered, targets_of
from klais.control.overrides import merged
from klais.control.setpoints import ControlFollower
from klais.core.lane.state import LaneState, Tally
from klais.core.wire.constants import Reason
from klais.kafka.stats import FRESH_S, StatsFollower
from klais.system.cpu import CpuShare
from klais.telemetry.quantiles import Quantiles
from klais.telemetry.schema import Gauges, StatsRecord, schema_text
from klais.telemetry.stats import Due
from klais.telemetry.view import SystemView
from klais.worker.lane_statistics import LaneFigures
from tests.support.views import make_views

DOCS = Path(__file__).parents[3] / "docs"


def record(kind: str, name: str, gauges: dict, counters: dict | None = None, rates: dict | None = None, **more) -> dict:
    return {
        "v": 1, "kind": kind, "id": name, "at_ms": 1, "uptime_s": 1.0, "counters": counters or {}, "gauges": gauges,
        "rates": rates or {}, **more,
    }  # fmt: skip


def system(workers: dict, edges: dict) -> SystemView:
    return SystemView.of({"worker": workers, "edge": edges, "controller": {}}.__getitem__)


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    assert (DOCS / "klais_stats.schema.json").read_text() == schema_text()
    assert json.loads(schema_text())["properties"]["v"]["const"] == 1


def test_what_a_worker_says_fits_the_schema() -> None:
    views = make_views({})
    now = views.report.statistics(1.0)
    gauges = now.gauges().model_dump(exclude_none=True)
    said = record("worker", "w1", gauges | CpuShare().sample() | {"kafka_ms": Quantiles().sample()}, now.counters())
    StatsRecord.model_validate(json.loads(orjson.dumps(said)))
    assert {"lag_frames", "pending_frames", "demand", "queue_depth", "tokens", "lag_records"} <= set(gauges)
    assert set(gauges) <= set(Gauges.model_fields), "each gauge of a worker is in the schema"


def test_the_schema_refuses_what_is_wrong_and_reads_what_is_unknown() -> None:
    StatsRecord.model_validate(record("edge", "e", {"new_gauge": {"x": 1}}, new_field=[1]))
    for wrong in ({"v": 2}, {"kind": "toaster"}, {"id": ""}, {"counters": {"received": "many"}}):
        with pytest.raises(ValidationError):
            StatsRecord.model_validate(record("edge", "e", {}) | wrong)


def test_inputs_are_sums_over_the_workers_and_the_busiest_process() -> None:
    workers = {
        "w1": record("worker", "w1", {"lag_frames": {"0": 10.0, "1": 5.0}, "demand": {"0": 7.0}, "queue_depth": 3}),
        "w2": record("worker", "w2", {"lag_frames": {"2": 1.0}, "demand": {"2": 9.0, "x": 1.0}, "host_cpu_share": 0.9}),
    }
    edges = {
        "edge-1": record("edge", "edge-1", {"cpu_share": 1.7}, rates={"received": 100.0}, host="a"),
        "edge-2": record("edge", "edge-2", {}, rates={"received": 50.0}, host="a"),
        "edge-3": record("edge", "edge-3", {}, rates={}),
    }
    inputs = measure(system(workers, edges), NOTHING)
    assert (inputs.lag, inputs.queue_depth, inputs.cpu, inputs.fresh) == (16.0, 3.0, 1.0, True)
    assert inputs.demand == {0: 7.0, 2: 9.0}
    assert inputs.hosts == {"a": 150.0, "edge-3": 0.0}
    assert not measure(system({}, edges), NOTHING).fresh


@pytest.mark.parametrize(
    "gauges", [{}, {"lag_frames": 5, "demand": [1], "cpu_share": "x"}, {"lag_frames": {"0": None}}]
)
def test_a_record_of_another_make_is_no_reason_to_stop(gauges: dict) -> None:
    inputs = measure(system({"w": record("worker", "w", gauges)}, {}), NOTHING)
    assert (inputs.lag, inputs.cpu, inputs.demand) == (0.0, 0.0, {})


def test_lag_is_told_in_frames_and_demand_counts_what_waits() -> None:
    rates, state = LaneFigures(), LaneState()
    rates.sample([(0, state)], 0.0)
    for tick in range(1, 51):
        state.tally[Tally.RAW_RECORDS] += 2
        state.tally[Reason.PASSED] += 200
        rates.sample([(0, state)], tick * 0.1)
    assert rates.lag_frames({0: 7, 3: 9}) == {"0": 700.0, "3": 0.0}
    assert rates.demand([(0, state)])["0"] == pytest.approx(2000.0, rel=0.01)
    state.tally[Reason.PASSED] -= 5  # it recovered: some steps were lost and come again
    rates.sample([(0, state)], 6.0)
    assert rates.demand([(0, state)])["0"] == 0.0


def test_stale_senders_are_ignored_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("klais.telemetry.stats.time.monotonic", lambda: now[0])
    follower = StatsFollower(Settings())
    follower.consume("w1", orjson.dumps(record("worker", "w1", {})))
    now[0] += FRESH_S + 0.5
    follower.consume("w2", orjson.dumps(record("worker", "w2", {})))
    assert set(follower.newest("worker")) == {"w2"}
    senders = follower.senders()
    assert {name: sender["stale"] for name, sender in senders.items()} == {"w1": True, "w2": False}
    assert senders["w1"]["age_s"] == 3.5


def test_a_record_is_due_each_second_and_at_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    now, version = [0.0], [0]
    monkeypatch.setattr("klais.telemetry.stats.time.monotonic", lambda: now[0])
    due, said = Due(lambda: version[0]), []
    assert due.wait_s(0.25) == 0.75 and due.wait_s(7.0) == 0.0
    for tick in range(1, 51):
        version[0] += tick in (13, 14, 27)
        said.append(due.now(tick / 10))
    assert [tick for tick, what in enumerate(said, 1) if what == "regular"] == [10, 20, 30, 40, 50]
    assert [tick for tick, what in enumerate(said, 1) if what == "extra"] == [13, 14, 27]


def follower_of(settings: Settings, **records: dict) -> ControlFollower:
    follower = ControlFollower(settings)
    for scope, fields in records.items():
        follower.consume(scope, orjson.dumps(fields))
    return follower


def test_a_rate_that_is_set_holds_and_a_default_is_a_start() -> None:
    for settings, mode in (
        (Settings(), "auto"),
        (Settings(dam_max_rate=10_000), "fixed"),
        (Settings(dam_max_rate=5, control_auto=True), "auto"),
        (Settings(control_auto=False), "fixed"),
    ):
        assert operator_request(settings, follower_of(settings)).mode == mode
    stale = {"mode": "auto", "rate": 5.0, "shares": {"0": 1.0}, "hosts": {"h": {"rate": 1, "burst": 1}}}
    fixed = follower_of(Settings(control_auto=False), **{"global": stale})
    assert (fixed.rate(7.0), fixed.share(0, 1), fixed.intake("h")) == (7.0, 1.0, None)


def test_overrides_end_and_tune() -> None:
    settings = Settings()
    gone = follower_of(settings, override={"mode": "manual", "rate": 5.0, "until_ms": 1})
    assert operator_request(settings, gone).mode == "auto"
    assert gone.overrides() == []
    released = {"mode": "auto", "rate": None, "burst": None, "gains": None, "author": "me"}  # `klais control auto`
    assert follower_of(settings, override=released).overrides() == [], "the settings say the same"
    assert len(follower_of(Settings(dam_max_rate=5), override=released).overrides()) == 1, "it takes a fixed rate away"
    assert len(follower_of(settings, override=released | {"gains": {"kp": 3.0}}).overrides()) == 1
    tuned = follower_of(
        settings, override={"mode": "auto", "gains": {"kp": 3.0, "ki": -1.0}, "setpoints": {"lag": 7.0}}
    )
    assert (gains_of(settings, tuned).kp, gains_of(settings, tuned).ki) == (3.0, settings.pid_ki)
    assert targets_of(settings, tuned).lag == 7.0
    manual = follower_of(settings, override={"mode": "manual", "rate": 5.0, "author": "me", "reason": "why"})
    request = operator_request(settings, manual)
    assert (request.mode, request.rate, request.author, request.reason) == ("manual", 5.0, "me", "why")


@pytest.mark.parametrize(
    "found", [None, {}, {"mode": "fixed"}, {"mode": "auto"}, {"mode": "auto", "terms": {"i": "x"}}]
)
def test_a_record_without_state_begins_anew(found: dict | None) -> None:
    assert recovered(found, 4).output is None


def test_changes_leave_the_rest_of_a_record() -> None:
    before = {"scope": "device/x", "rate": 5, "block": True, "until_ms": 7}
    assert merged(before, {"block": None, "unblock": True, "until_ms": None}) == {"rate": 5, "unblock": True}


def test_lag_counts_records_by_what_edges_put_into_one_now_unless_it_is_old() -> None:
    def lag(records: int, taken_per_s: float, batches_per_s: float) -> float:
        gauges = {"lag": records, "lag_frames": {"0": 900.0 * records}}
        workers = {"w": record("worker", "w", gauges, rates={"raw_records": taken_per_s, "passed": 1.0})}
        edges = {"e": record("edge", "e", {}, rates={"passed": 3.0 * batches_per_s, "batches": batches_per_s})}
        return measure(system(workers, edges), NOTHING).lag

    assert lag(100, 50.0, 40.0) == 300.0  # edges began to shed: the records are small now
    assert lag(1000, 50.0, 40.0) == 900_000.0  # written long ago
    assert lag(100, 50.0, 0.5) == 90_000.0  # hardly anything is written: the edges say nothing about it
    assert lag(0, 0.0, 40.0) == 0.0


def test_what_passes_is_known_when_every_worker_has_measured_it() -> None:
    workers = {name: record("worker", name, {}, rates={"passed": 10.0}) for name in ("a", "b")}
    assert measure(system(workers, {}), NOTHING).passed == 20.0
    workers["c"] = record("worker", "c", {})
    assert measure(system(workers, {}), NOTHING).passed is None and measure(system({}, {}), NOTHING).passed is None
