"""One second of the whole deployment as numbers: the series that the page draws (pure, no I/O).

A sample is made of the newest ``klais_stats`` records of all processes, so every worker shows the whole system.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from klais.core.wire.constants import Reason

Record = Mapping[str, Any]

SERIES: tuple[str, ...] = (
    # frames/s, summed over the edges
    *("edge_received", "edge_passed", "edge_dropped", "edge_dropped_unintended"),
    # frames/s, summed over the workers
    *("worker_received", "worker_passed", "worker_dropped", "worker_dropped_unintended"),
    *("dead_letters", "flags"),
    # now, summed over the edges: frames held, bytes in flight, frames and bytes in the spools, spools in use
    *("edge_queue_depth", "inflight_bytes", "spool_frames", "spool_bytes", "breakers_open"),
    # now, summed over the workers
    *("lag_records", "lag_frames", "queue_depth", "pending_frames", "tokens", "devices", "anomaly_devices"),
    *("lanes", "lanes_live"),
    # now, the highest of the workers
    *("cpu_share", "host_cpu_share", "checkpoint_age_s", "anomaly_score", "lag_s"),
    # ms, the highest of the processes
    *("edge_p50_ms", "edge_p99_ms", "worker_p50_ms", "worker_p99_ms", "kafka_p99_ms"),
    # of the leading controller
    *("rate_limit", "pid_output", "cut", "burst_probability"),
    *("edges", "workers"),
)
"""Names of the series, in the order of the columns of :class:`klais.ui.history.History`."""

INTENDED = frozenset(reason.label for reason in Reason if reason.intentional)
"""Drops that a rule of the operator or of the wire format asks for; a frame dropped for another reason is a loss."""
_UNINTENDED_RATE_S = 10.0  # a rate over reasons needs two records of a process at most so far apart


def number(value: Any) -> float:
    """A number of a record; anything else, and no value, counts as 0."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def total(value: Any) -> float:
    """A counter or gauge as one number: itself, or the sum of an object's values."""
    return sum(number(each) for each in value.values()) if isinstance(value, Mapping) else number(value)


def highest(value: Any) -> float:
    """The highest of an object's values, 0 without any."""
    return max(map(number, value.values()), default=0.0) if isinstance(value, Mapping) else number(value)


def quantile(record: Record, name: str, which: str) -> float:
    """``p50`` or ``p99`` of a latency gauge (ms), 0 where nothing was measured."""
    found = record["gauges"].get(name)
    return number(found.get(which)) if isinstance(found, Mapping) else 0.0


class Sampler:
    """Makes samples; remembers the drops by reason of each process, for their rates."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, dict[str, float]]] = {}

    def sample(self, newest: Callable[[str], Mapping[str, Record]], now_s: float) -> dict[str, float]:
        """The values of :data:`SERIES` at ``now_s`` (monotonic).

        Parameters
        ----------
        newest : callable
            Kind -> newest record of each process by id, as ``StatsFollower.newest``.
        now_s : float
            Clock for the rates of drops.
        """
        edges, workers = newest("edge"), newest("worker")
        out = dict.fromkeys(SERIES, 0.0)
        self._edges(out, edges, now_s)
        self._workers(out, workers, now_s)
        self._forget({*edges, *workers})
        leader = leading(newest("controller"))
        if leader is not None:
            for name in ("pid_output", "cut", "burst_probability"):
                out[name] = number(leader["gauges"].get(name))
        return out

    def _edges(self, out: dict[str, float], edges: Mapping[str, Record], now_s: float) -> None:
        out["edges"] = len(edges)
        for name, record in edges.items():
            gauges, rates = record["gauges"], record["rates"]
            out["edge_received"] += number(rates.get("received"))
            out["edge_passed"] += number(rates.get("passed"))
            out["edge_dropped"] += number(rates.get("dropped"))
            out["edge_dropped_unintended"] += self._unintended(name, record, now_s)
            out["edge_queue_depth"] += number(gauges.get("queue_depth"))
            out["inflight_bytes"] += number(gauges.get("inflight_bytes"))
            out["spool_frames"] += number(gauges.get("spooled"))
            out["spool_bytes"] += number(gauges.get("spool_bytes"))
            out["breakers_open"] += gauges.get("breaker") in ("open", "half_open")
            out["edge_p50_ms"] = max(out["edge_p50_ms"], quantile(record, "processing_ms", "p50"))
            out["edge_p99_ms"] = max(out["edge_p99_ms"], quantile(record, "processing_ms", "p99"))
            out["kafka_p99_ms"] = max(out["kafka_p99_ms"], quantile(record, "kafka_ms", "p99"))

    def _workers(self, out: dict[str, float], workers: Mapping[str, Record], now_s: float) -> None:
        out["workers"] = len(workers)
        for name, record in workers.items():
            gauges, rates = record["gauges"], record["rates"]
            out["worker_received"] += number(rates.get("received"))
            out["worker_passed"] += number(rates.get("passed")) + number(rates.get("released"))
            out["worker_dropped"] += number(rates.get("dropped"))
            out["worker_dropped_unintended"] += self._unintended(name, record, now_s)
            out["dead_letters"] += number(rates.get("dead_letters"))
            out["flags"] += number(rates.get("flags"))
            out["lag_records"] += total(gauges.get("lag_records"))
            out["lag_frames"] += total(gauges.get("lag_frames"))
            out["lag_s"] = max(out["lag_s"], highest(gauges.get("lag_s")))
            for key in ("queue_depth", "pending_frames", "tokens", "devices", "anomaly_devices"):
                out[key] += number(gauges.get(key))
            out["lanes"] += number(gauges.get("lanes"))
            out["lanes_live"] += number(gauges.get("lanes_live"))
            for key in ("cpu_share", "host_cpu_share", "checkpoint_age_s", "anomaly_score"):
                out[key] = max(out[key], number(gauges.get(key)))
            out["worker_p50_ms"] = max(out["worker_p50_ms"], quantile(record, "processing_ms", "p50"))
            out["worker_p99_ms"] = max(out["worker_p99_ms"], quantile(record, "processing_ms", "p99"))
            out["kafka_p99_ms"] = max(out["kafka_p99_ms"], quantile(record, "kafka_ms", "p99"))
            out["rate_limit"] = max(out["rate_limit"], number(gauges.get("rate_limit")))

    def _unintended(self, name: str, record: Record, now_s: float) -> float:
        """Frames/s dropped for reasons that nobody intended, since the record before."""
        drops = unintended(record)
        at_s, before = self._before.get(name, (now_s, drops))
        self._before[name] = (now_s, drops)
        elapsed_s = now_s - at_s
        if not 0 < elapsed_s <= _UNINTENDED_RATE_S:
            return 0.0
        grown = sum(max(0.0, frames - before.get(reason, 0.0)) for reason, frames in drops.items())
        return grown / elapsed_s

    def _forget(self, alive: set[str]) -> None:
        self._before = {name: kept for name, kept in self._before.items() if name in alive}


def unintended(record: Record) -> dict[str, float]:
    """Frames that a process dropped for reasons that nobody intended, by reason."""
    dropped = record["counters"].get("dropped")
    if not isinstance(dropped, Mapping):
        return {}
    return {reason: number(frames) for reason, frames in dropped.items() if reason not in INTENDED}


def leading(controllers: Mapping[str, Record]) -> Record | None:
    """The record of the controller that leads: the one with the highest epoch."""
    records: Iterable[Record] = controllers.values()
    return max(records, key=lambda record: number(record["gauges"].get("epoch")), default=None)
