"""Records of ``klais_stats`` read into types: sums over processes, and fields of another type than the schema's."""

from typing import Any

import pytest

from klais.telemetry.view import ProcessView, SystemView, dropped_by_reason


def record(
    gauges: dict[str, Any] | None = None, rates: dict[str, Any] | None = None, **counters: Any
) -> dict[str, Any]:
    return {"counters": counters, "gauges": gauges or {}, "rates": rates or {}, "at_ms": 7}


def view(**kinds: dict[str, dict[str, Any]]) -> SystemView:
    return SystemView.of(lambda kind: kinds.get(kind, {}))


def test_sums_are_over_the_workers_and_drops_over_whom_you_name() -> None:
    gauges = {"queue_depth": 3, "rate_limit": 5.0, "lag_records": {"0": 1, "1": 0}}
    workers = {
        "a": record(gauges, {"passed": 2.0}, received=10, dropped={"blocked": 4, "duplicate": 1}),
        "b": record({"queue_depth": 4, "rate_limit": 6.0, "lag_records": {"3": 9}}, received=5, dropped={"blocked": 1}),
    }
    system = view(worker=workers, edge={"e": record(received=99, dropped={"bad_magic": 2})})
    assert (system.counter("received"), system.counter("dropped"), system.gauge("queue_depth")) == (15, 6, 7)
    assert (system.highest("rate_limit"), system.rate("passed"), system.live_lanes()) == (6.0, 2.0, {0, 1, 3})
    assert system.dropped() == {"blocked": 5, "duplicate": 1}
    assert dropped_by_reason(system.edges.values()) == {"bad_magic": 2}


def test_nobody_reports() -> None:
    system = view()
    assert (system.counter("received"), system.rate("received"), system.gauge("lag"), system.highest("rate_limit")) == (
        0,
        None,
        0,
        0,
    )
    assert (system.leader(), system.live_lanes(), system.dropped()) == (None, frozenset(), {})


def test_the_highest_epoch_is_in_charge() -> None:
    controllers = {"c-1": record({"epoch": 3}), "c-2": record({"epoch": 4}), "c-3": record()}
    assert view(controller=controllers).leader() == "c-2"
    assert view(controller={"c-3": record()}).leader() == "c-3"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lag": "many", "tokens": True, "lag_records": [1]},
        {"offenders": {"x": "?"}, "mode": "other", "breaker": 3},
        {"processing_ms": {"p50": 1.0}, "kafka_ms": {"p50": "x", "p99": 1.0, "count": 1}},
        {"demand": {"0": None}, "lag_frames": {"0": {}}},
    ],
)
def test_a_wrong_field_is_absent_and_the_others_count(wrong: dict[str, Any]) -> None:
    process = ProcessView.of("w", record(wrong | {"queue_depth": 3, "new_gauge": [1]}))
    assert process.gauges.queue_depth == 3
    assert not any(getattr(process.gauges, name) for name in wrong)


def test_a_wrong_entry_of_an_object_takes_only_itself_away() -> None:
    assert ProcessView.of("w", record({"offenders": {"x": 5.0, "y": "?"}})).gauges.offenders == {"x": 5.0}


def test_counters_and_rates_that_are_no_numbers_are_absent() -> None:
    process = ProcessView.of(
        "w", record(None, {"passed": None}, received="x", passed=3, dropped={"blocked": 2, "x": None})
    )
    assert process.counters == {"passed": 3, "dropped": 2}
    assert (process.dropped, process.rates, process.host, process.at_ms) == ({"blocked": 2}, {}, "w", 7)
