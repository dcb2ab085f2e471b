"""One second of the whole deployment as numbers: the series that the page draws (pure, no I/O).

A sample is computed from the reports of all processes on ``klais_stats``, so every worker shows the whole system. A
value that no process reports is NaN, which is ``null`` in JSON: while Kafka is unavailable no report arrives, and 0
frames/s would be a claim.
"""

import math
from collections.abc import Mapping

from klais.core.wire.constants import Reason
from klais.telemetry.schema import Gauges
from klais.telemetry.view import ProcessView, SystemView

_SUMS_OF_EDGES = (
    # frames/s
    *("edge_received", "edge_passed", "edge_dropped", "edge_dropped_unintended"),
    # now: frames held, bytes in flight, frames and bytes in the spools, spools in use
    *("edge_queue_depth", "inflight_bytes", "spool_frames", "spool_bytes", "breakers_open"),
)
_SUMS_OF_WORKERS = (
    # frames/s
    *("worker_received", "worker_passed", "worker_dropped", "worker_dropped_unintended"),
    *("dead_letters", "flags"),
    # present values
    *("lag_records", "lag_frames", "queue_depth", "pending_frames", "tokens", "devices", "anomaly_devices"),
    *("lanes", "lanes_live"),
    "lag_s",  # the highest of the workers; 0 if nothing waits
)
_HIGHEST_OF_WORKERS = ("cpu_share", "host_cpu_share", "checkpoint_age_s", "anomaly_score", "rate_limit")
_OF_THE_CONTROLLER = ("pid_output", "cut", "burst_probability")
SERIES: tuple[str, ...] = (
    *_SUMS_OF_EDGES,
    *_SUMS_OF_WORKERS,
    *_HIGHEST_OF_WORKERS,
    # ms, the highest of the processes
    *("edge_p50_ms", "edge_p99_ms", "worker_p50_ms", "worker_p99_ms", "kafka_p99_ms"),
    *_OF_THE_CONTROLLER,  # the leading one
    *("edges", "workers"),
)
"""Names of the series, in the order of the columns of :class:`klais.ui.history.History`."""

INTENDED = frozenset(reason.label for reason in Reason if reason.intentional)
"""Intended drops, by a rule of the operator or of the wire format; a drop for another reason is a loss."""
_UNINTENDED_RATE_S = 10.0  # a rate by reason needs two records of a process within this time


class Sampler:
    """Builds samples; keeps the drops by reason of each process, for their rates."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, dict[str, float]]] = {}

    def sample(self, system: SystemView, now_s: float) -> dict[str, float]:
        """The values of :data:`SERIES` of a system at ``now_s`` (monotonic); NaN = no process reports it."""
        out = dict.fromkeys(SERIES, math.nan)
        out["edges"], out["workers"] = len(system.edges), len(system.workers)
        if system.edges:
            self._edges(out, system.edges, now_s)
        if system.workers:
            self._workers(out, system, now_s)
        self._before = {name: kept for name, kept in self._before.items() if name in {*system.edges, *system.workers}}
        leader = system.leader()
        if leader is not None:
            gauges = system.controllers[leader].gauges
            for name in _OF_THE_CONTROLLER:
                _raise(out, name, getattr(gauges, name))
        return out

    def _edges(self, out: dict[str, float], edges: Mapping[str, ProcessView], now_s: float) -> None:
        out |= dict.fromkeys(_SUMS_OF_EDGES, 0.0)
        for name, edge in edges.items():
            gauges = edge.gauges
            for key in ("received", "passed", "dropped"):
                out[f"edge_{key}"] += edge.rates.get(key, 0.0)
            out["edge_dropped_unintended"] += self._unintended(name, edge, now_s)
            out["edge_queue_depth"] += gauges.queue_depth or 0.0
            out["inflight_bytes"] += gauges.inflight_bytes or 0.0
            out["spool_frames"] += gauges.spooled or 0.0
            out["spool_bytes"] += gauges.spool_bytes or 0.0
            out["breakers_open"] += gauges.breaker in ("open", "half_open")
            _latency(out, "edge", gauges)

    def _workers(self, out: dict[str, float], system: SystemView, now_s: float) -> None:
        out |= dict.fromkeys(_SUMS_OF_WORKERS, 0.0)
        for key in ("queue_depth", "pending_frames", "tokens", "devices", "anomaly_devices", "lanes", "lanes_live"):
            out[key] = system.gauge(key)
        for name, worker in system.workers.items():
            rates, gauges = worker.rates, worker.gauges
            for key in _HIGHEST_OF_WORKERS:
                _raise(out, key, getattr(gauges, key))
            out["worker_received"] += rates.get("received", 0.0)
            out["worker_passed"] += rates.get("passed", 0.0) + rates.get("released", 0.0)
            out["worker_dropped"] += rates.get("dropped", 0.0)
            out["worker_dropped_unintended"] += self._unintended(name, worker, now_s)
            out["dead_letters"] += rates.get("dead_letters", 0.0)
            out["flags"] += rates.get("flags", 0.0)
            out["lag_records"] += sum((gauges.lag_records or {}).values())
            out["lag_frames"] += sum((gauges.lag_frames or {}).values())
            out["lag_s"] = max(out["lag_s"], *(gauges.lag_s or {}).values(), 0.0)
            _latency(out, "worker", gauges)

    def _unintended(self, name: str, process: ProcessView, now_s: float) -> float:
        """Frames/s dropped for unintended reasons since the previous record."""
        drops = {reason: frames for reason, frames in process.dropped.items() if reason not in INTENDED}
        at_s, before = self._before.get(name, (now_s, drops))
        self._before[name] = (now_s, drops)
        elapsed_s = now_s - at_s
        if not 0 < elapsed_s <= _UNINTENDED_RATE_S:
            return 0.0
        grown = sum(max(0.0, frames - before.get(reason, 0.0)) for reason, frames in drops.items())
        return grown / elapsed_s


def _raise(out: dict[str, float], name: str, value: float | None) -> None:
    """Raise a value to the highest one known; NaN, which compares false, as long as none is."""
    if value is not None:
        out[name] = max(float(value), out[name])


def _latency(out: dict[str, float], stage: str, gauges: Gauges) -> None:
    """Update the highest quantiles (ms) of a stage and of Kafka, from processes that had batches."""
    if gauges.processing_ms is not None and gauges.processing_ms.count:
        _raise(out, f"{stage}_p50_ms", gauges.processing_ms.p50)
        _raise(out, f"{stage}_p99_ms", gauges.processing_ms.p99)
    if gauges.kafka_ms is not None and gauges.kafka_ms.count:
        _raise(out, "kafka_p99_ms", gauges.kafka_ms.p99)
