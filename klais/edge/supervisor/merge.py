"""Several edge processes seen as one: sums of what each says of itself, carried on when one starts again. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

Numbers = Mapping[str, Any]
# Figures of the whole system or host, which every process tells: one of them is enough. All others are sums.
SHARED_METRICS = frozenset(
    {
        *("klais_rate_limit", "klais_tokens_available", "klais_burst_probability", "klais_anomaly_devices"),
        *("klais_build_info", "process_start_time_seconds", "klais_edge_xdp_packets"),
    }
)
SHARED_GAUGES = frozenset({"linger_ms"})


def add(a: Any, b: Any) -> Any:
    """Sum of two numbers, or of two mappings by name; of anything else the second.

    Examples
    --------
    >>> add({"received": 1, "dropped": {"a": 1}}, {"received": 2, "dropped": {"b": 3}})
    {'received': 3, 'dropped': {'a': 1, 'b': 3}}
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {name: add(a[name], b[name]) if name in a and name in b else a.get(name, b.get(name)) for name in {**a, **b}}
    number = int | float
    return a + b if isinstance(a, number) and isinstance(b, number) and not isinstance(b, bool) else b


class Lives:
    """Counters of one place in the fleet over all processes that held it."""

    def __init__(self) -> None:
        self._before: Numbers = {}
        self._newest: Numbers = {}
        self._pid: int | None = None

    def see(self, pid: int, counters: Numbers) -> None:
        """What process ``pid`` counts now."""
        if self._pid is not None and pid != self._pid:
            self._before = self.counters()
        self._pid, self._newest = pid, counters

    def counters(self) -> dict[str, Any]:
        """Since the start of the fleet. What a process counted after it was seen last and before it died is not in here."""
        out: dict[str, Any] = add(self._before, self._newest)
        return out


def sum_gauges(gauges: Iterable[Numbers]) -> dict[str, Any]:
    """Gauges of all: sums, the largest of what is not additive, and the state of the first breaker that is not closed."""
    out: dict[str, Any] = {}
    for one in gauges:
        for name, value in one.items():
            if name == "breaker":
                out[name] = value if out.get(name, "closed") == "closed" else out[name]
            elif name in SHARED_GAUGES:
                out[name] = max(out.get(name, value), value)
            elif isinstance(value, str):
                out[name] = out.get(name) or value
            else:
                out[name] = add(out[name], value) if name in out else value
    return out


def sum_metrics(texts: Iterable[str]) -> str:
    """Prometheus texts of all processes as one: samples of the same name and labels added up, shared figures taken once."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
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
