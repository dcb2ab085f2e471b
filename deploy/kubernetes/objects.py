"""The Kubernetes objects of KLAIS, as Python data: the minimum for edge, worker and the topics' job."""

from typing import Any

Object = dict[str, Any]

IMAGE = "klais"
NAMESPACE = "klais"
USER = 10001  # of docker/Dockerfile
EDGE, WORKER, TOPICS = "klais-edge", "klais-worker", "klais-topics"
API_PORT, WEB_PORT, UDP_PORT = 8080, 6066, 5000
PARTITIONS = 4
WORKERS = 2
# A pod restarts more slowly than a process, and a static member keeps its lanes for that time.
SESSION_S = 45
PLAIN: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(name: str) -> dict[str, str]:
    """Labels of an object and, for selectors, of its pods."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "klais"}


def meta(name: str, of: str | None = None, **more: str) -> Object:
    """Metadata of an object that belongs to the component ``of``."""
    return {"name": name, "labels": labels(of or name) | more}


def value(name: str, text: str) -> Object:
    """A variable with a fixed value, which may name earlier ones as ``$(NAME)``."""
    return {"name": name, "value": text}


def field(name: str, path: str) -> Object:
    """A variable from the pod's own fields."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def secret(name: str, of: str, key: str) -> Object:
    """A variable from a Secret that you make."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": key}}}


TOKENS = [
    secret("KLAIS_API_TOKEN", "klais-tokens", "token"),
    secret("KLAIS_API_READ_TOKEN", "klais-tokens", "read-token"),
]


def probes(port: str) -> Object:
    """Alive: the loop runs. Ready: frames are kept, or lanes are live. No process is killed because Kafka is away."""
    alive = {"httpGet": {"path": "/livez", "port": port}, "timeoutSeconds": 5}
    return {
        # A start compiles kernels on a CPU below the level of the image's, and waits for Kafka: five minutes.
        "startupProbe": alive | {"periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": alive | {"httpGet": {"path": "/readyz", "port": port}, "periodSeconds": 5},
    }


def container(name: str, args: list[str], env: list[Object], **more: Any) -> Object:
    """A container of KLAIS with few rights; the settings of all are in the ConfigMap."""
    own = [value("KLAIS_CACHE_DIR", "/cache/klais"), value("KLAIS_STATE_DIR", "/state/klais")]
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "envFrom": [{"configMapRef": {"name": "klais"}}],
        "env": own + env,
        "securityContext": PLAIN,
        "volumeMounts": [
            {"name": "cache", "mountPath": "/cache"},
            {"name": "state", "mountPath": "/state"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        **more,
    }


def pod(name: str, spec: Object, state: Object) -> Object:
    """Template of a pod that gets no token of the API server; it fills its cache with the image's compiled kernels."""
    copy = {
        "name": "kernels",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-a", "/var/cache/klais", "/cache/"],
        "securityContext": PLAIN,
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
    }
    volumes = [{"name": "cache", "emptyDir": {}}, {"name": "state", **state}, {"name": "tmp", "emptyDir": {}}]
    spec = {
        "serviceAccountName": "klais",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # their variables start with KLAIS_ and would be refused as unknown settings
        **spec,
        "initContainers": [copy, *spec.get("initContainers", [])],
        "volumes": volumes,
    }
    return {"metadata": {"labels": labels(name)}, "spec": spec}


def edge() -> Object:
    """One edge on each node with the label ``klais.io/edge``, in the node's network: UDP through a Service loses
    frames.
    """
    env = [
        field("KLAIS_EDGE_NAME", "spec.nodeName"),
        value("KLAIS_EDGE_ID_FROM", "claim"),
        field("HOST_IP", "status.hostIP"),
        value("KLAIS_API_BIND", f"$(HOST_IP):{API_PORT}"),
        value("KLAIS_UDP_BIND", f"0.0.0.0:{UDP_PORT}"),
        *TOKENS,
    ]
    own_folder = {
        "name": "state",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["install", "-d", "-m", "0700", "-o", str(USER), "-g", str(USER), "/state/klais"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
    }
    main = container(
        "edge", ["edge"], env, **probes("api"),
        ports=[
            {"name": "api", "containerPort": API_PORT, "hostPort": API_PORT, "protocol": "TCP"},
            {"name": "frames", "containerPort": UDP_PORT, "hostPort": UDP_PORT, "protocol": "UDP"},
        ],
        resources={"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    )  # fmt: skip
    spec = {
        "nodeSelector": {"klais.io/edge": "true"},
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": 30,
        "initContainers": [own_folder],
        "containers": [main],
    }
    # The spool must outlive the pod.
    state = {"hostPath": {"path": "/var/lib/klais-edge", "type": "DirectoryOrCreate"}}
    body = {
        "selector": {"matchLabels": labels(EDGE)},
        # The next pod on a node starts after the previous one has ended: both need the same port and spool.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "template": pod(EDGE, spec, state),
    }
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta(EDGE), "spec": body}


def worker() -> Object:
    """Workers with stable names, which make them static members of the group; at most one for each partition."""
    env = [
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        value("KLAIS_WORKER_ID", "$(POD_NAME)"),
        value("KLAIS_GROUP_INSTANCE", "$(POD_NAME)"),
        value("KLAIS_SESSION_TIMEOUT_S", str(SESSION_S)),
        value("KLAIS_WEB_BIND", "0.0.0.0"),
        value("KLAIS_WEB_PORT", str(WEB_PORT)),
        value("KLAIS_WEB_ADVERTISE", f"$(POD_NAME).{WORKER}.$(POD_NAMESPACE).svc:{WEB_PORT}"),
        value("KLAIS_API_HOSTS", f".{WORKER}.$(POD_NAMESPACE).svc,klais-web,klais-web.$(POD_NAMESPACE).svc"),
        *TOKENS,
    ]
    main = container(
        "worker", ["worker"], env, **probes("web"),
        ports=[{"name": "web", "containerPort": WEB_PORT, "protocol": "TCP"}],
        resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    )  # fmt: skip
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels(WORKER)},
    }
    spec = {"terminationGracePeriodSeconds": 30, "topologySpreadConstraints": [spread], "containers": [main]}
    body = {
        "serviceName": WORKER,
        "replicas": WORKERS,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels(WORKER)},
        "template": pod(WORKER, spec, {"emptyDir": {}}),
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(WORKER), "spec": body}


def topics() -> Object:
    """Creates the topics once, or checks them. Edges and workers do not have to wait for it."""
    resources = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    main = container("topics", ["topics", "create", "--wait", "120"], [], resources=resources)
    spec = {"restartPolicy": "OnFailure", "containers": [main]}
    # A finished Job is removed, because kubectl cannot change one: it could not apply the next image.
    body = {"backoffLimit": 10, "ttlSecondsAfterFinished": 600, "template": pod(TOPICS, spec, {"emptyDir": {}})}
    hooks = {"argocd.argoproj.io/hook": "Sync", "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation"}
    metadata = meta(TOPICS) | {"annotations": hooks}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body}


def common() -> list[Object]:
    """Namespace, account, settings of all processes."""
    settings = {
        "KLAIS_KAFKA_BOOTSTRAP": "kafka:9092",
        "KLAIS_PARTITIONS": str(PARTITIONS),
        "KLAIS_LOG_FORMAT": "json",
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("klais")}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        account | {"automountServiceAccountToken": False},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("klais"), "data": settings},
    ]


def network() -> list[Object]:
    """Services of workers and page, access to them, and the number that may be down at once.

    A NetworkPolicy does not apply to the edges, which are in the node's network.
    """
    port = {"name": "web", "port": WEB_PORT, "targetPort": "web", "protocol": "TCP"}
    selector = labels(WORKER)
    headless = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector, "ports": [port]}
    front = {"type": "ClusterIP", "selector": selector, "ports": [port]}
    others = [{"matchLabels": {"kubernetes.io/metadata.name": name}} for name in ("monitoring", "ingress-nginx")]
    near: list[Object] = [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "klais"}}}]
    near += [{"namespaceSelector": other} for other in others]
    ingress = [{"from": near, "ports": [{"protocol": "TCP", "port": "web"}]}]
    policy = "networking.k8s.io/v1"
    allow = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"], "ingress": ingress}
    nobody = {"podSelector": {"matchLabels": labels(TOPICS)}, "policyTypes": ["Ingress"], "ingress": []}
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": selector}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta(WORKER, **{"klais.io/scrape": "true"}),
            "spec": headless,
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": meta("klais-web", WORKER), "spec": front},
        {"apiVersion": policy, "kind": "NetworkPolicy", "metadata": meta(WORKER), "spec": allow},
        {"apiVersion": policy, "kind": "NetworkPolicy", "metadata": meta(TOPICS), "spec": nobody},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(WORKER), "spec": budget},
    ]
