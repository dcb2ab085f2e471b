"""Plots of the kept results, as SVG in docs/plots: equal results give equal bytes.

``python -m bench results`` writes them; matplotlib is of the extra ``dev``. What no result file has gets no plot.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.kept import KeptSamples

FOLDER = Path(__file__).parents[1] / "docs" / "plots"
_STYLE = {
    "svg.hashsalt": "klais", "svg.fonttype": "none", "font.size": 9, "figure.figsize": (7.2, 2.8),
    "figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
}  # fmt: skip
_PARTS = ("broker", "edge", "worker")
Data = Mapping[str, Sequence[float]]


def latency_targets(kept: KeptSamples) -> Data:
    """Cores of each process and latency for each ``KLAIS_LATENCY_MS`` of the benchmark ``idle``."""
    rows = [row for row in kept.rows("idle") if row.get("target") and row.get("p99_ms") is not None]
    names = (*_PARTS, "p50_ms", "p99_ms")
    found: dict[str, Sequence[float]] = {name: [float(row[name]) for row in rows] for name in names}
    return found | {"target_ms": [float(str(row["target"]).removesuffix("ms")) for row in rows]} if rows else {}


def throughput(kept: KeptSamples) -> Data:
    """Frames/s beside the plain way, of the benchmark ``baseline``."""
    bars = {
        "edge of KLAIS": "edge", "plain asyncio edge": "plain_edge",
        "worker of KLAIS": "worker", "plain Faust agent": "plain_worker",
    }  # fmt: skip
    found = {label: kept.figure(f"baseline.{name}_frames_per_s") for label, name in bars.items()}
    return {label: [figure.value] for label, figure in found.items() if figure is not None}


def latency(kept: KeptSamples) -> Data:
    """p50, p99, p99.9 and the longest latency (ms) for each load of the benchmark ``latency``."""
    tails = {"5,000 frames/s": "_at_5k", "50,000 frames/s": "", "50,000 frames/s, 2 partitions": "_at_2_partitions"}
    out = {}
    for label, tail in tails.items():
        found = [kept.figure(f"latency.{name}{tail}") for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")]
        values = [figure.value for figure in found if figure is not None]
        if len(values) == len(found):
            out[label] = values
    return out


def herd(kept: KeptSamples) -> Data:
    """Recovery (s) by devices of the benchmark ``herd``, for each way that was measured."""
    out: dict[str, list[float]] = {}
    for row in kept.rows("herd"):
        if row.get("recovery_s") is not None:
            out.setdefault(str(row["as"]), []).extend((float(row["devices"]), float(row["recovery_s"])))
    return out


def _draw_targets(axes: Any, data: Data) -> None:
    cores, delay = axes
    at = range(len(data["target_ms"]))
    bottom = [0.0] * len(at)
    for name in _PARTS:
        cores.bar(at, data[name], bottom=bottom, label=name)
        bottom = [a + b for a, b in zip(bottom, data[name], strict=True)]
    for name, label in (("p50_ms", "p50"), ("p99_ms", "p99")):
        delay.plot(at, data[name], marker="o", label=label)
    for axis, label in ((cores, "cores"), (delay, "latency, ms")):
        axis.set(xticks=list(at), xticklabels=[f"{x:g}" for x in data["target_ms"]], ylabel=label)
        axis.set_xlabel("KLAIS_LATENCY_MS, at 2,000 frames/s")
        axis.set_ylim(bottom=0)
        axis.legend()


def _draw_throughput(axes: Any, data: Data) -> None:
    labels = list(data)[::-1]
    values = [data[label][0] for label in labels]
    bars = axes[0].barh(labels, values, color=["C0" if "KLAIS" in label else "C7" for label in labels])
    axes[0].bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
    axes[0].set(xscale="log", xlabel="frames/s, one process, logarithmic", xlim=(min(values) / 3, max(values) * 6))


def _draw_latency(axes: Any, data: Data) -> None:
    for label, values in data.items():
        axes[0].plot(range(len(values)), values, marker="o", label=label)
    axes[0].set(xticks=range(4), xticklabels=["p50", "p99", "p99.9", "longest"], ylabel="latency, ms")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()


def _draw_herd(axes: Any, data: Data) -> None:
    for label, flat in data.items():
        axes[0].plot(flat[::2], flat[1::2], marker="o", label=label)
    axes[0].set(xscale="log", xlabel="devices that come back at once", ylabel="recovery, s")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: where its figures come from, how they are drawn, side by side in so many panels."""

    alt: str
    data: Callable[[KeptSamples], Data]
    draw: Callable[[Any, Data], None]
    panels: int = 1


PLOTS = {
    "latency-target": Plot("Cores and latency for several latency targets", latency_targets, _draw_targets, 2),
    "throughput": Plot("Frames a second of KLAIS and of the plain way", throughput, _draw_throughput),
    "latency": Plot("Percentiles of the latency for several loads", latency, _draw_latency),
    "herd": Plot("Recovery from a herd by number of devices", herd, _draw_herd),
}


def svg(plot: Plot, data: Data) -> str:
    """The plot as SVG; equal data give equal text."""
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "svg"}):
        from matplotlib.figure import Figure

        figure = Figure()
        plot.draw(figure.subplots(1, plot.panels, squeeze=False)[0], data)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def drawn(kept: KeptSamples) -> dict[str, str]:
    """The SVG of each plot that has figures, by the name of its file."""
    found = {name: (plot, plot.data(kept)) for name, plot in PLOTS.items()}
    return {f"{name}.svg": svg(plot, data) for name, (plot, data) in found.items() if data}


def write(kept: KeptSamples, folder: Path = FOLDER) -> list[str]:
    """Write the plots and remove those that no result has any more; their names."""
    made = drawn(kept)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)
    return sorted(made)
