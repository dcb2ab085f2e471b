"""Every alert is known to Prometheus, fires on the series it is meant for, stays silent on the others, and has an entry
in docs/alerts.md.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from klais.cli.reference import metric_labels
from klais.core.wire.constants import Reason
from tests.support.needs import need_command

REPO = Path(__file__).parents[3]
RULES = REPO / "deploy" / "prometheus" / "klais.rules.yml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
SEVERITIES = {"info", "warning", "critical"}


@dataclass(frozen=True)
class Case:
    """Series (in promtool's notation, one a minute) on which an alert fires at ``at``, and others on which it does
    not.
    """

    fires: dict[str, str]
    silent: dict[str, str]
    at: str = "20m"


def edge(name: str, **labels: str) -> str:
    """A series of an edge."""
    return _series(name, job="klais-edge", instance="edge:8080", **labels)


def worker(name: str, n: int = 1, **labels: str) -> str:
    """A series of a worker."""
    return _series(name, job="klais-worker", instance=f"worker-{n}:6066", **labels)


def _series(name: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"


def drops(reason: str, stage: str = "edge") -> str:
    intentional = str(Reason[reason.upper()].intentional).lower()
    make = edge if stage == "edge" else worker
    return make("klais_packets_dropped_total", stage=stage, reason=reason, intentional=intentional)


RECEIVED = edge("klais_packets_received_total", stage="edge")
CASES = {
    "KlaisDataLost": Case(
        {worker("klais_lost_records_total"): "0x80 5x20"}, {worker("klais_lost_records_total"): "5x100"}, at="85m"
    ),
    "KlaisFramesLost": Case(
        {drops("kernel_drop"): "0+10x40"},
        {drops("bad_magic"): "0+10x40", drops("global_rate"): "0+10x40", drops("queue_full", "lane"): "7x40"},
    ),
    "KlaisShedding": Case({drops("global_rate"): "0+10x40"}, {drops("kernel_drop"): "0+10x40"}),
    "KlaisSpooling": Case({edge("klais_edge_breaker_open"): "1x40"}, {edge("klais_edge_breaker_open"): "0x40"}),
    "KlaisSpoolWillBeFull": Case(
        {edge("klais_edge_spool_bytes"): "0+100x40", edge("klais_edge_spool_max_bytes"): "5000x40"},
        {edge("klais_edge_spool_bytes"): "0+10x40", edge("klais_edge_spool_max_bytes"): "5000x40"},
    ),
    "KlaisLagTooOld": Case(
        {worker("klais_lag_seconds", partition="3"): "61x40"},
        {worker("klais_lag_seconds", partition="3"): "59x40", worker("klais_lag_seconds", partition="1"): "500x3 0x30"},
    ),
    "KlaisLandsLate": Case(
        {worker("klais_latency_late_share"): "0.3x40"}, {worker("klais_latency_late_share"): "0.04x40"}
    ),
    "KlaisMissingBatches": Case(
        {worker("klais_missing_batches_total"): "0x25 3x20"}, {worker("klais_missing_batches_total"): "3x40"}, at="30m"
    ),
    "KlaisKafkaErrors": Case(
        {edge("klais_kafka_errors_total", stage="edge", topic="raw"): "0x25 1x20"},
        {edge("klais_kafka_errors_total", stage="edge", topic="raw"): "1x40"},
        at="30m",
    ),
    "KlaisTrafficStopped": Case({RECEIVED: "0+60x30 1800x60"}, {RECEIVED: "0+60x90"}, at="70m"),
    "KlaisLaneMissing": Case(
        {worker("klais_lanes"): "3x40", worker("klais_partitions", stage="lane"): "4x40"},
        {
            worker("klais_lanes"): "2x40",
            worker("klais_lanes", 2): "2x40",
            edge("klais_partitions", stage="edge"): "4x40",
        },
    ),
    "KlaisLaneRestarts": Case(
        {worker("klais_lane_restarts_total"): "0x10 1 2 3 4 5x20", worker("klais_lanes"): "1x10 0x3 1x20"},
        {worker("klais_lane_restarts_total"): "0x10 4x20", worker("klais_lanes"): "4x10 0 4x20"},  # an outage of Kafka
    ),
    "KlaisCheckpointOld": Case(
        {worker("klais_lane_checkpoint_age_seconds"): "0+30x40"}, {worker("klais_lane_checkpoint_age_seconds"): "6x40"}
    ),
    "KlaisNotConserved": Case(
        {worker("klais_conservation_missing_frames", stage="lane"): "-2x40"},
        {edge("klais_conservation_missing_frames", stage="edge"): "0x40"},
    ),
    "KlaisQueueFilling": Case(
        {
            worker("klais_queue_depth", stage="lane"): "10x40",
            worker("klais_queue_limit_frames"): "1000x40",
            worker("klais_queue_bytes"): "900x40",
            worker("klais_queue_limit_bytes"): "1000x40",
        },
        {
            worker("klais_queue_depth", stage="lane"): "700x40",
            worker("klais_queue_limit_frames"): "1000x40",
            edge("klais_queue_depth", stage="edge"): "999x40",
        },
    ),
    "KlaisDevicesFull": Case(
        {worker("klais_devices"): "95x40", worker("klais_devices_limit"): "100x40"},
        {worker("klais_devices"): "0x40", worker("klais_devices_limit"): "0x40", worker("klais_devices", 2): "5x40"},
    ),
    "KlaisLoopBlocked": Case(
        {worker("klais_event_loop_longest_block_seconds"): "0x15 1.5x20"},
        {worker("klais_event_loop_longest_block_seconds"): "0.9x40"},
    ),
    "KlaisNoController": Case(
        {worker("klais_control_is_leader"): "0x40", worker("klais_control_enabled"): "1x40"},
        {
            worker("klais_control_is_leader"): "0x40",
            worker("klais_control_is_leader", 2): "1x40",
            worker("klais_control_enabled"): "1x40",
        },
    ),
    "KlaisTwoControllers": Case(
        {worker("klais_control_is_leader"): "1x40", worker("klais_control_is_leader", 2): "1x40"},
        {worker("klais_control_is_leader"): "1x40", worker("klais_control_is_leader", 2): "0x40"},
    ),
    "KlaisCutHard": Case({worker("klais_control_cut_share"): "0.5x40"}, {worker("klais_control_cut_share"): "0.2x40"}),
    "KlaisAtTheLimit": Case(
        {worker("klais_control_cpu_share"): "0.95x40"}, {worker("klais_control_cpu_share"): "0.95x5 0.5x30"}
    ),
    "KlaisOverrideForgotten": Case(
        {worker("klais_control_overrides"): "1x1600"}, {worker("klais_control_overrides"): "1x1000 0x600"}, at="1500m"
    ),
    "KlaisXdpSetpointsStale": Case(
        {edge("klais_xdp_setpoint_age_seconds"): "30x40"}, {edge("klais_xdp_setpoint_age_seconds"): "2x40"}
    ),
    "KlaisInvalidFrames": Case(
        {drops("bad_json", "lane"): "0+10x40", RECEIVED: "0+100x40"},
        {drops("bad_json", "lane"): "0+1x40", RECEIVED: "0+100x40"},
        at="35m",
    ),
    "KlaisAnomalyStorm": Case(
        {
            worker("klais_anomaly_devices", stage="lane"): "30x40",
            worker("klais_devices"): "100x40",
            edge("klais_anomaly_devices", stage="edge"): "30x40",
        },
        {worker("klais_anomaly_devices", stage="lane"): "3x40", worker("klais_devices"): "9x40"},
    ),
    "KlaisDevicesSilent": Case(
        {
            worker("klais_devices_by_state", state="silent"): "40x30 60x40",
            worker("klais_devices"): "100x70",
            worker("klais_devices_by_state", state="normal"): "60x30 40x40",
        },
        {worker("klais_devices_by_state", state="silent"): "60x70", worker("klais_devices"): "100x70"},
        at="45m",
    ),
    "KlaisFleetIncident": Case(
        {worker("klais_incidents_open", feature="fleet"): "1x40"},
        {worker("klais_incidents_open", feature=x): f"{9 * (x != 'fleet')}x40" for x in ("fleet", "field")},
    ),
    "KlaisDown": Case({edge("up"): "1x10 0x20"}, {edge("up"): "1x40", _series("up", job="other"): "0x40"}),
    "KlaisAbsent": Case({edge("up"): "1x40"}, {edge("up"): "1x40", worker("up"): "1x40"}),
    "KlaisRestarts": Case(
        {edge("process_start_time_seconds"): "0x10 10 20 30 40 50x20"},
        {edge("process_start_time_seconds"): "0x10 10x20", _series("process_start_time_seconds", job="x"): "0+1x40"},
    ),
}


def promtool(*words: str, cwd: Path = RULES.parent) -> str:
    command = [need_command("prometheus", "promtool"), *words]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_prometheus_knows_the_rules_and_the_configuration() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES.name)
    for name in ("prometheus.yml", "local.yml"):
        promtool("check", "config", name)


FOUND_AT_A_START = {
    "KlaisDataLost": worker("klais_lost_records_total"),
    "KlaisFramesLost": drops("output_lost", "lane"),
    "KlaisMissingBatches": worker("klais_missing_batches_total"),
    "KlaisKafkaErrors": edge("klais_kafka_errors_total", stage="edge", topic="raw"),
}
"""Alerts on counts that the first scrape of a process may already contain, and such a series."""


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert set(CASES) == set(ALERTS), "each alert has a firing and a silent case"
    tests = []
    cases = [*CASES.items()]
    cases += [
        (name, Case({series: "_x82 7x40"}, {series: "7x100"}, "85m")) for name, series in FOUND_AT_A_START.items()
    ]
    for name, case in cases:
        for series, firing in ((case.fires, True), (case.silent, False)):
            query = f'count by (severity) (ALERTS{{alertname="{name}", alertstate="firing"}})'
            expected = [{"labels": f'{{severity="{ALERTS[name]["labels"]["severity"]}"}}', "value": 1}]
            tests.append(
                {
                    "name": f"{name} {'fires' if firing else 'is silent'}",
                    "interval": "1m",
                    "input_series": [{"series": key, "values": values} for key, values in series.items()],
                    "promql_expr_test": [
                        {"expr": query, "eval_time": case.at, "exp_samples": expected if firing else []}
                    ],
                }
            )
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(name: str) -> None:
    rule, page = ALERTS[name], (REPO / "docs" / "alerts.md").read_text()
    assert rule["labels"] == {"severity": rule["labels"]["severity"]} and rule["labels"]["severity"] in SEVERITIES
    assert {"for", "keep_firing_for"} <= set(rule)
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    entry = re.search(rf"^## {name}\n\n(.*?)(?=\n#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert entry is not None and len(entry[1]) > 80, "the runbook has an entry"
    assert f"| [{name}](#{name.lower()}) | {rule['labels']['severity']} |" in page, "and the table names it"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_metrics_labels_and_reasons_that_exist(name: str) -> None:
    known = metric_labels()
    for selector in selectors(promql_parser.parse(ALERTS[name]["expr"])):
        if not selector.name.startswith("klais_"):
            assert selector.name in ("up", "process_start_time_seconds")
            continue
        assert selector.name in known
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name] | {"job", "instance"}, matcher.name
            if matcher.name == "reason":
                assert set(matcher.value.split("|")) <= {reason.label for reason in Reason}


def selectors(expr: Any) -> list[Any]:
    """All selectors of an expression."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(expr, visit)
    return found
