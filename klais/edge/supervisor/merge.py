"""Several edge processes as one: sums of their reports. Pure."""

from collections.abc import Iterable
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from klais.telemetry.counters import Numbers, add

# Figures of the whole system or host, reported by every process: one of them is enough. All others are summed.
SHARED_METRICS = frozenset(
    {
        *("klais_rate_limit", "klais_tokens_available", "klais_burst_probability", "klais_anomaly_devices"),
        *("klais_build_info", "klais_partitions", "klais_stats_age_seconds", "process_start_time_seconds"),
        *("klais_xdp_maps", "klais_xdp_packets", "klais_xdp_bytes", "klais_xdp_limits_in_force"),
        *("klais_xdp_setpoint_age_seconds", "klais_edge_blocked_sources"),
    }
)
COUNTERS = frozenset({"counter", "histogram", "summary"})
SHARED_GAUGES = frozenset({"linger_ms", "blocked_sources"})
FIRST_GAUGES = frozenset({"spool_full_s"})
"""Times until something happens: the smallest counts."""


def sum_gauges(gauges: Iterable[Numbers]) -> dict[str, Any]:
    """Gauges of all: sums, maxima or minima of those that are not additive, and the state of the first breaker that is
    not closed.
    """
    out: dict[str, Any] = {}
    for one in gauges:
        for name, value in one.items():
            if name == "breaker":
                out[name] = value if out.get(name, "closed") == "closed" else out[name]
            elif name in SHARED_GAUGES:
                out[name] = max(out.get(name, value), value)
            elif name in FIRST_GAUGES:
                out[name] = min(out.get(name, value), value)
            elif isinstance(value, str):
                out[name] = out.get(name) or value
            else:
                out[name] = add(out[name], value) if name in out else value
    return out


def sum_metrics(texts: Iterable[str], counters_only: bool = False) -> str:
    """Merge the Prometheus texts of all processes: add up samples of the same name and labels, take shared figures
    once. ``counters_only``: what remains of processes that ended, so neither gauges nor shared figures.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if counters_only and (family.type not in COUNTERS or family.name in SHARED_METRICS):
                continue
            families.setdefault(family.name, family)
            samples = values.setdefault(family.name, {})
            for one in family.samples:
                key = one.name, tuple(sorted(one.labels.items()))
                samples[key] = one.value if family.name in SHARED_METRICS else samples.get(key, 0.0) + one.value
    lines = []
    for name, family in families.items():
        shown = name + "_total" if family.type == "counter" else name
        lines += [f"# HELP {shown} {_escape(family.documentation)}", f"# TYPE {shown} {family.type}"]
        for (sample, labels), value in values[name].items():
            inside = ",".join(f'{key}="{_escape(text, True)}"' for key, text in labels)
            lines.append(f"{sample}{{{inside}}} {value}" if inside else f"{sample} {value}")
    return "\n".join(lines) + "\n"


def _escape(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
