"""From what all processes report to what the controller works with (pure)."""

from collections.abc import Iterable, Mapping
from typing import Any

from klais.control.decide import Inputs
from klais.control.forecast import BurstForecast
from klais.telemetry.stats import total

Record = Mapping[str, Any]

YOUNG_S = 5.0  # a lag that is taken within this time was written about as long ago


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    found = values.get(name)
    items = found.items() if isinstance(found, Mapping) else ()
    return {str(key): float(value) for key, value in items if isinstance(value, int | float)}


def busiest(records: Iterable[Record]) -> float:
    """CPU share of the busiest process, 0 to 1: of a core that it fills, or of a machine that has no more to give."""
    shares = [max(_number(r["gauges"], "cpu_share"), _number(r["gauges"], "host_cpu_share")) for r in records]
    return min(1.0, max(shares, default=0.0))


def passed_per_s(records: Iterable[Record]) -> float | None:
    """Frames/s that all workers let through in the last second; None while one of them has not measured it yet."""
    found = [r["rates"].get("passed") for r in records]
    return None if not found or None in found else float(sum(found))


def _lag(workers: Iterable[Record], edges: Iterable[Record]) -> float:
    """Frames that no lane has taken. Workers know records, and how many frames those had that they took last.

    Records that were written within seconds have as many frames as the edges now put into one. When that changes, as when
    edges begin to shed, a worker's guess is wrong by that factor for as long as the lag is long.
    """
    workers, edges = list(workers), list(edges)
    said = sum(sum(_numbers(r["gauges"], "lag_frames").values()) for r in workers)
    records = sum(_number(r["gauges"], "lag") for r in workers)
    taken_per_s = sum(_number(r["rates"], "raw_records") for r in workers)
    frames_per_s, records_per_s = (sum(_number(r["rates"], name) for r in edges) for name in ("passed", "batches"))
    if records_per_s < 1.0 or records > YOUNG_S * max(taken_per_s, records_per_s):
        return said
    return records * frames_per_s / records_per_s


def measure(workers: Mapping[str, Record], edges: Mapping[str, Record], forecast: BurstForecast) -> Inputs:
    """Inputs of a decision from the fresh records of all workers and edges (by id)."""
    records = list(workers.values())
    wants: dict[int, float] = {}
    for record in records:
        for partition, frames_per_s in _numbers(record["gauges"], "demand").items():
            if partition.isdigit():
                wants[int(partition)] = wants.get(int(partition), 0.0) + frames_per_s
    hosts: dict[str, float] = {}
    for name, record in edges.items():
        host = str(record.get("host", name))
        hosts[host] = hosts.get(host, 0.0) + _number(record["rates"], "received")
    return Inputs(
        lag=_lag(records, edges.values()),
        cpu=busiest([*records, *edges.values()]),
        queue_depth=sum(_number(r["gauges"], "queue_depth") for r in records),
        passed=passed_per_s(records),
        wants=wants,
        hosts=hosts,
        forecast=forecast,
        fresh=bool(records),
    )


def traffic_totals(workers: Mapping[str, Record], edges: Mapping[str, Record]) -> dict[str, float]:
    """Running totals for the traffic features: what the edges received, and what is known of its devices."""
    counters = [record["counters"] for record in edges.values()]
    dropped = [*counters, *(record["counters"] for record in workers.values())]
    return {
        "received": sum(_number(c, "received") for c in counters),
        "bytes": sum(_number(c, "received_bytes") for c in counters),
        "dropped": float(sum(total(c.get("dropped", 0)) for c in dropped)),
        "devices": sum(_number(r["gauges"], "devices") for r in workers.values()),
    }


def offenders_of(workers: Mapping[str, Record]) -> dict[str, float]:
    """Device -> frames/s dropped above its own rate, as all workers tell it."""
    out: dict[str, float] = {}
    for record in workers.values():
        out |= _numbers(record["gauges"], "offenders")
    return out
