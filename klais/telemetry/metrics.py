"""Prometheus metrics of edge and worker: declared once, here.

The data path counts in numpy arrays. At each scrape a collector turns a snapshot of them into Prometheus counters, so
that a frame never costs a metric call. Only the histograms are live objects, observed once per batch.

Labels have closed sets of values (``Reason``, :data:`~klais.telemetry.snapshots.TOPICS`, stages, partitions); a device
is never a label. Metrics that both processes have carry the label ``stage``, so that no sum counts a frame twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client import disable_created_metrics as _disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from klais import __version__
from klais.core.wire.constants import VERDICTS, Reason
from klais.telemetry.snapshots import (
    DROP_REASONS,
    INCIDENT_FEATURES,
    KINDS,
    LIMITS_BY,
    STATES,
    TOPICS,
    TRAFFIC_CLASSES,
    ControlSnapshot,
    EdgeSnapshot,
    IncidentSnapshot,
    ScoringSnapshot,
    Snapshot,
    Stage,
    TypesSnapshot,
    WorkerSnapshot,
)

# From one batch on an idle machine (0.1 ms) to a stalled broker; factor about 2.5.
LATENCY_BUCKETS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)
# From a compiled tree (20 us) to a language model.
INFERENCE_BUCKETS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
# From the edge's socket to the clean topic, including frames that waited in a queue or a spool.
LANDED_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class _Metrics:
    """A separate registry with the histograms, CPU and memory of the process, and the counters of a snapshot."""

    def __init__(self, stage: Stage, identity: Mapping[str, str], families: Callable[[], Iterable[Metric]]) -> None:
        _disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.processing = self._histogram(
            stage,
            "processing",
            "Edge: from a batch's first frame until it is closed; worker: time to decide a batch (s).",
        )
        self.inference = Histogram(
            "klais_inference_latency_seconds",
            "Time of one prediction of a model: onnx, scikit-learn or rules forecast (s).",
            ["model"],
            buckets=INFERENCE_BUCKETS_S,
            registry=self.registry,
        )
        self.kafka = self._histogram(stage, "kafka", "From the send of a batch until Kafka acknowledges it (s).")
        self.registry.register(_Collector({"version": __version__, "stage": stage, **identity}, families))

    def _histogram(self, stage: Stage, what: str, help_text: str) -> Histogram:
        name = f"klais_{what}_latency_seconds"
        return Histogram(name, help_text, ["stage"], buckets=LATENCY_BUCKETS_S, registry=self.registry).labels(stage)

    def render(self) -> tuple[bytes, str]:
        """The metrics as Prometheus text, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class EdgeMetrics(_Metrics):
    """Metrics of the edge ``edge_id``; ``snapshot`` is called once per scrape.

    Examples
    --------
    >>> metrics = EdgeMetrics(lambda: EdgeSnapshot(received=3, passed=3))
    >>> metrics.kafka.observe(0.004)
    >>> b'klais_packets_received_total{stage="edge"} 3.0' in metrics.render()[0]
    True
    """

    def __init__(self, snapshot: Callable[[], EdgeSnapshot], edge_id: int | str = "") -> None:
        super().__init__("edge", {"edge_id": str(edge_id)}, lambda: _edge_families(snapshot()))


class WorkerMetrics(_Metrics):
    """Metrics of the worker ``worker_id``; ``snapshot`` is called once per scrape."""

    def __init__(self, snapshot: Callable[[], WorkerSnapshot], worker_id: str = "") -> None:
        super().__init__("lane", {"worker_id": worker_id}, lambda: _worker_families(snapshot()))
        text = "From a batch's arrival at the edge until Kafka has its frames on iot_telemetry (s)."
        self.landed = Histogram("klais_landed_latency_seconds", text, buckets=LANDED_BUCKETS_S, registry=self.registry)


class _Collector(Collector):
    def __init__(self, about: Mapping[str, str], families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families
        self._info = InfoMetricFamily("klais_build", "Version of KLAIS, and identity of the process.", dict(about))

    def collect(self) -> Iterator[Metric]:
        yield self._info
        yield from self._families()


def _counter(name: str, help_text: str, value: float, **labels: str) -> Metric:
    family = CounterMetricFamily(f"klais_{name}", help_text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _gauge(name: str, help_text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"klais_{name}", help_text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counters_by(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"klais_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauges_by(name: str, help_text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"klais_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _by_topic(stage: Stage, name: str, help_text: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"klais_{name}", help_text, labels=["stage", "topic"])
    for topic in TOPICS:
        family.add_metric([stage, topic], values.get(topic, 0))
    other = sum(value for topic, value in values.items() if topic not in TOPICS)
    if other:
        family.add_metric([stage, "other"], other)
    return family


def _dropped(stage: Stage, counts: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Metric:
    help_text = "Frames that did not pass, by reason; intentional: dropped by a configured or protocol rule."
    family = CounterMetricFamily("klais_packets_dropped", help_text, labels=["stage", "reason", "intentional"])
    for reason in Reason:
        count = int(counts[reason]) if reason < len(counts) else 0
        if count or reason in DROP_REASONS[stage]:
            family.add_metric([stage, reason.label, str(reason.intentional).lower()], count)
    return family


def _common_families(stage: Stage, s: Snapshot) -> Iterator[Metric]:
    def counter(name: str, help_text: str, value: float) -> Metric:
        return _counter(name, help_text, value, stage=stage)

    def gauge(name: str, help_text: str, value: float) -> Metric:
        return _gauge(name, help_text, value, stage=stage)

    yield counter(
        "packets_received", "Frames received; at the edge including frames dropped by the kernel.", s.received
    )
    yield counter(
        "bytes_received", "Bytes received: of frames (edge), of records on klais_raw (worker).", s.received_bytes
    )
    yield counter(
        "packets_passed",
        "Frames that Kafka acknowledged on klais_raw (edge), or that passed the dam (worker).",
        s.passed,
    )
    yield _dropped(stage, s.dropped)
    yield _by_topic(stage, "kafka_messages", "Records that Kafka acknowledged.", s.kafka_messages)
    yield _by_topic(stage, "kafka_errors", "Records that Kafka did not acknowledge after all retries.", s.kafka_errors)
    yield counter("dead_letters", "Malformed frames written to klais_dead_letter.", s.dead_letters)
    text = "Malformed frames above KLAIS_DEAD_LETTER_RATE: counted, not written."
    yield counter("dead_letters_suppressed", text, s.dead_letters_suppressed)
    yield gauge(
        "queue_depth", "Frames not yet acknowledged by Kafka (edge), or in the dam's queue (worker).", s.queue_depth
    )
    yield gauge("rate_limit", "Global rate in force (frames/s).", s.rate_limit)
    yield gauge("tokens_available", "Tokens in the global bucket (frames).", s.tokens)
    yield gauge("burst_probability", "Probability of a burst within 5 s (0 to 1).", s.burst_probability)
    yield gauge("anomaly_devices", "Devices whose newest frame is flagged.", s.anomaly_devices)
    yield gauge("partitions", "Configured partitions of klais_raw.", s.partitions)
    text = "Received frames that are neither passed, held nor dropped, and lost records: 0, or a defect."
    yield gauge("conservation_missing_frames", text, s.unaccounted)


def _edge_families(s: EdgeSnapshot) -> Iterator[Metric]:
    yield from _common_families("edge", s)
    yield _counter("edge_batches", "Frame batches closed.", s.batches)
    yield _gauge("edge_inflight_bytes", "Bytes of batches that Kafka has not acknowledged.", s.inflight_bytes)
    yield _gauge("edge_inflight_max_bytes", "KLAIS_PUBLISH_MAX_INFLIGHT_BYTES (bytes).", s.inflight_max_bytes)
    yield _gauge("edge_receive_buffer_bytes", "Socket buffer that the kernel granted (bytes).", s.rcvbuf_bytes)
    yield _gauge("edge_breaker_open", "1 while batches go to the spool instead of Kafka.", s.breaker_open)
    transitions = CounterMetricFamily(
        "klais_edge_breaker_transitions", "Times that the breaker entered a state.", labels=["state"]
    )
    for state in ("closed", "open", "half_open"):
        transitions.add_metric([state], s.breaker_transitions.get(state, 0))
    yield transitions
    yield _gauge("edge_spool_frames", "Frames in the spool that Kafka has not acknowledged.", s.spool_frames)
    yield _gauge("edge_spool_bytes", "Size of the spool's files (bytes).", s.spool_bytes)
    yield _gauge("edge_spool_max_bytes", "KLAIS_SPOOL_MAX_BYTES; 0 = no spool (bytes).", s.spool_max_bytes)
    yield _counter("edge_spool_recovered", "Frames found in the spool at the start.", s.spool_recovered)
    yield _counter("edge_spool_replayed", "Frames published from the spool.", s.spool_replayed)
    yield _gauge("edge_blocked_sources", "Prefixes of source addresses that the edge blocks.", s.blocked_sources)
    text = "Age of the oldest process's newest record on klais_stats, by kind of process (s)."
    ages = {kind: s.stats_age_s[kind] for kind in KINDS if kind in s.stats_age_s}
    yield _gauges_by("stats_age_seconds", text, "kind", ages)
    text = "Frames by result of KLAIS_AUTH, and by the generation of their key (empty: unsigned)."
    auth = CounterMetricFamily("klais_auth_frames", text, labels=["result", "generation"])
    for labels, number in s.auth_frames.items():
        auth.add_metric(list(labels), number)
    yield auth
    yield from _xdp_families(s)


def _xdp_families(s: EdgeSnapshot) -> Iterator[Metric]:
    """Metrics of this host's XDP filter; every edge of the host reports the same."""
    yield _gauge("xdp_maps", "1 while the edge writes set-points to the XDP filter of its host.", s.xdp_maps)
    yield _counter("xdp_writes", "Writes of set-points, blocks or a heartbeat to the XDP filter.", s.xdp_writes)
    text = "Packets by verdict of this host's XDP filter; every edge of the host reports the same."
    yield _counters_by("xdp_packets", text, "verdict", s.xdp_packets)
    yield _counters_by(
        "xdp_bytes", "Bytes of packets by verdict of this host's XDP filter (bytes).", "verdict", s.xdp_bytes
    )
    text = "Time since the set-points of the XDP filter were confirmed; absent if they never were (s)."
    age = GaugeMetricFamily("klais_xdp_setpoint_age_seconds", text, labels=[])
    if s.set_points_age_s is not None:
        age.add_metric([], s.set_points_age_s)
    yield age
    by = {name: float(name == s.limits_by) for name in LIMITS_BY} if s.limits_by else {}
    yield _gauges_by("xdp_limits_in_force", "1 for the source of the limits that the XDP filter applies.", "by", by)


def _worker_families(s: WorkerSnapshot) -> Iterator[Metric]:
    yield from _common_families("lane", s)
    verdicts = CounterMetricFamily("klais_lane_frames", "Frames by verdict.", labels=["verdict"])
    for reason in Reason:
        if reason < VERDICTS:
            verdicts.add_metric([reason.label], int(s.verdicts[reason]) if reason < len(s.verdicts) else 0)
    yield verdicts
    yield _counter("lane_batches", "Frame batches read from klais_raw.", s.batches)
    yield _counter("lane_steps", "Steps written to the journal.", s.steps)
    yield _counter("lane_checkpoints", "Checkpoints finished.", s.checkpoints)
    yield _counter("lane_checkpoint_seconds", "Time spent in checkpoints (s).", s.checkpoint_s)
    yield _gauge(
        "lane_checkpoint_age_seconds",
        "Age of the newest checkpoint of the lane with the oldest one (s).",
        s.checkpoint_age_s,
    )
    text = "Records of klais_raw that the lane has not read."
    yield _gauges_by("lag_records", text, "partition", dict(sorted(s.lag_records.items())))
    text = "Time since the edge received the oldest batch that the lane has not read; 0 = none (s)."
    yield _gauges_by("lag_seconds", text, "partition", dict(sorted(s.lag_s.items())))
    yield _gauge("queue_limit_frames", "Frames that may wait in the dam's queue of this worker.", s.queue_limit)
    yield _gauge("queue_bytes", "Memory used by the dam's queue (bytes).", s.queue_bytes)
    yield _gauge("queue_limit_bytes", "Memory limit of the dam's queue of this worker (bytes).", s.queue_limit_bytes)
    yield _gauge("lanes", "Live lanes (partitions) of this worker.", s.lanes)
    text = "1 while the lane of a partition of this worker reads records, 0 while it recovers or fails."
    yield _gauges_by("lane_live", text, "partition", dict(sorted(s.lane_live.items())))
    yield _counter("lane_restarts", "Times that a lane of this worker failed and recovered again.", s.lane_restarts)
    text = "KLAIS_LATENCY_MS: from a frame's arrival until it is on iot_telemetry (s)."
    yield _gauge("latency_target_seconds", text, s.latency_target_s)
    yield _gauge(
        "latency_late_share", "Share of the batches of the last 30 s later than KLAIS_LATENCY_MS.", s.late_share
    )
    text = "Longest iteration of the event loop in the last minute (s)."
    yield _gauge("event_loop_longest_block_seconds", text, s.longest_block_s)
    yield _gauge("devices", "Devices in the lanes of this worker.", s.devices)
    yield _gauge("devices_limit", "Devices that the lanes of this worker may hold.", s.devices_limit)
    by_state = {state: s.devices_by_state.get(state, 0) for state in STATES}
    yield _gauges_by("devices_by_state", "Devices of this worker by state.", "state", by_state)
    yield _counter("devices_forgotten", "Devices forgotten: silent, evicted, or named by operators.", s.forgotten)
    yield _counter("sequence_late", "Frames that arrived after a newer one of their device.", s.late)
    yield _counter("sequence_gaps", "Missing sequence numbers.", s.gaps)
    yield _counter("sequence_resets", "Restarts of devices' sequence numbers.", s.resets)
    yield _counter("anomaly_flags", "Anomaly records written.", s.flags)
    yield _counter(
        "anomaly_flags_suppressed", "Anomalies above KLAIS_ANOMALY_RATE: counted, not written.", s.flags_suppressed
    )
    yield _counter(
        "lost_records",
        "Records of klais_raw that no lane could read (retention, damage): lost data.",
        s.lost_records,
    )
    yield _counter(
        "missing_batches",
        "Batch numbers that never arrived: an edge was killed or dropped the batch.",
        s.missing_batches,
    )
    yield from _scoring_families(s.scoring)
    yield from _type_families(s.types)
    yield from _control_families(s.control)


def _scoring_families(at: ScoringSnapshot) -> Iterator[Metric]:
    yield _counter("anomaly_values", "Values that the two-tier scorer scored.", at.scored)
    text = "Values not scored because of KLAIS_ANOMALY_CPU_SHARE, which also stretches the period."
    yield _counter("anomaly_values_skipped", text, at.skipped)
    yield _counter("anomaly_values_at_once", "Values scored immediately because they left their band.", at.opened)
    text = "Values without a profile: active devices use all of KLAIS_ANOMALY_BYTES."
    yield _counter("anomaly_values_without_profile", text, at.without_channel)
    yield _counter("anomaly_scoring_seconds", "Time spent on scores (s).", at.seconds)
    yield _gauge("anomaly_period_seconds", "Scoring period of a device now (s); stretched under load.", at.period_s)


def _type_families(at: TypesSnapshot) -> Iterator[Metric]:
    yield _counter("fingerprint_samples", "Frames sampled for the fingerprints of devices.", at.sampled)
    text = "Sampled frames compared with all types, because they are unusual for the device or its type is unknown."
    yield _counter("fingerprint_compared", text, at.compared)
    yield _counter(
        "fingerprint_flags", "Devices that changed their type or were impersonated, written or not.", at.flags
    )
    yield _gauge("fingerprint_types", "Types of the model in use; 0 = no model.", at.types)
    yield _counter("fingerprint_trainings", "Trainings of types that produced a model.", at.trained)
    yield _counter("fingerprint_trainings_failed", "Trainings of types that failed or were killed.", at.failed)


def _control_families(c: ControlSnapshot) -> Iterator[Metric]:
    yield _gauge("control_enabled", "1 while a controller or an operator sets the rate, 0 = it is fixed.", c.enabled)
    yield _gauge("control_is_leader", "1 while this worker is the leader of the controllers.", c.is_leader)
    yield _counter("control_decisions", "Decisions that this worker wrote to klais_control.", c.decisions)
    yield _counter("control_terms", "Terms as the leader started by this process.", c.terms)
    terms = GaugeMetricFamily("klais_pid_term", "Terms of the newest decision; output is 0 to 1.", labels=["term"])
    for name in ("p", "i", "d", "output"):
        terms.add_metric([name], c.pid_terms.get(name, 0.0))
    yield terms
    yield _gauge("control_error", "Weighted relative error of lag and CPU; above 0 = spare capacity.", c.error)
    yield _gauge("control_lag_frames", "Lag of all workers in the newest decision (frames).", c.lag)
    yield _gauge("control_cpu_share", "CPU share of the busiest process in the newest decision.", c.cpu)
    yield _gauge("control_cut_share", "Share of the rate cut ahead of a burst; 0.5 is an alert.", c.cut)
    yield _counter("forecast_fallbacks", "Models skipped by the forecast chain: see /health/.", c.forecast_fallbacks)
    text = "1 for the present class of the traffic, on the leader: normal, elevated, burst, thundering_herd, attack."
    classes = GaugeMetricFamily("klais_traffic_class", text, labels=["class"])
    for name in TRAFFIC_CLASSES:
        classes.add_metric([name], float(name == c.traffic_class))
    yield classes
    yield _gauge("control_device_limit", "Limit of a device during an attack (frames/s); 0 = none.", c.device_limit)
    yield _gauge("control_overrides", "Overrides of operators in force.", c.overrides)
    yield from _incident_families(c.incidents)


def _incident_families(at: IncidentSnapshot) -> Iterator[Metric]:
    open_ = {name: at.open.get(name, 0) for name in INCIDENT_FEATURES}
    yield _gauges_by("incidents_open", "Open incidents, on the leader, by feature.", "feature", open_)
    opened = {name: at.opened.get(name, 0) for name in INCIDENT_FEATURES}
    yield _counters_by("incidents_opened", "Incidents that this worker opened as the leader.", "feature", opened)
    yield _counter("incident_flags_muted", "Flags that opened no incident because operators muted them.", at.muted)
    yield _counter("incident_flags_alone", "Flags that belong to no incident: low scores of single devices.", at.alone)
    text = "Flags that arrived faster than the leader reads, or exceeded its memory bounds."
    yield _counter("incident_flags_skipped", text, at.skipped)
