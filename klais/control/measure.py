"""From what all processes report to the inputs of the controller (pure)."""

from collections.abc import Iterable

from klais.control.decide import Inputs
from klais.control.forecast import BurstForecast
from klais.telemetry.view import ProcessView, SystemView

RECENT_S = 5.0  # records that the lanes read within this time were written about as long ago


def busiest(processes: Iterable[ProcessView]) -> float:
    """CPU share of the busiest process, 0 to 1: of a core that it fills, or of a machine that has no more to give."""
    shares = [max(p.gauges.cpu_share or 0.0, p.gauges.host_cpu_share or 0.0) for p in processes]
    return min(1.0, max(shares, default=0.0))


def passed_per_s(workers: Iterable[ProcessView]) -> float | None:
    """Frames/s that all workers passed in the last second; None until each worker has measured it."""
    found = [worker.rates.get("passed") for worker in workers]
    known = [rate for rate in found if rate is not None]
    return sum(known) if known and len(known) == len(found) else None


def _lag(system: SystemView) -> float:
    """Frames that no lane has read. Workers know records, and how many frames the records held that they read last.

    Records that were written within seconds hold as many frames as the edges now put into one. When that number
    changes, as when edges begin to shed, the worker's estimate is wrong by the same factor for as long as the lag is
    long.
    """
    workers, edges = system.workers.values(), system.edges.values()
    estimated = sum(sum((worker.gauges.lag_frames or {}).values()) for worker in workers)
    records = system.gauge("lag")
    read_per_s = system.rate("raw_records") or 0.0
    frames_per_s, records_per_s = (sum(edge.rates.get(name, 0.0) for edge in edges) for name in ("passed", "batches"))
    if records_per_s < 1.0 or records > RECENT_S * max(read_per_s, records_per_s):
        return float(estimated)
    return records * frames_per_s / records_per_s


def measure(system: SystemView, forecast: BurstForecast) -> Inputs:
    """Inputs of a decision from the fresh records of all workers and edges."""
    workers, edges = system.workers.values(), system.edges.values()
    wants: dict[int, float] = {}
    for worker in workers:
        for partition, frames_per_s in (worker.gauges.demand or {}).items():
            if partition.isdigit():
                wants[int(partition)] = wants.get(int(partition), 0.0) + frames_per_s
    hosts: dict[str, float] = {}
    for edge in edges:
        hosts[edge.host] = hosts.get(edge.host, 0.0) + edge.rates.get("received", 0.0)
    return Inputs(
        lag=_lag(system),
        cpu=busiest([*workers, *edges]),
        queue_depth=system.gauge("queue_depth"),
        passed=passed_per_s(workers),
        wants=wants,
        hosts=hosts,
        forecast=forecast,
        fresh=bool(workers),
    )


def traffic_totals(system: SystemView) -> dict[str, float]:
    """Running totals for the traffic features: what the edges received, all drops, and the number of known devices."""
    edges = system.edges.values()
    everyone = [*edges, *system.workers.values()]
    return {
        "received": sum(edge.counters.get("received", 0.0) for edge in edges),
        "bytes": sum(edge.counters.get("received_bytes", 0.0) for edge in edges),
        "dropped": float(sum(process.counters.get("dropped", 0.0) for process in everyone)),
        "devices": system.gauge("devices"),
    }


def offenders_of(system: SystemView) -> dict[str, float]:
    """Device -> frames/s dropped above its own rate, as the workers report it."""
    out: dict[str, float] = {}
    for worker in system.workers.values():
        out |= worker.gauges.offenders or {}
    return out
