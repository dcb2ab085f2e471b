"""``klais lag``: lanes of all workers, trends, and the time to catch up, from bodies of ``/topics/``."""

from types import SimpleNamespace
from typing import Any

import pytest

from klais.cli.lag import LagRows, lanes_of, unreported


def body(lag: int, in_per_s: float | None = 100.0, out_per_s: float | None = None, lanes: int = 0) -> dict[str, Any]:
    group = {"lag": lag, "out_per_s": out_per_s}
    of_lanes = {"lag_records": {"0": lanes}, "lag": lanes, "lag_s": {"0": 1.5, "1": 2.5}}
    topics = {"raw": {"in_per_s": in_per_s, "groups": {"g": group}}, "other": {"in_per_s": None, "groups": None}}
    return {"topics": topics, "lanes": of_lanes}


def test_lanes_are_those_of_all_workers() -> None:
    gauges = {"lag_records": {"0": 5.0, "2": 7.0}, "lag_s": {"0": 1.0, "2": 9.5}}
    workers = [{"gauges": gauges}, {"gauges": {"lag_records": {"1": 1.0}, "lag_s": {"1": 2.0}}}, {}]
    lanes, _ = LagRows().rows(body(0) | {"lanes": lanes_of({"workers": workers})}, 0.0)
    assert (lanes["group"], lanes["lag"], lanes["lag_s"]) == ("(lanes)", 13, 9.5)
    assert lanes_of({}) == lanes_of({"workers": []}) == {}
    assert LagRows().rows(body(0), 0.0)[0]["group"] == "(lanes here)"  # of a worker that has no stream


def test_lanes_that_no_worker_reports_are_named() -> None:
    some = body(0) | {"lanes": lanes_of({"workers": [{"gauges": {"lag_records": {"1": 1.0}, "lag_s": {"1": 2.0}}}]})}
    some["topics"]["raw"]["end_offsets"] = {"0": 5, "1": 5, "10": 5, "2": 5}
    some["topics"]["other"]["end_offsets"] = None
    assert unreported(some) == ["0", "2", "10"]
    assert unreported(body(0)) == [], "a worker that knows only its own lanes"


def test_trend_and_time_to_clear() -> None:
    lag_rows = LagRows()
    lanes, group = (SimpleNamespace(**row) for row in lag_rows.rows(body(1010, None, lanes=10), 0.0))
    assert (lanes.lag_s, lanes.trend, group.trend, group.clear_s) == (2.5, None, None, None)
    lanes, group = (SimpleNamespace(**row) for row in lag_rows.rows(body(810, 10.0, lanes=20), 10.0))
    assert (group.trend, group.clear_s) == ("falls", 40.5)
    assert (lanes.trend, lanes.clear_s) == ("grows", None)
    (_, group) = (SimpleNamespace(**row) for row in lag_rows.rows(body(1600, 10.0), 20.0))
    assert (group.trend, group.clear_s) == ("grows", None)
    (_, group) = (SimpleNamespace(**row) for row in lag_rows.rows(body(0), 30.0))
    assert (group.trend, group.clear_s) == ("steady", 0.0)


def test_a_group_whose_rate_the_worker_knows_needs_one_look() -> None:
    (_, group) = LagRows().rows(body(1001, 100.0, 150.1), 0.0)
    assert (group["trend"], group["clear_s"]) == ("falls", pytest.approx(1001 / 50.1))
    (_, group) = LagRows().rows(body(1001, 100.0, 99.0), 0.0)
    assert (group["trend"], group["clear_s"]) == ("steady", None)


def test_what_waits_for_the_next_commit_is_no_trend() -> None:
    lag_rows = LagRows()
    lag_rows.rows(body(10, 100.0), 0.0)
    (_, group) = lag_rows.rows(body(1000, 100.0), 2.0)
    assert (group["trend"], group["clear_s"]) == ("steady", None)
