"""Overlays over the base: the Prometheus operator, a Kafka with TLS and passwords, the XDP filter."""

from pathlib import Path

import yaml

from deploy.kubernetes.objects import (
    EDGE,
    PARTITIONS,
    PLAIN,
    TOPICS,
    WORKER,
    WORKERS,
    Object,
    labels,
    meta,
    secret,
    value,
)

RULES = Path(__file__).parents[1] / "prometheus" / "klais.rules.yml"
WORKLOADS = [("apps/v1", "DaemonSet", EDGE, "edge"), ("apps/v1", "StatefulSet", WORKER, "worker")]
WORKLOADS += [("batch/v1", "Job", TOPICS, "topics")]
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"  # the operator's own Service
BPFFS = "/sys/fs/bpf"
XDP_IMAGE = "klais-xdp"


def monitoring() -> list[Object]:
    """Scraping by the Prometheus operator, with the job names of the alerts, and the alerts."""
    api = "monitoring.coreos.com/v1"
    token = {"type": "Bearer", "credentials": {"name": "klais-tokens", "key": "read-token"}}

    def ask(port: str) -> list[Object]:
        return [{"port": port, "path": "/metrics", "interval": "15s", "authorization": token}]

    job = {"jobLabel": "app.kubernetes.io/name"}
    edges = job | {"selector": {"matchLabels": labels(EDGE)}, "podMetricsEndpoints": ask("api")}
    chosen = {"matchLabels": labels(WORKER) | {"klais.io/scrape": "true"}}
    workers = job | {"selector": chosen, "endpoints": ask("web")}
    rules = yaml.safe_load(RULES.read_text())
    return [
        {"apiVersion": api, "kind": "PodMonitor", "metadata": meta(EDGE), "spec": edges},
        {"apiVersion": api, "kind": "ServiceMonitor", "metadata": meta(WORKER), "spec": workers},
        {"apiVersion": api, "kind": "PrometheusRule", "metadata": meta("klais"), "spec": rules},
    ]


def scaling() -> list[Object]:
    """KEDA adds and removes workers by their CPU and by the age of the backlog, means over ten minutes.

    Never by committed lag: commits happen at checkpoints, so it is never 0. KLAIS's own controller decides twice a
    second; a second one on the same system must be much slower, so at most one worker is added in 10 minutes and
    removed in 20.
    """

    def asked(name: str, query: str, kind: str, threshold: str) -> Object:
        given = {"serverAddress": PROMETHEUS, "query": query, "threshold": threshold, "ignoreNullValues": "false"}
        return {"type": "prometheus", "name": name, "metricType": kind, "metadata": given}

    def one_pod(seconds: int) -> Object:
        policies = [{"type": "Pods", "value": 1, "periodSeconds": seconds}]
        return {"stabilizationWindowSeconds": seconds, "policies": policies}

    cores = f'sum(rate(process_cpu_seconds_total{{job="{WORKER}"}}[10m]))'
    age = f'avg_over_time(max(klais_lag_seconds{{job="{WORKER}"}})[10m:30s])'
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": WORKER},
        "minReplicaCount": WORKERS,
        "maxReplicaCount": PARTITIONS,
        "pollingInterval": 60,
        "advanced": {
            "horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": one_pod(600), "scaleDown": one_pod(1200)}}
        },
        "triggers": [asked("cpu", cores, "AverageValue", "0.6"), asked("lag", age, "Value", "30")],
    }
    return [{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": meta(WORKER), "spec": spec}]


def unfixed_replicas() -> Object:
    """A patch that leaves the number of workers to KEDA, so that applying the manifests again does not reset it."""
    return {"target": {"kind": "StatefulSet", "name": WORKER}, "patch": "- op: remove\n  path: /spec/replicas\n"}


def patch(which: tuple[str, str, str, str], pod: Object, container: Object) -> Object:
    """A strategic merge patch of a workload's pod and of its main container."""
    api, kind, name, main = which
    spec = {**pod, "containers": [{"name": main, **container}]}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": {"template": {"spec": spec}}}


def external_kafka() -> list[Object]:
    """Patches for a cluster with SASL over TLS; you create the Secret ``klais-kafka``: username, password, ca.crt."""
    settings = {
        "KLAIS_KAFKA_BOOTSTRAP": "kafka-1.example.org:9093,kafka-2.example.org:9093,kafka-3.example.org:9093",
        "KLAIS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KLAIS_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KLAIS_KAFKA_SSL_CAFILE": "/etc/klais-kafka/ca.crt",
        "KLAIS_REPLICATION": "3",
    }
    env = [
        secret("KLAIS_KAFKA_SASL_USERNAME", "klais-kafka", "username"),
        secret("KLAIS_KAFKA_SASL_PASSWORD", "klais-kafka", "password"),
    ]
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    volumes = [{"name": "kafka-ca", "secret": {"secretName": "klais-kafka", "items": items}}]
    mounts = [{"name": "kafka-ca", "mountPath": "/etc/klais-kafka", "readOnly": True}]
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "klais"}, "data": settings}
    return [config, *(patch(which, {"volumes": volumes}, {"env": env, "volumeMounts": mounts}) for which in WORKLOADS)]


def with_xdp() -> list[Object]:
    """A patch: an init container loads the filter as root; the edge also runs as root, with the rights to read it."""
    bpffs = {"name": "bpffs", "mountPath": BPFFS}
    env = [value("KLAIS_IFACE", "eth0")]
    rights = {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    load = {
        "name": "xdp",
        "image": XDP_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["xdp", "load"],
        "env": [*env, value("KLAIS_CACHE_DIR", "/xdp-cache")],
        "securityContext": PLAIN
        | rights
        | {"capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SETUID", "SETGID"]}},
        "volumeMounts": [
            bpffs,
            {"name": "xdp-cache", "mountPath": "/xdp-cache"},
            {"name": "modules", "mountPath": "/lib/modules", "readOnly": True},
            {"name": "headers", "mountPath": "/usr/src", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    }
    volumes = [
        {"name": "bpffs", "hostPath": {"path": BPFFS, "type": "Directory"}},
        {"name": "xdp-cache", "emptyDir": {}},
        {"name": "modules", "hostPath": {"path": "/lib/modules", "type": "Directory"}},
        {"name": "headers", "hostPath": {"path": "/usr/src", "type": "Directory"}},
    ]
    main = {
        "env": env,
        "securityContext": rights
        | {"capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "NET_RAW", "PERFMON", "DAC_OVERRIDE"]}},
        "volumeMounts": [bpffs],
    }
    # Root does not use a folder that another user owns.
    state = {"name": "state", "command": ["install", "-d", "-m", "0700", "-o", "0", "-g", "0", "/state/klais"]}
    kernels = {
        "name": "kernels",
        "command": ["cp", "-r", "/var/cache/klais", "/cache/"],
        "securityContext": rights | {"capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]}},
    }
    return [patch(WORKLOADS[0], {"initContainers": [load, state, kernels], "volumes": volumes}, main)]
