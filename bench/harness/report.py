"""The report of a benchmark: figures, their spread over repeats, and their targets."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Sense = Literal["<=", ">="]


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a figure: a must, a goal, or both."""

    figure: str
    unit: str
    sense: Sense
    must: float | None
    goal: float | None = None

    def meets(self, value: float, bound: float) -> bool:
        """Whether ``value`` is on the right side of ``bound``."""
        return value <= bound if self.sense == "<=" else value >= bound

    def verdict(self, value: float) -> str:
        """``goal met``, ``must met`` (goal missed), ``goal missed`` (no must) or ``MUST MISSED``.

        Examples
        --------
        >>> [Target("x", "us", "<=", 1.4, 1.0).verdict(value) for value in (1.0, 1.2, 1.5)]
        ['goal met', 'must met', 'MUST MISSED']
        """
        if self.must is not None and not self.meets(value, self.must):
            return "MUST MISSED"
        if self.goal is None:
            return "must met"
        if self.meets(value, self.goal):
            return "goal met"
        return "goal missed" if self.must is None else "must met"


_OVERLOAD: tuple[tuple[str, str, Sense, float], ...] = (
    ("goodput_share", "", ">=", 0.9),
    ("settled_s", "s", "<=", 5),
    ("normal_s", "s", "<=", 5),
)
# On a machine with 2 cores that runs everything: 35-byte payloads, 10,000 devices by default.
TARGETS: dict[str, tuple[Target, ...]] = {
    "worker": (Target("cpu_us_per_frame", "us", "<=", 1.4, 1.0),),
    "edge": (Target("cpu_us_per_frame", "us", "<=", 1.4, 1.1),),
    "sources": (Target("af_xdp_to_udp", "x", "<=", 0.7), Target("ringbuf_to_udp", "x", "<=", 0.7)),
    "xdp": (
        Target("drop_bad_magic_ns", "ns", "<=", 35),
        Target("pass_ns", "ns", "<=", 120, 100),
        Target("growth_to_a_million", "x", "<=", 2.0),
    ),
    "auth": (
        Target("edge_signed_ratio", "x", "<=", 1.2),
        Target("xdp_signed_ratio", "x", "<=", 2.3),
        Target("xdp_forged_to_signed", "x", "<=", 1.0),
        Target("flood_good_lost", "frames", "<=", 0),
        Target("wire_lost", "frames", "<=", 0),
    ),
    "flood": (Target("lost_with_filter", "frames", "<=", 0),),
    "hostile": (Target("worst_step_ratio", "x", "<=", 3.0), Target("lost_under_floods", "frames", "<=", 0)),
    "path": (Target("frames_per_s", "frames/s", ">=", 180_000, 300_000), Target("lost", "frames", "<=", 0)),
    "latency": (Target("p50_ms", "ms", "<=", 15, 10), Target("p99_ms", "ms", "<=", 40, 20)),
    "checkpoint": (Target("longest_block_ms", "ms", "<=", 50, 20),),
    "scale": (Target("ratio", "x", "<=", 2.0, 1.5),),
    "memory": (
        Target("worker_rss_mb", "MB", "<=", 1200, 1000),
        Target("edge_rss_mb", "MB", "<=", 75, 60),
    ),
    "recovery": (Target("seconds", "s", "<=", 30, 15),),
    "start": (
        Target("edge_receives_s", "s", "<=", 0.7, 0.4),
        Target("edge_rss_mb", "MB", "<=", 75, 60),
        Target("version_s", "s", "<=", 0.15),
        Target("stats_s", "s", "<=", 0.15),
    ),
    "restart": (Target("lost_upgrade", "frames", "<=", 0), Target("deaf_ms", "ms", "<=", 0)),
    "peers": (
        Target("gateway_and_broker_of_rsyslog_20k", "x", "<=", 1.0),
        Target("gateway_and_broker_of_rsyslog_60k", "x", "<=", 1.0),
        Target("broker_of_rsyslog_60k", "x", "<=", 1.0),
        Target("gateway_and_broker_of_rsyslog_defaults_60k", "x", "<=", 1.0),
        Target("broker_of_rsyslog_defaults_60k", "x", "<=", 1.0),
        Target("worker_times_cheaper_than_quixstreams", "x", ">=", 25),
    ),
    "idle": (
        Target("cores_klais_0_50", "cores", "<=", 0.08),
        Target("cores_klais_2000_50", "cores", "<=", 0.4),
        Target("of_plain_100", "x", "<=", 0.3333),
        Target("of_plain_1000", "x", "<=", 0.2),
        Target("p99_of_target", "x", "<=", 1.0),
    ),
    "page": (
        Target("more_cores", "cores", "<=", 0.01),
        Target("cpu_per_frame_ratio", "x", "<=", 1.08),
        Target("own_turn_ms", "ms", "<=", 20),
        Target("page_200_ms", "ms", "<=", 300),
    ),
    "overload": tuple(
        Target(f"{figure}_{factor}", unit, sense, must)
        for factor in ("1.4x", "2x")
        for figure, unit, sense, must in _OVERLOAD
    ),
    "herd": (
        Target("recovery_s_1000", "s", "<=", 1.2),
        Target("recovery_s_10000", "s", "<=", 3.5),
        Target("recovery_s_100000", "s", "<=", 12.0),
        *(
            Target(f"{what}_{size}", "frames", "<=", 0)
            for what in ("lost", "dropped")
            for size in (1000, 10_000, 100_000)
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum of the repeats of one figure."""

    minimum: float
    median: float
    maximum: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of at least one value.

        Examples
        --------
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(minimum=1.0, median=2.0, maximum=3.0, repeats=3)
        """
        return cls(min(values), statistics.median(values), max(values), len(values))

    def public(self) -> dict[str, float]:
        """As one JSON object."""
        return {
            "min": rounded(self.minimum),
            "median": rounded(self.median),
            "max": rounded(self.maximum),
            "repeats": self.repeats,
        }


@dataclass(slots=True)
class Result:
    """Result of one benchmark. ``figures`` are its figures, with or without a target, flat; ``rows`` are details
    (steps, single repeats) for people; ``notes`` explain the conditions of the figures; ``series`` (time series by
    name) go to the JSON object only.
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, Spread] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0
    others_cores: float = 0.0  # cores that other programs used during the measurement

    def repeat(self, figure: str, values: Sequence[float]) -> None:
        """Set a figure to the median of its repeats and keep the spread."""
        self.spread[figure] = Spread.of(values)
        self.figures[figure] = rounded(self.spread[figure].median)

    def held_to(self) -> list[dict[str, Any]]:
        """One entry for each target: the figure, must and goal, and the verdict (``not measured`` if it is missing)."""
        out = []
        for target in TARGETS.get(self.name, ()):
            value = self.figures.get(target.figure)
            verdict = "not measured" if value is None else target.verdict(value)
            held = {"figure": target.figure, "value": value, "unit": target.unit, "sense": target.sense}
            out.append(held | {"must": target.must, "goal": target.goal, "verdict": verdict})
        return out

    def public(self) -> dict[str, Any]:
        """As one JSON object: the figures, and the other parts under separate names."""
        return {
            "bench": self.name,
            **self.figures,
            "spread": {name: spread.public() for name, spread in self.spread.items()},
            "held_to": self.held_to(),
            "rows": self.rows,
            "notes": self.notes,
            **({"series": self.series} if self.series else {}),
            "took_s": round(self.seconds, 1),
            "others_cores": round(self.others_cores, 2),
        }

    def text(self) -> str:
        """For people."""
        lines = [f"== {self.name} ({self.seconds:.0f} s; other processes kept {self.others_cores:.2f} cores busy) =="]
        lines += ["  " + "  ".join(f"{name}={shown(value)}" for name, value in row.items()) for row in self.rows]
        for name, value in self.figures.items():
            spread = self.spread.get(name)
            tail = f"   min {shown(spread.minimum)}, max {shown(spread.maximum)} of {spread.repeats}" if spread else ""
            lines.append(f"  {name:28} {shown(value):>14}{tail}")
        for held in self.held_to():
            bounds = [
                f"{kind} {held['sense']} {shown(held[kind])}" for kind in ("must", "goal") if held[kind] is not None
            ]
            lines.append(f"  {held['figure']}: {', '.join(bounds)} {held['unit']}: {held['verdict']}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def rounded(value: float) -> float:
    """Round to four significant digits.

    Examples
    --------
    >>> rounded(0.123456), rounded(812345.6)
    (0.1235, 812300.0)
    """
    return float(f"{value:.4g}")


def shown(value: Any) -> str:
    """A value for people.

    Examples
    --------
    >>> shown(812300.0), shown(1.25), shown(0.0004), shown("x")
    ('812,300', '1.25', '0.0004', 'x')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a process that works off a backlog: time (s), CPU time so far (s), frames done so far."""

    at_s: float
    cpu_s: float
    done: int


def steady(samples: Sequence[Sample], total: int, begin: float = 0.15, end: float = 0.95) -> tuple[Sample, Sample]:
    """The first sample with at least ``begin`` of ``total`` done, and the last one with at most ``end`` (or the first
    beyond).

    Raises
    ------
    ValueError
        If fewer than two samples are in that range.
    """
    first = next((s for s in samples if s.done >= begin * total), None)
    inside = [s for s in samples if first is not None and s.at_s > first.at_s and first.done < s.done <= end * total]
    beyond = [s for s in samples if first is not None and s.at_s > first.at_s and s.done > first.done]
    if first is None or not beyond:
        raise ValueError(
            f"too few looks ({len(samples)}) to measure a steady state of {total} frames: take more frames"
        )
    return first, inside[-1] if inside else beyond[0]


def rates(first: Sample, last: Sample) -> dict[str, float]:
    """CPU a frame and frames a second between two samples."""
    frames, elapsed_s = last.done - first.done, last.at_s - first.at_s
    return {"cpu_us_per_frame": (last.cpu_s - first.cpu_s) / frames * 1e6, "frames_per_s": frames / elapsed_s}


def machine() -> dict[str, Any]:
    """CPU, cores, memory, kernel, load now."""
    cpu = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
