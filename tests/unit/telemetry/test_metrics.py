"""Metrics: the names that dashboards rely on, labels from closed sets, frames that add up."""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from klais.cli.reference import _edge, _worker
from klais.core.wire.constants import Reason
from klais.telemetry.metrics import EdgeMetrics, WorkerMetrics
from klais.telemetry.snapshots import DROP_REASONS, TOPICS, EdgeSnapshot, Snapshot, WorkerSnapshot, reason_counts
from tests.support.needs import need_command

COUNTERS = ("packets_received", "packets_passed", "packets_dropped", "bytes_received", "kafka_messages", "kafka_errors")
GAUGES = ("queue_depth", "rate_limit", "tokens_available", "burst_probability", "anomaly_devices")
HISTOGRAMS = ("processing", "inference", "kafka")


def samples(metrics: EdgeMetrics | WorkerMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, kind = metrics.render()
    assert kind.startswith("text/plain")
    out = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in out, f"{key} twice"
            out[key] = sample.value
    return out


def families(metrics: EdgeMetrics | WorkerMetrics) -> dict[str, str]:
    return {family.name: family.type for family in text_string_to_metric_families(metrics.render()[0].decode())}


def fill(snapshot: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    snapshot.dropped[:] = rng.integers(0, 1000, len(snapshot.dropped))
    snapshot.passed, snapshot.queue_depth = int(rng.integers(1, 10_000)), int(rng.integers(0, 100))
    used = sum(int(snapshot.dropped[reason]) for reason in Reason)
    snapshot.received = snapshot.passed + snapshot.queue_depth + used
    return snapshot


@pytest.mark.parametrize("make", [lambda: EdgeMetrics(EdgeSnapshot), lambda: WorkerMetrics(WorkerSnapshot)])
def test_promised_names_and_types(make: Any) -> None:
    found = families(make())
    for name in COUNTERS:
        assert found[f"klais_{name}"] == "counter"
    for name in GAUGES:
        assert found[f"klais_{name}"] == "gauge"
    for name in HISTOGRAMS:
        assert found[f"klais_{name}_latency_seconds"] == "histogram"
    assert found["process_cpu_seconds"] == "counter"
    assert found["process_resident_memory_bytes"] == "gauge"
    assert not [name for name in found if not name.startswith(("klais_", "process_"))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("stage", "kind"), [("edge", EdgeSnapshot), ("lane", WorkerSnapshot)])
def test_frames_add_up_in_the_text(stage: str, kind: type[Snapshot], seed: int) -> None:
    snapshot = fill(kind(), seed)
    given: Any = snapshot
    found = samples(EdgeMetrics(lambda: given) if stage == "edge" else WorkerMetrics(lambda: given))
    dropped = {labels: value for (name, labels), value in found.items() if name == "klais_packets_dropped_total"}
    assert {dict(labels)["stage"] for labels in dropped} == {stage}
    of = frozenset({("stage", stage)})
    received = found["klais_packets_received_total", of]
    passed, queued = found["klais_packets_passed_total", of], found["klais_queue_depth", of]
    assert received == snapshot.received == passed + sum(dropped.values()) + queued


def test_reasons_show_from_the_start_and_only_those_of_the_stage() -> None:
    def shown(metrics: EdgeMetrics | WorkerMetrics) -> set[str]:
        return {dict(labels)["reason"] for (name, labels) in samples(metrics) if name == "klais_packets_dropped_total"}

    assert shown(EdgeMetrics(EdgeSnapshot)) == {reason.label for reason in DROP_REASONS["edge"]}
    assert shown(WorkerMetrics(WorkerSnapshot)) == {reason.label for reason in DROP_REASONS["lane"]}
    known = DROP_REASONS["edge"] | DROP_REASONS["lane"]
    assert known == set(Reason) - {Reason.PASSED, Reason.QUEUED}, "a new Reason belongs to a stage"
    odd = reason_counts()
    odd[Reason.BLOCKED] = 1
    assert "blocked" in shown(EdgeMetrics(lambda: EdgeSnapshot(dropped=odd))), (
        "counted, so shown, even where unexpected"
    )


def test_what_both_processes_have_says_of_which_stage_it_is() -> None:
    """Else a sum over both counts every frame twice."""
    both = set(families(EdgeMetrics(EdgeSnapshot))) & set(families(WorkerMetrics(WorkerSnapshot)))
    for metrics in (EdgeMetrics(EdgeSnapshot), WorkerMetrics(WorkerSnapshot)):
        for family in metrics.registry.collect():
            if family.name in both and not family.name.startswith("process_"):
                assert all("stage" in sample.labels for sample in family.samples), family.name


def test_drops_say_whether_a_rule_asked_for_them() -> None:
    for metrics in (EdgeMetrics(EdgeSnapshot), WorkerMetrics(WorkerSnapshot)):
        for name, labels in samples(metrics):
            if name == "klais_packets_dropped_total":
                found = dict(labels)
                assert found["intentional"] == str(Reason[found["reason"].upper()].intentional).lower()


def test_the_operations_page_says_of_every_drop_whether_it_is_intended() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+`) \| (?:edge|lane) \|[^|]*\| (yes|no) \|", page, re.MULTILINE)
    said = {name: answer == "yes" for names, answer in rows for name in re.findall(r"`([a-z_0-9]+)`", names)}
    assert said == {r.label: r.intentional for r in Reason if r is not Reason.PASSED}


@pytest.mark.parametrize("make", [_edge, _worker])
def test_promtool_finds_nothing_wrong_with_the_text(make: Any) -> None:
    """Names, units and types as Prometheus wants them."""
    command = [need_command("prometheus", "promtool"), "check", "metrics"]
    ran = subprocess.run(command, input=make().render()[0], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_topics_are_a_closed_set() -> None:
    counts = {"raw": 5, "my-secret-prefix.raw": 2, "device-7": 1}
    found = samples(EdgeMetrics(lambda: EdgeSnapshot(kafka_messages=counts)))
    topics = {dict(k)["topic"]: v for (name, k), v in found.items() if name == "klais_kafka_messages_total"}
    assert topics == dict.fromkeys(TOPICS, 0.0) | {"raw": 5.0, "other": 3.0}


def test_histograms_are_live_and_apart() -> None:
    first, second = EdgeMetrics(EdgeSnapshot), EdgeMetrics(EdgeSnapshot)
    first.kafka.observe(0.004)
    edge = frozenset({("stage", "edge")})
    assert samples(first)["klais_kafka_latency_seconds_count", edge] == 1
    assert samples(second)["klais_kafka_latency_seconds_count", edge] == 0


def test_a_scrape_sees_the_counters_of_now() -> None:
    counts = reason_counts()
    metrics = WorkerMetrics(lambda: WorkerSnapshot(verdicts=counts, lag_records={3: 8}))
    counts[Reason.QUEUED] = 4
    found = samples(metrics)
    assert found["klais_lane_frames_total", frozenset({("verdict", "queued")})] == 4
    assert found["klais_lag_records", frozenset({("partition", "3")})] == 8
