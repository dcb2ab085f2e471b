"""The manifests are what the code makes, are valid for Kubernetes, and name only things that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from deploy.kubernetes import objects
from deploy.kubernetes.manifests import HERE, files, text, write
from deploy.kubernetes.objects import EDGE, IMAGE, PARTITIONS, SESSION_S, WORKER
from deploy.kubernetes.overlays import RULES, XDP_IMAGE
from klais.cli.main import COMMANDS
from klais.config.load import Settings, load
from klais.edge.api.openapi import DOCUMENT
from klais.worker.web.pages import document_of_pages

MADE = files()
BASE = [document for name, documents in MADE.items() if name.startswith("base/") for document in documents]
OBJECTS = [(name, each) for name, documents in MADE.items() for each in documents if each["kind"] != "Kustomization"]
WORKLOADS = {each["metadata"]["name"]: each for each in BASE if "template" in each.get("spec", {})}
PATHS = {EDGE: DOCUMENT["paths"], WORKER: document_of_pages()["paths"]}
ADDED = ("overlays/monitoring", "overlays/scaling")  # objects of their own, no patches
VERSIONS = ("1.28.0", "1.31.0", "1.37.0")  # the oldest has what the manifests use; the newest has no removed API


def containers(workload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = workload["spec"]["template"]["spec"]
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def main_container(name: str) -> dict[str, Any]:
    (only,) = WORKLOADS[name]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def settings_of(name: str, env: list[dict[str, Any]]) -> dict[str, str]:
    """The settings of a container as the kubelet fills them in."""
    fields = {"POD_NAME": f"{name}-1", "POD_NAMESPACE": "klais", "HOST_IP": "10.0.0.7"}
    out = {}
    for each in env:
        if each["name"] not in fields:
            assert each["name"][6:].lower() in Settings.model_fields, each["name"]
            given = each.get("value", "a-value-of-a-field-or-secret")
            out[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: fields[found[1]], given)
    return out


def monitors() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in MADE["overlays/monitoring/monitoring.yaml"]}


def test_the_committed_manifests_are_what_the_code_makes() -> None:
    committed = {str(path.relative_to(HERE)): path.read_text() for path in HERE.glob("*/**/*.yaml")}
    assert committed == {name: text(documents) for name, documents in MADE.items()}, (
        "run `python -m deploy.kubernetes.manifests`"
    )
    for name, content in committed.items():
        assert list(yaml.safe_load_all(content)) == MADE[name]


def test_the_generator_removes_its_obsolete_files_and_no_others(tmp_path: Path) -> None:
    write(tmp_path)
    own, old = tmp_path / "overlays" / "mine" / "kustomization.yaml", tmp_path / "overlays" / "old.yaml"
    own.parent.mkdir()
    own.write_text("resources: [../../base]\n")
    old.write_text(text([]))
    write(tmp_path)
    assert own.exists() and not old.exists()


def test_a_finished_job_does_not_keep_the_next_image_from_being_applied() -> None:
    """The template of a Job is immutable."""
    assert objects.topics()["spec"]["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_base_is_valid_for_kubernetes(version: str) -> None:
    for each in BASE:
        if each["kind"] != "Kustomization":
            kubernetes_validate.validate(each, version, strict=True)
    wrong = WORKLOADS[EDGE] | {"spec": WORKLOADS[EDGE]["spec"] | {"replicas": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_selectors_meet_the_labels_of_pods() -> None:
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in WORKLOADS.items()}
    for name, each in WORKLOADS.items():
        if "selector" in each["spec"]:
            assert each["spec"]["selector"]["matchLabels"].items() <= pods[name].items()
    for each in BASE:
        spec = each.get("spec", {})
        wanted = spec.get("selector", {}) if each["kind"] == "Service" else spec.get("podSelector", {})
        wanted = wanted or (spec.get("selector", {}) if each["kind"] == "PodDisruptionBudget" else {})
        labels = wanted.get("matchLabels", wanted)
        if labels and each["kind"] in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
            assert sum(labels.items() <= have.items() for have in pods.values()) == 1, each["metadata"]
    services = {each["metadata"]["name"] for each in BASE if each["kind"] == "Service"}
    assert WORKLOADS[WORKER]["spec"]["serviceName"] in services


def test_names_of_ports_exist() -> None:
    ports = {name: {port["name"] for port in main_container(name).get("ports", [])} for name in WORKLOADS}
    for name in (EDGE, WORKER):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert main_container(name)[probe]["httpGet"]["port"] in ports[name]
    for each in BASE:
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports[WORKER]
    assert {at["port"] for at in monitors()["PodMonitor"]["spec"]["podMetricsEndpoints"]} <= ports[EDGE]
    (service,) = (
        each
        for each in BASE
        if each["kind"] == "Service"
        and monitors()["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
        <= each["metadata"]["labels"].items()
    )
    offered = {port["name"] for port in service["spec"]["ports"]}
    assert {at["port"] for at in monitors()["ServiceMonitor"]["spec"]["endpoints"]} <= offered


def test_paths_of_probes_and_metrics_exist() -> None:
    for name, paths in PATHS.items():
        given = {
            main_container(name)[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
        }
        assert given == {"/livez", "/readyz"} and given <= set(paths) and "/metrics" in paths
    startup = main_container(WORKER)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 300


def test_commands_exist_and_the_settings_of_each_process_are_settings_that_fit_together() -> None:
    common = next(each for each in BASE if each["kind"] == "ConfigMap")["data"]
    for name in WORKLOADS:
        main = main_container(name)
        assert main["args"][0] in COMMANDS
        settings = load(common | settings_of(name, main["env"]))
        if name == WORKER:
            assert settings.web_advertise == f"{WORKER}-1.{WORKER}.klais.svc:6066"
            assert settings.group_instance == f"{WORKER}-1" and settings.session_timeout_s == SESSION_S
    assert WORKLOADS[WORKER]["spec"]["replicas"] <= PARTITIONS
    for name, each in OBJECTS:
        if name.startswith("overlays/") and each["kind"] == "ConfigMap":
            assert all(key[6:].lower() in Settings.model_fields for key in each["data"])


def test_plain_containers_have_no_rights() -> None:
    for name, workload in WORKLOADS.items():
        spec = workload["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        for each in containers(workload):
            rights = each["securityContext"]
            assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
            assert rights["capabilities"]["drop"] == ["ALL"] and each["resources"]["limits"]["memory"]
            if (name, each["name"]) == (EDGE, "state"):
                assert set(rights["capabilities"]["add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
            else:
                assert rights["runAsNonRoot"] and "add" not in rights["capabilities"]
            mounted = {mount["name"] for mount in each["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in spec["volumes"]}
    account = next(each for each in BASE if each["kind"] == "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


def test_alerts_of_the_operator_are_those_of_the_one_rules_file_and_find_their_jobs() -> None:
    assert monitors()["PrometheusRule"]["spec"] == yaml.safe_load(RULES.read_text())
    scraped = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["job_name"] for job in scraped} == {EDGE, WORKER}
    for kind, name in (("PodMonitor", EDGE), ("ServiceMonitor", WORKER)):
        spec = monitors()[kind]["spec"]
        assert spec["selector"]["matchLabels"][spec["jobLabel"]] == name


def test_overlays_patch_what_the_base_has() -> None:
    known = {(each["apiVersion"], each["kind"], each["metadata"]["name"]): each for each in BASE if "metadata" in each}
    for name, each in OBJECTS:
        if name.startswith("overlays/") and not name.startswith(ADDED):
            target = known[each["apiVersion"], each["kind"], each["metadata"]["name"]]
            if each["kind"] == "ConfigMap":
                continue
            named = {container["name"] for container in containers(target)} | {"xdp"}
            assert {container["name"] for container in containers(each)} <= named
            assert {container.get("image", IMAGE) for container in containers(each)} <= {IMAGE, XDP_IMAGE}
    for name in MADE:
        if name.endswith("kustomization.yaml"):
            listed = MADE[name][0]
            patches = listed.get("patches", [])
            paths = [*listed["resources"], *(each["path"] for each in patches if "path" in each)]
            assert all(((HERE / name).parent / path).exists() for path in paths), name
            beside = {Path(other).name for other in MADE if Path(other).parent == Path(name).parent}
            assert beside - {"kustomization.yaml"} == {path for path in paths if path.endswith(".yaml")}


def test_keda_scales_the_workers_within_their_partitions_and_much_slower_than_the_controller() -> None:
    (scaled,) = MADE["overlays/scaling/scaling.yaml"]
    spec, worker = scaled["spec"], WORKLOADS[WORKER]
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    target = (spec["scaleTargetRef"][key] for key in ("apiVersion", "kind", "name"))
    assert tuple(target) == (worker["apiVersion"], worker["kind"], WORKER)
    assert spec["minReplicaCount"] == worker["spec"]["replicas"] <= spec["maxReplicaCount"] == PARTITIONS
    for rule in spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].values():
        (policy,) = rule["policies"]
        assert policy["type"] == "Pods" and policy["value"] == 1 and policy["periodSeconds"] >= 600
        assert rule["stabilizationWindowSeconds"] == policy["periodSeconds"]
    (kustomization,) = MADE["overlays/scaling/kustomization.yaml"]
    (patch,) = kustomization["patches"]
    assert patch["target"] == {"kind": worker["kind"], "name": WORKER}
    ((operation),) = yaml.safe_load(patch["patch"])
    assert operation == {"op": "remove", "path": "/spec/replicas"}


def test_keda_asks_for_metrics_that_workers_have() -> None:
    (scaled,) = MADE["overlays/scaling/scaling.yaml"]
    known = set(re.findall(r"`(klais_\w+)`", (HERE.parents[1] / "docs" / "metrics.md").read_text()))
    found = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, [(each.name, each.value) for each in node.matchers.matchers]))
        return True

    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "prometheus" and trigger["metricType"] in ("Value", "AverageValue")
        given = trigger["metadata"]
        assert set(given) == {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert float(given["threshold"]) > 0
        promql_parser.walk(promql_parser.parse(given["query"]), visit)
    job = monitors()["ServiceMonitor"]["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
    assert [labels for _, labels in found] == [[("job", job)]] * 2
    assert [name for name, _ in found] == ["process_cpu_seconds_total", "klais_lag_seconds"] and found[1][0] in known
