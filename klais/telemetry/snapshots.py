"""Counters and gauges of edge and worker at one moment; :mod:`klais.telemetry.metrics` renders them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, REASONS, Reason

TOPICS = (
    *("raw", "telemetry", "anomalies", "journal", "dead_letter", "stats", "control", "audit"),
    *("devices_changelog", "profiles_changelog"),
)
"""Values of the label ``topic``: the role of the topic without prefix; other topics show as ``other``."""

Stage = Literal["edge", "lane"]
_MALFORMED = frozenset(Reason(r) for r in range(FIRST_MALFORMED, LAST_MALFORMED + 1))
TRAFFIC_CLASSES = ("normal", "elevated", "burst", "thundering_herd", "attack")
"""Values of the label ``class``, those of ``klais.control.forecast.CLASSES``."""

STATES = ("normal", "silent", "flagged", "limited", "blocked")
"""Values of the label ``state`` of devices, in increasing urgency; a device has the last state that applies."""

INCIDENT_FEATURES = ("field", "interval", "size", "fleet")
"""Values of the label ``feature`` of incidents, those of ``klais.core.incidents.incident.FEATURES``."""

LIMITS_BY = ("load", "controller", "operator")
"""Values of the label ``by``: source of the XDP filter's limits; ``load``: those given at load."""

KINDS = ("edge", "worker", "controller")
"""Values of the label ``kind``: processes that report on ``klais_stats``."""

# Reasons that each stage may count. They start at 0, so that a rate over the first drop is correct.
DROP_REASONS: dict[str, frozenset[Reason]] = {
    "edge": frozenset(
        {
            *(Reason.TOO_SHORT, Reason.BAD_MAGIC, Reason.BAD_DEVICE_ID, Reason.TOO_LONG),
            *(Reason.BACKPRESSURE, Reason.KERNEL_DROP, Reason.DELIVERY_FAILED, Reason.GLOBAL_RATE),
            *(Reason.BAD_MAC, Reason.BAD_EPOCH, Reason.UNSIGNED, Reason.BLOCKED_SOURCE),
            *(Reason.SPOOL_FULL, Reason.SPOOL_FAILED, Reason.SPOOL_DAMAGED),
        }
    ),
    "lane": frozenset({r for r in Reason if Reason.DUPLICATE <= r < FIRST_MALFORMED} | _MALFORMED)
    | {Reason.CORRUPT_BATCH, Reason.REPEATED_BATCH, Reason.QUEUE_EXPIRED, Reason.POISON, Reason.OUTPUT_LOST},
}


def reason_counts() -> npt.NDArray[np.int64]:
    """Zeroed counters, int64 [REASONS], one per ``Reason``."""
    return np.zeros(REASONS, np.int64)


@dataclass(slots=True)
class Snapshot:
    """Values of both processes, since the start of the process unless stated otherwise.

    ``received = passed + dropped.sum() + queue_depth`` must hold, at the edge with ``spool_recovered`` added on the
    left. All numbers of a snapshot are of the same moment.

    Attributes
    ----------
    received, received_bytes : int
        Frames received and their bytes, including kernel drops, which ``dropped`` also contains.
    passed : int
        Frames acknowledged by the next topic.
    dropped : int64 [REASONS]
        Dropped frames by ``Reason``, including malformed ones, with or without a dead letter.
    queue_depth : int
        Frames held now: in the dam's queue (worker), not yet acknowledged (edge).
    rate_limit, tokens : float
        Rate in force (frames/s), and frames left in the global bucket.
    burst_probability : float
        0 to 1.
    anomaly_devices : int
        Devices whose newest frame is flagged.
    kafka_messages, kafka_errors : mapping of str to int
        Records acknowledged, and sends that failed after all retries; by topic (see :data:`TOPICS`).
    dead_letters, dead_letters_suppressed : int
        Dead letters written, and those only counted because of the rate limit.
    partitions : int
        Configured number of partitions.
    unaccounted : int
        Frames missing in the process's own conservation check: 0, or a defect.
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
    partitions: int = 0
    unaccounted: int = 0


@dataclass(slots=True)
class EdgeSnapshot(Snapshot):
    """Additional values of the edge: closed batches, bytes in flight, socket buffer (bytes), breaker and spool.

    ``breaker_transitions``: entries into each state, by name. ``spool_frames`` wait on disk in ``spool_bytes``;
    ``spool_recovered`` were there at the start, ``spool_replayed`` were sent to Kafka from there. ``blocked_sources``:
    prefixes of source addresses that it blocks. ``xdp_maps``: whether
    this edge writes set-points to an XDP filter's maps; ``xdp_writes``: number of writes; ``xdp_packets`` and
    ``xdp_bytes``: the filter's counters by verdict. ``set_points_age_s``: time since the filter's set-points were
    confirmed, None = never. ``limits_by``: source of its limits (:data:`LIMITS_BY`), empty without a filter.
    ``stats_age_s`` by kind: age of the newest record of the process that has been silent longest.
    """

    batches: int = 0
    inflight_bytes: int = 0
    inflight_max_bytes: int = 0
    rcvbuf_bytes: int = 0
    breaker_open: bool = False
    breaker_transitions: Mapping[str, int] = field(default_factory=dict)
    spool_frames: int = 0
    spool_bytes: int = 0
    spool_max_bytes: int = 0
    spool_recovered: int = 0
    spool_replayed: int = 0
    blocked_sources: int = 0
    xdp_maps: bool = False
    xdp_writes: int = 0
    auth_frames: Mapping[tuple[str, str], int] = field(default_factory=dict)
    xdp_packets: Mapping[str, int] = field(default_factory=dict)
    xdp_bytes: Mapping[str, int] = field(default_factory=dict)
    set_points_age_s: float | None = None
    limits_by: str = ""
    stats_age_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IncidentSnapshot:
    """Incidents, on the leader (else zeros): ``open`` now and ``opened`` in this term, by class of feature
    (:data:`INCIDENT_FEATURES`); flags that were ``muted``, that stayed ``alone``, and that did not fit (``skipped``).
    """

    open: Mapping[str, int] = field(default_factory=dict)
    opened: Mapping[str, int] = field(default_factory=dict)
    muted: int = 0
    alone: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ControlSnapshot:
    """The controller of a worker: whether it is the leader, its writes, and its newest decision (else zeros).

    ``terms``: started terms as the leader; ``pid_terms`` by name (p, i, d, output); ``lag`` frames, ``cpu`` and ``cut``
    shares, ``error`` relative, ``overrides`` in force; ``enabled``: the rate is not fixed. ``forecast_fallbacks``:
    models skipped by the forecast chain; ``traffic_class``: present class, empty if this worker is not the leader;
    ``device_limit`` (frames/s) during an attack, else 0.
    """

    enabled: bool = False

    is_leader: bool = False
    decisions: int = 0
    terms: int = 0
    pid_terms: Mapping[str, float] = field(default_factory=dict)
    error: float = 0.0
    lag: float = 0.0
    cpu: float = 0.0
    cut: float = 0.0
    overrides: int = 0
    forecast_fallbacks: int = 0
    traffic_class: str = ""
    device_limit: float = 0.0
    incidents: IncidentSnapshot = field(default_factory=IncidentSnapshot)


@dataclass(frozen=True, slots=True)
class ScoringSnapshot:
    """The two-tier scorer of a worker: values scored, values above the CPU share, values scored immediately, values
    without a profile; seconds spent on scores, and the present scoring period (s)."""

    scored: int = 0
    skipped: int = 0
    opened: int = 0
    without_channel: int = 0
    seconds: float = 0.0
    period_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TypesSnapshot:
    """Types of devices in a worker: sampled frames, frames compared with all types, raised flags; types of the model in
    use (0 = no model), successful and failed trainings."""

    sampled: int = 0
    compared: int = 0
    flags: int = 0
    types: int = 0
    trained: int = 0
    failed: int = 0


@dataclass(slots=True)
class WorkerSnapshot(Snapshot):
    """Additional values of a worker, summed over its lanes.

    ``verdicts`` int64 [>= VERDICTS] frames by the verdict of their step (``QUEUED`` included); ``lag_records`` unread
    records of the staging topic by partition, ``lag_s`` the age of the oldest of them; ``checkpoint_age_s`` that of the
    lane whose checkpoint is oldest. ``lane_live`` by partition; ``queue_*``: of the dam's queue, all lanes together;
    ``longest_block_s`` of the event loop in the last minute; ``devices_by_state`` by :data:`STATES`;
    ``late_share`` of the batches landed later than ``latency_target_s``.
    """

    verdicts: npt.NDArray[np.integer[Any]] | Sequence[int] = field(default_factory=reason_counts)
    batches: int = 0
    steps: int = 0
    checkpoints: int = 0
    checkpoint_s: float = 0.0
    checkpoint_age_s: float = 0.0
    lag_records: Mapping[int, int] = field(default_factory=dict)
    lag_s: Mapping[int, float] = field(default_factory=dict)
    lanes: int = 0
    lane_live: Mapping[int, bool] = field(default_factory=dict)
    lane_restarts: int = 0
    queue_limit: int = 0
    queue_bytes: int = 0
    queue_limit_bytes: int = 0
    longest_block_s: float = 0.0
    latency_target_s: float = 0.0
    late_share: float = 0.0
    devices: int = 0
    devices_limit: int = 0
    devices_by_state: Mapping[str, int] = field(default_factory=dict)
    forgotten: int = 0
    late: int = 0
    gaps: int = 0
    resets: int = 0
    flags: int = 0
    flags_suppressed: int = 0
    lost_records: int = 0
    missing_batches: int = 0
    control: ControlSnapshot = field(default_factory=ControlSnapshot)
    scoring: ScoringSnapshot = field(default_factory=ScoringSnapshot)
    types: TypesSnapshot = field(default_factory=TypesSnapshot)
