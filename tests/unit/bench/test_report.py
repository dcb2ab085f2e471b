"""The benchmarks' pure parts: verdicts, spread, steady state, percentiles, and that every target names a benchmark."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench.__main__ import main
from bench.cases import latency
from bench.harness.report import TARGETS, Result, Sample, Spread, Target, machine, rates, rounded, shown, steady
from bench.paper_tables import BENCHES


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target("a", "us", "<=", 1.4, 1.0), 1.0, "goal met"),
        (Target("a", "us", "<=", 1.4, 1.0), 1.4, "must met"),
        (Target("a", "us", "<=", 1.4, 1.0), 1.41, "MUST MISSED"),
        (Target("a", "1/s", ">=", 180.0, 300.0), 300.0, "goal met"),
        (Target("a", "1/s", ">=", 180.0, 300.0), 180.0, "must met"),
        (Target("a", "1/s", ">=", 180.0, 300.0), 179.0, "MUST MISSED"),
        (Target("a", "MB", "<=", 180.0), 180.0, "must met"),
        (Target("a", "MB", "<=", None, 60.0), 61.0, "goal missed"),
    ],
)
def test_verdict(target, value, verdict):
    assert target.verdict(value) == verdict


def test_targets_belong_to_benchmarks_and_goals_are_harder_than_musts():
    assert set(TARGETS) <= BENCHES
    for target in (target for targets in TARGETS.values() for target in targets):
        assert target.must is not None or target.goal is not None
        if target.must is not None and target.goal is not None:
            assert target.meets(target.goal, target.must) and not target.meets(target.must, target.goal)


def test_result_holds_its_figures_to_the_targets():
    result = Result("latency", seconds=3.0)
    result.repeat("p50_ms", [12.0, 9.0, 11.0])
    assert result.figures["p50_ms"] == 11.0
    assert result.spread["p50_ms"] == Spread(9.0, 11.0, 12.0, 3)
    held = {one["figure"]: one["verdict"] for one in result.held_to()}
    assert held == {"p50_ms": "must met", "p99_ms": "not measured"}
    public = json.loads(json.dumps(result.public()))
    assert public["bench"] == "latency" and public["p50_ms"] == 11.0
    assert public["spread"]["p50_ms"] == {"min": 9.0, "median": 11.0, "max": 12.0, "repeats": 3}
    text = result.text()
    assert "p50_ms: must <= 15, goal <= 10 ms: must met" in text and "min 9, max 12 of 3" in text


def test_result_without_targets_is_shown():
    assert "x" in Result("kernels", figures={"x": 1.5}).text()


def samples(*done: int) -> list[Sample]:
    return [Sample(at_s=0.1 * i, cpu_s=0.01 * i, done=frames) for i, frames in enumerate(done)]


def test_steady_state_leaves_out_begin_and_end():
    first, last = steady(samples(0, 0, 10, 20, 60, 90, 99, 100), 100)
    assert (first.done, last.done) == (20, 90)
    found = rates(first, last)
    assert found["frames_per_s"] == pytest.approx(70 / 0.2)
    assert found["cpu_us_per_frame"] == pytest.approx(0.02 / 70 * 1e6)


def test_steady_state_of_a_quick_run_reaches_to_its_end():
    first, last = steady(samples(0, 40, 100), 100)
    assert (first.done, last.done) == (40, 100)


@pytest.mark.parametrize("done", [(), (0,), (0, 100), (0, 5, 10), (50, 50)])
def test_steady_state_needs_two_looks_at_it(done):
    with pytest.raises(ValueError, match="too few looks"):
        steady(samples(*done), 100)


def test_rounded_and_shown():
    assert rounded(1234567.0) == 1235000.0
    assert rounded(0.0) == 0.0
    assert [shown(v) for v in (1234567.0, 12.0, 0.77777, True)] == ["1,234,567", "12", "0.7778", "True"]


def test_machine_names_what_a_figure_depends_on():
    found = machine()
    assert found["cores"] >= 1 and found["memory_gb"] > 0 and found["cpu"] and found["kernel"].startswith("Linux")


def test_unknown_names_are_refused_before_anything_starts(capsys):
    with pytest.raises(SystemExit) as end:
        main(["nonsense"])
    assert end.value.code == 2
    assert "no benchmark nonsense" in capsys.readouterr().err


def test_delays_join_what_was_read_with_what_was_sent():
    sent = SimpleNamespace(
        header={"id_prefix": "sim-"},
        device=np.array([1, 0, 1], np.uint32),
        sequence=np.array([0, 0, 1], np.uint32),
        sent_at_ns=np.array([1_000_000, 2_000_000, 3_000_000], np.int64),
    )

    def record(device: int, sequence: int) -> bytes:
        return json.dumps({"device_id": f"sim-{device:06}", "seq": sequence, "ts": 0, "data": {}}).encode()

    looks = [(5_000_000, [record(1, 1), record(0, 0)]), (9_000_000, [record(1, 0), record(7, 7)])]
    left_ns, took_ms = latency.delays_ms(looks, sent)
    assert left_ns.tolist() == [1_000_000, 2_000_000, 3_000_000]
    assert took_ms.tolist() == [8.0, 3.0, 2.0]  # what nobody sent is left out
