"""The worker with one part of it left out, in turns within one run: what each part costs.

``unjournalled`` hands each step on without writing it down (no recovery could put it right), ``zscore`` has the running
z-score for a detector, ``untyped`` no fingerprints, ``unnumbered`` no duplicates found by number, ``interpreted`` the
same kernels as plain Python, on far fewer frames. Control, cut, forecast and queue are left out by the benchmark
``herd`` (KLAIS_TEST_HERD_AS): a backlog does not need
them. Settings and a subclass here do it; the product is as it is.
"""

from dataclasses import dataclass, field
from typing import Any

from bench.cases import worker
from bench.harness import DEVICES, Bench, BenchFailed
from bench.harness.report import Result, rounded

FRAMES, REPEATS = 2_000_000, 3
INTERPRETED_FRAMES, INTERPRETED_DEVICES = 20_000, 1_000


@dataclass(frozen=True, slots=True)
class Without:
    """How one part is left out."""

    settings: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    app: str = "agents.app"


WHOLE = "whole"
INTERPRETED = "interpreted"
ALL = {
    WHOLE: Without(),
    "unjournalled": Without(app="bench.cases.ablation.unjournalled"),
    "zscore": Without({"anomaly_detector": "zscore"}),
    "untyped": Without({"fingerprint": "off"}),
    "unnumbered": Without({"sequence": "off"}),
    INTERPRETED: Without(env={"NUMBA_DISABLE_JIT": "1"}),
}
_FIGURES = ("cpu_us_per_frame", "frames_per_s", "kafka_cpu_us_per_frame", "rss_mb")


def measure(bench: Bench, name: str, frames: int) -> dict[str, float]:
    """One worker without a part."""
    how = ALL[name]
    small = name == INTERPRETED
    n, devices = (min(frames, INTERPRETED_FRAMES), INTERPRETED_DEVICES) if small else (frames, DEVICES)
    found = worker.measure(bench, n, devices, app=how.app, env=how.env, **how.settings)
    return {figure: found[figure] for figure in _FIGURES}


def run(bench: Bench, frames: int = FRAMES, repeats: int = REPEATS, names: tuple[str, ...] = tuple(ALL)) -> Result:
    """See the module; the arguments make it shorter."""
    result = Result("ablation")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names if number % 2 == 0 else names[::-1]:  # whatever drifts, drifts for all
            if name in found:
                bench.say(f"ablation: {name}, repeat {number + 1} of {repeats}")
                try:
                    found[name].append(measure(bench, name, frames))
                except BenchFailed as error:
                    if name == WHOLE:
                        raise
                    result.notes.append(f"{name} cannot be measured: {str(error).splitlines()[0]}")
                    del found[name]
    for name, runs in found.items():
        for figure in _FIGURES:
            result.repeat(f"{figure}_{name}", [one[figure] for one in runs])
        ratio = result.figures[f"cpu_us_per_frame_{name}"] / result.figures[f"cpu_us_per_frame_{WHOLE}"]
        result.figures[f"of_whole_{name}"] = rounded(ratio)
        result.rows.append({"worker": name} | {figure: result.figures[f"{figure}_{name}"] for figure in _FIGURES})
    result.notes.append("of_whole: CPU time a frame over that of the whole worker in the same run")
    return result
