"""Measured costs per frame, batch and device, those of this machine if available."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from klais.errors import ConfigError

NOTES = "bench/notes/figures.md"


@dataclass(frozen=True, slots=True)
class Cost:
    """One figure: ``value`` in ``unit``, and its source (a benchmark and its figure, or an assumption)."""

    value: float
    unit: str
    source: str


# A medium virtual machine with 2 cores; `python -m bench --output FILE` replaces those that a benchmark measures.
DEFAULTS: dict[str, Cost] = {
    "edge_us": Cost(1.2, "us a frame", f"bench edge, {NOTES}"),
    "worker_us": Cost(1.2, "us a frame", f"bench worker, {NOTES}"),
    "broker_us": Cost(1.0, "us a frame", "fitted to bench idle, docs/scaling.md"),
    "edge_batch_us": Cost(150.0, "us a batch", "fitted to bench idle, docs/scaling.md"),
    "worker_batch_us": Cost(900.0, "us a batch", "fitted to bench idle, docs/scaling.md"),
    "broker_batch_us": Cost(1000.0, "us a batch", "fitted to bench idle, docs/scaling.md"),
    "edge_idle": Cost(0.013, "cores a process", "bench idle: edge at 0 frames/s"),
    "worker_idle": Cost(0.048, "cores a process", "bench idle: worker at 0 frames/s"),
    "broker_idle": Cost(0.037, "cores a broker", "bench idle: broker at 0 frames/s"),
    "worker_base_mb": Cost(127.0, "MB", "bench start: worker_rss_mb"),
    "edge_base_mb": Cost(75.0, "MB", "bench start: edge_rss_mb"),
    "device_bytes": Cost(
        1040.0, "bytes a device", "bench memory: worker_rss_mb at 1,000,000 devices, without the base"
    ),
    "row_bytes": Cost(400.0, "bytes a row", "row format 4 (360 bytes) and its record's key and overhead"),
    "lane_ms": Cost(50.0, "ms a lane", "bench recovery, without the read of the rows"),
}
# Figures of a results file: cost -> benchmark and figure.
MEASURED: dict[str, tuple[str, str]] = {
    "edge_us": ("edge", "cpu_us_per_frame"),
    "worker_us": ("worker", "cpu_us_per_frame"),
    "worker_base_mb": ("start", "worker_rss_mb"),
    "edge_base_mb": ("start", "edge_rss_mb"),
}


def costs(results: Path | None = None) -> dict[str, Cost]:
    """The figures by name, replaced by those in ``results`` (of ``python -m bench --output FILE``).

    Raises
    ------
    klais.errors.ConfigError
        If the file cannot be read, or has no results.
    """
    out = dict(DEFAULTS)
    if results is None:
        return out
    benches = _benches(results)
    for name, (bench, figure) in MEASURED.items():
        value = _number(benches, bench, figure)
        if value is not None:
            out[name] = Cost(value, out[name].unit, f"bench {bench}: {figure}, {results.name}")
    at_a_million = _number(benches, "memory", "worker_rss_mb")
    if at_a_million is not None:
        each = max(1.0, at_a_million - out["worker_base_mb"].value)  # MB at 1,000,000 devices = bytes a device
        out["device_bytes"] = Cost(each, "bytes a device", f"bench memory: worker_rss_mb, {results.name}")
    return out


def _number(benches: Mapping[str, object], bench: str, figure: str) -> float | None:
    found = benches.get(bench)
    value = found.get(figure) if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < 1e12 else None


def _benches(path: Path) -> dict[str, object]:
    try:
        whole = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as results of benchmarks: {error}") from None
    benches = whole.get("benches") if isinstance(whole, dict) else None
    if not isinstance(benches, dict) or not benches:
        raise ConfigError(f"{path} has no results: write it with `python -m bench --output {path}`")
    return benches
