"""Prometheus metrics of edge and worker: declared once, here.

The data path counts in numpy arrays. A collector turns a snapshot of them into Prometheus counters when someone asks,
so that no frame ever costs a metric call. Only the three histograms are live objects, observed once a batch.

Labels come from closed sets (``Reason``, :data:`TOPICS`, stages, partitions): a device is never a label.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client import disable_created_metrics as _disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from klais import __version__
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, Reason

REASONS = max(Reason) + 1
"""Size of an array that counts by ``Reason``."""

TOPICS = ("raw", "telemetry", "anomalies", "journal", "dead_letter", "stats", "control", "devices_changelog")
"""Values of the label ``topic``: which topic it is, whatever its name with prefix; anything else shows as ``other``."""

Stage = Literal["edge", "lane"]
_MALFORMED = frozenset(Reason(r) for r in range(FIRST_MALFORMED, LAST_MALFORMED + 1))
# What each stage may count; shown from the start as 0, so that a rate over the first drop is right.
DROP_REASONS: dict[str, frozenset[Reason]] = {
    "edge": frozenset(
        {
            *(Reason.TOO_SHORT, Reason.BAD_MAGIC, Reason.BAD_DEVICE_ID, Reason.TOO_LONG),
            *(Reason.BACKPRESSURE, Reason.KERNEL_DROP, Reason.DELIVERY_FAILED, Reason.GLOBAL_RATE),
            *(Reason.SPOOL_FULL, Reason.SPOOL_FAILED, Reason.SPOOL_DAMAGED),
        }
    ),
    "lane": frozenset({r for r in Reason if Reason.DUPLICATE <= r < FIRST_MALFORMED} | _MALFORMED)
    | {Reason.CORRUPT_BATCH, Reason.REPEATED_BATCH, Reason.QUEUE_EXPIRED, Reason.POISON, Reason.OUTPUT_LOST},
}

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


def reason_counts() -> npt.NDArray[np.int64]:
    """Zeroed counters, int64 [REASONS], one place for each ``Reason``."""
    return np.zeros(REASONS, np.int64)


@dataclass(slots=True)
class Snapshot:
    """What both processes count, all since the start of this process unless stated otherwise.

    ``received = passed + dropped.sum() + queue_depth`` must hold, at the edge with ``spool_recovered`` added on the
    left; all numbers of a snapshot are of one moment.

    Attributes
    ----------
    received, received_bytes : int
        Frames received (kernel drops included, which are in ``dropped`` too) and their bytes.
    passed : int
        Frames that left for good: acknowledged by the next topic.
    dropped : int64 [REASONS]
        Frames that did not, by ``Reason``; malformed ones too, whether a dead letter was written or not.
    queue_depth : int
        Frames held now: in the dam's queue (worker), not yet acknowledged (edge).
    rate_limit, tokens : float
        Frames/s in force, frames left in the global bucket.
    burst_probability : float
        0 to 1.
    anomaly_devices : int
        Devices whose newest frame is flagged.
    kafka_messages, kafka_errors : mapping of str to int
        Records acknowledged, sends failed for good; by topic (see :data:`TOPICS`).
    dead_letters, dead_letters_suppressed : int
        Written; only counted because of the rate limit.
    """

    received: int = 0
    received_bytes: int = 0
    passed: int = 0
    dropped: npt.NDArray[np.integer[Any]] | Sequence[int] = field(default_factory=reason_counts)
    queue_depth: int = 0
    rate_limit: float = 0.0
    tokens: float = 0.0
    burst_probability: float = 0.0
    anomaly_devices: int = 0
    kafka_messages: Mapping[str, int] = field(default_factory=dict)
    kafka_errors: Mapping[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    dead_letters_suppressed: int = 0


@dataclass(slots=True)
class EdgeSnapshot(Snapshot):
    """What the edge counts besides: batches closed, bytes at Kafka, the socket's buffer (bytes), breaker and spool.

    ``breaker_moves``: how often each state was entered, by its name; ``spool_frames`` wait on disk in ``spool_bytes``,
    ``spool_recovered`` lay there at the start, ``spool_replayed`` went to Kafka from there. ``xdp_maps``: whether
    set-points go into a kernel filter's maps here, ``xdp_writes`` how often they did, ``xdp_packets`` that filter's
    packets by verdict.
    """

    batches: int = 0
    inflight_bytes: int = 0
    rcvbuf_bytes: int = 0
    breaker_open: bool = False
    breaker_moves: Mapping[str, int] = field(default_factory=dict)
    spool_frames: int = 0
    spool_bytes: int = 0
    spool_recovered: int = 0
    spool_replayed: int = 0
    xdp_maps: bool = False
    xdp_writes: int = 0
    xdp_packets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControlSnapshot:
    """The controller of a worker: whether it is the leader, what it wrote, and its newest decision (else zeros).

    ``terms`` it began as the leader; ``pid_terms`` by name (p, i, d, output); ``lag`` frames, ``cpu`` and ``cut``
    shares, ``error`` relative, ``overrides`` in force.
    """

    is_leader: bool = False
    decisions: int = 0
    terms: int = 0
    pid_terms: Mapping[str, float] = field(default_factory=dict)
    error: float = 0.0
    lag: float = 0.0
    cpu: float = 0.0
    cut: float = 0.0
    overrides: int = 0


@dataclass(slots=True)
class WorkerSnapshot(Snapshot):
    """What a worker counts besides, summed over its lanes.

    ``verdicts`` int64 [>= 16] frames by the verdict of their step (``QUEUED`` included); ``lag_records`` unread records
    of the staging topic by partition; ``checkpoint_age_s`` that of the lane whose checkpoint is oldest.
    """

    verdicts: npt.NDArray[np.integer[Any]] | Sequence[int] = field(default_factory=reason_counts)
    batches: int = 0
    steps: int = 0
    checkpoints: int = 0
    checkpoint_s: float = 0.0
    checkpoint_age_s: float = 0.0
    lag_records: Mapping[int, int] = field(default_factory=dict)
    lanes: int = 0
    devices: int = 0
    devices_limit: int = 0
    forgotten: int = 0
    late: int = 0
    gaps: int = 0
    resets: int = 0
    flags: int = 0
    flags_suppressed: int = 0
    lost_records: int = 0
    missing_batches: int = 0
    control: ControlSnapshot = field(default_factory=ControlSnapshot)


class _Metrics:
    """A registry of its own with the histograms, the process's CPU and memory, and the counters of a snapshot."""

    def __init__(self, stage: Stage, families: Callable[[], Iterable[Metric]]) -> None:
        _disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.processing = self._histogram(
            "processing", "Edge: from a batch's first frame until it is closed; worker: time to decide a batch (s)."
        )
        self.inference = self._histogram("inference", "Time to score one batch (s).")
        self.kafka = self._histogram("kafka", "From the send of a batch until Kafka acknowledges it (s).")
        self.registry.register(_Collector(stage, families))

    def _histogram(self, what: str, help_text: str) -> Histogram:
        name = f"klais_{what}_latency_seconds"
        return Histogram(name, help_text, buckets=LATENCY_BUCKETS_S, registry=self.registry)

    def render(self) -> tuple[bytes, str]:
        """The metrics as Prometheus text, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class EdgeMetrics(_Metrics):
    """Metrics of the edge; ``snapshot`` is called once for each scrape.

    Examples
    --------
    >>> metrics = EdgeMetrics(lambda: EdgeSnapshot(received=3, passed=3))
    >>> metrics.kafka.observe(0.004)
    >>> b"klais_packets_received_total 3.0" in metrics.render()[0]
    True
    """

    def __init__(self, snapshot: Callable[[], EdgeSnapshot]) -> None:
        super().__init__("edge", lambda: _edge_families(snapshot()))


class WorkerMetrics(_Metrics):
    """Metrics of a worker; ``snapshot`` is called once for each scrape."""

    def __init__(self, snapshot: Callable[[], WorkerSnapshot]) -> None:
        super().__init__("lane", lambda: _worker_families(snapshot()))


class _Collector(Collector):
    def __init__(self, stage: Stage, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families
        self._info = InfoMetricFamily("klais_build", "Version of KLAIS.", {"version": __version__, "stage": stage})

    def collect(self) -> Iterator[Metric]:
        yield self._info
        yield from self._families()


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"klais_{name}", help_text, value=value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"klais_{name}", help_text, value=value)


def _by_topic(name: str, help_text: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"klais_{name}", help_text, labels=["topic"])
    for topic in TOPICS:
        family.add_metric([topic], values.get(topic, 0))
    other = sum(value for topic, value in values.items() if topic not in TOPICS)
    if other:
        family.add_metric(["other"], other)
    return family


def _dropped(stage: Stage, counts: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Metric:
    help_text = "Frames that did not pass, by reason; a sample of malformed ones is in klais_dead_letter."
    family = CounterMetricFamily("klais_packets_dropped", help_text, labels=["stage", "reason"])
    for reason in Reason:
        count = int(counts[reason]) if reason < len(counts) else 0
        if count or reason in DROP_REASONS[stage]:
            family.add_metric([stage, reason.label], count)
    return family


def _common_families(stage: Stage, s: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "packets_received", "Frames received; at the edge including those that the kernel dropped.", s.received
    )
    yield _counter(
        "bytes_received", "Bytes received: of frames (edge), of records on klais_raw (worker).", s.received_bytes
    )
    yield _counter(
        "packets_passed",
        "Frames that Kafka acknowledged on klais_raw (edge), or that passed the dam (worker).",
        s.passed,
    )
    yield _dropped(stage, s.dropped)
    yield _by_topic("kafka_messages", "Records that Kafka acknowledged.", s.kafka_messages)
    yield _by_topic("kafka_errors", "Records that Kafka did not take after all retries.", s.kafka_errors)
    yield _counter("dead_letters", "Malformed frames written to klais_dead_letter.", s.dead_letters)
    text = "Malformed frames above KLAIS_DEAD_LETTER_RATE: counted, not written."
    yield _counter("dead_letters_suppressed", text, s.dead_letters_suppressed)
    yield _gauge("queue_depth", "Frames on their way to Kafka (edge), or in the dam's queue (worker).", s.queue_depth)
    yield _gauge("rate_limit", "Global rate in force (frames/s).", s.rate_limit)
    yield _gauge("tokens_available", "Tokens in the global bucket (frames).", s.tokens)
    yield _gauge("burst_probability", "Probability of a burst within 5 s (0 to 1).", s.burst_probability)
    yield _gauge("anomaly_devices", "Devices whose newest frame is flagged.", s.anomaly_devices)


def _edge_families(s: EdgeSnapshot) -> Iterator[Metric]:
    yield from _common_families("edge", s)
    yield _counter("edge_batches", "Frame batches closed.", s.batches)
    yield _gauge("edge_inflight_bytes", "Bytes of batches that Kafka has not acknowledged.", s.inflight_bytes)
    yield _gauge("edge_receive_buffer_bytes", "Socket buffer that the kernel granted (bytes).", s.rcvbuf_bytes)
    yield _gauge("edge_breaker_open", "1 while batches go to the spool instead of Kafka.", s.breaker_open)
    moves = CounterMetricFamily("klais_edge_breaker_moves", "Times that the breaker entered a state.", labels=["state"])
    for state in ("closed", "open", "half_open"):
        moves.add_metric([state], s.breaker_moves.get(state, 0))
    yield moves
    yield _gauge("edge_spool_frames", "Frames in the spool that Kafka has not acknowledged.", s.spool_frames)
    yield _gauge("edge_spool_bytes", "Size of the spool's files (bytes).", s.spool_bytes)
    yield _counter("edge_spool_recovered", "Frames found in the spool at the start.", s.spool_recovered)
    yield _counter("edge_spool_replayed", "Frames published from the spool.", s.spool_replayed)
    yield _gauge("edge_xdp_maps", "1 while the edge writes set-points to the kernel filter of its host.", s.xdp_maps)
    yield _counter("edge_xdp_writes", "Writes of set-points, blocks or a heartbeat to the kernel filter.", s.xdp_writes)
    text = "Packets by verdict of this host's kernel filter; every edge of the host reports the same."
    packets = CounterMetricFamily("klais_edge_xdp_packets", text, labels=["verdict"])
    for verdict, number in s.xdp_packets.items():
        packets.add_metric([verdict], number)
    yield packets


def _worker_families(s: WorkerSnapshot) -> Iterator[Metric]:
    yield from _common_families("lane", s)
    verdicts = CounterMetricFamily("klais_lane_frames", "Frames by verdict.", labels=["verdict"])
    for reason in Reason:
        if reason < 16:
            verdicts.add_metric([reason.label], int(s.verdicts[reason]) if reason < len(s.verdicts) else 0)
    yield verdicts
    yield _counter("lane_batches", "Frame batches read from klais_raw.", s.batches)
    yield _counter("lane_steps", "Steps written to the journal.", s.steps)
    yield _counter("lane_checkpoints", "Checkpoints finished.", s.checkpoints)
    yield _counter("lane_checkpoint_seconds", "Time spent in checkpoints (s).", s.checkpoint_s)
    yield _gauge(
        "lane_checkpoint_age_seconds",
        "Age of the newest checkpoint, of the lane where it is oldest (s).",
        s.checkpoint_age_s,
    )
    lag = GaugeMetricFamily(
        "klais_lag_records", "Records of klais_raw that the lane has not read.", labels=["partition"]
    )
    for partition, records in sorted(s.lag_records.items()):
        lag.add_metric([str(partition)], records)
    yield lag
    yield _gauge("lanes", "Live lanes (partitions) of this worker.", s.lanes)
    yield _gauge("devices", "Devices in the lanes of this worker.", s.devices)
    yield _gauge("devices_limit", "Devices that the lanes of this worker may hold.", s.devices_limit)
    yield _counter("devices_forgotten", "Devices forgotten: silent, in the way, or named by operators.", s.forgotten)
    yield _counter("sequence_late", "Frames that arrived behind a newer one of their device.", s.late)
    yield _counter("sequence_gaps", "Missing sequence numbers.", s.gaps)
    yield _counter("sequence_resets", "Times that a device started its sequence again.", s.resets)
    yield _counter("anomaly_flags", "Anomaly records written.", s.flags)
    yield _counter(
        "anomaly_flags_suppressed", "Anomalies above KLAIS_ANOMALY_RATE: counted, not written.", s.flags_suppressed
    )
    yield _counter(
        "lost_records",
        "Records of klais_raw that retention removed before a lane read them: lost data.",
        s.lost_records,
    )
    yield _counter(
        "missing_batches", "Batch numbers that never arrived: an edge was killed or gave up.", s.missing_batches
    )
    yield from _control_families(s.control)


def _control_families(c: ControlSnapshot) -> Iterator[Metric]:
    yield _gauge("control_is_leader", "1 while this worker is the leader of the controllers.", c.is_leader)
    yield _counter("control_decisions", "Decisions that this worker wrote to klais_control.", c.decisions)
    yield _counter("control_terms", "Terms as the leader that this process began.", c.terms)
    terms = GaugeMetricFamily("klais_pid_term", "Terms of the newest decision; output is 0 to 1.", labels=["term"])
    for name in ("p", "i", "d", "output"):
        terms.add_metric([name], c.pid_terms.get(name, 0.0))
    yield terms
    yield _gauge("control_error", "Weighted relative error of lag and CPU; above 0 = there is room.", c.error)
    yield _gauge("control_lag_frames", "Lag of all workers in the newest decision (frames).", c.lag)
    yield _gauge("control_cpu_share", "CPU share of the busiest process in the newest decision.", c.cpu)
    yield _gauge("control_cut_share", "Share of the rate cut ahead of a burst; 0.5 is an alert.", c.cut)
    yield _gauge("control_overrides", "Overrides of operators in force.", c.overrides)
