"""Computes the inputs of the controller from the reports of all processes (pure)."""

import math
from collections.abc import Iterable

from klais.control.decide import Inputs
from klais.control.forecast import TrafficForecast
from klais.telemetry.view import ProcessView, SystemView, partition_of

MAX_ACTIVITY = 1e15  # a foreign record may claim devices of the shortest time that there is
RECENT_S = 5.0  # records read by lanes were written about as long ago


def busiest(processes: Iterable[ProcessView]) -> float:
    """CPU share of the busiest process, 0 to 1: of one core, or of the machine if that is saturated."""
    shares = [max(p.gauges.cpu_share or 0.0, p.gauges.host_cpu_share or 0.0) for p in processes]
    return min(1.0, max(shares, default=0.0))


def passed_per_s(workers: Iterable[ProcessView]) -> float | None:
    """Frames/s that all workers passed in the last second; None until each worker has measured its own."""
    found = [worker.rates.get("passed") for worker in workers]
    known = [rate for rate in found if rate is not None]
    return sum(known) if known and len(known) == len(found) else None


def _lag(system: SystemView) -> float:
    """Frames that no lane has read, from the workers' unread records and the frames per record that they read last.

    Records written within seconds hold as many frames as edges put into a record now. If that number changes, for
    example when edges begin to shed, the worker's estimate is wrong by the same factor for as long as the lag is long.
    """
    workers, edges = system.workers.values(), system.edges.values()
    estimated = sum(sum((worker.gauges.lag_frames or {}).values()) for worker in workers)
    records = system.gauge("lag")
    read_per_s = system.rate("raw_records") or 0.0
    frames_per_s, records_per_s = (sum(edge.rates.get(name, 0.0) for edge in edges) for name in ("passed", "batches"))
    if records_per_s < 1.0 or records > RECENT_S * max(read_per_s, records_per_s):
        return float(estimated)
    return records * frames_per_s / records_per_s


def measure(system: SystemView, forecast: TrafficForecast) -> Inputs:
    """Inputs of a decision from the fresh records of all workers and edges."""
    workers, edges = system.workers.values(), system.edges.values()
    demand: dict[int, float] = {}
    for worker in workers:
        for partition, frames_per_s in (worker.gauges.demand or {}).items():
            if (p := partition_of(partition)) >= 0:
                demand[p] = demand.get(p, 0.0) + frames_per_s
    hosts: dict[str, float] = {}
    for edge in edges:
        hosts[edge.host] = hosts.get(edge.host, 0.0) + edge.rates.get("received", 0.0)
    return Inputs(
        lag=max(0.0, _lag(system)),
        cpu=busiest([*workers, *edges]),
        queue_depth=max(0.0, system.gauge("queue_depth")),
        passed=passed_per_s(workers),
        demand=demand,
        hosts=hosts,
        forecast=forecast,
        fresh=bool(workers),
    )


def activity_of(system: SystemView) -> dict[str, float]:
    """Activity of the last second over all edges: ``active`` devices, ``entropy`` (nats), ``top_share``, ``size_cv``.

    A device that sends to two edges counts as two. Zeros while no edge reports its activity.
    """
    parts = [edge.gauges.traffic for edge in system.edges.values() if edge.gauges.traffic is not None]
    frames = sum(part.frames for part in parts)
    if not frames:
        return dict.fromkeys(("active", "entropy", "top_share", "size_cv"), 0.0)
    mean = sum(part.bytes for part in parts) / frames
    variance = max(0.0, sum(part.bytes_squared for part in parts) / frames - mean * mean)
    found = {
        "active": sum(part.devices / part.seconds for part in parts),
        "entropy": max(0.0, math.log(frames) - sum(part.log_sum for part in parts) / frames),
        "top_share": max(part.top for part in parts) / frames,
        "size_cv": math.sqrt(variance) / mean if mean > 0 else 0.0,
    }
    return {name: min(value, MAX_ACTIVITY) if value == value else 0.0 for name, value in found.items()}


def offenders_of(system: SystemView) -> dict[str, float]:
    """Device -> frames/s dropped above its own rate, as reported by the workers."""
    out: dict[str, float] = {}
    for worker in system.workers.values():
        out |= worker.gauges.offenders or {}
    return out
