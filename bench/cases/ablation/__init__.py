"""The worker with one part of it left out, in turns within one run: what each part costs.

``unjournalled`` hands each step on without writing it down (no recovery could put it right), ``zscore`` has the running
z-score for a detector, ``untyped`` no fingerprints, ``unnumbered`` no duplicates found by number. The payload check is
run compiled and as plain Python: the whole lane cannot be interpreted, because its words wrap around and Python's do
not. Control, cut, forecast and queue are left out by the benchmark ``herd`` (KLAIS_TEST_HERD_AS): a backlog does not
need them. Settings and a subclass here do it; the product is as it is.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from bench.cases import worker
from bench.cases.kernels import payload_check
from bench.harness import DEVICES, REPO, Bench, BenchFailed
from bench.harness.report import Result, rounded

FRAMES, REPEATS = 2_000_000, 3
CHECKED_FRAMES, INTERPRETED_FRAMES = 20_000, 500


@dataclass(frozen=True, slots=True)
class Without:
    """How one part is left out."""

    settings: dict[str, Any] = field(default_factory=dict)
    app: str = "agents.app"


WHOLE = "whole"
ALL = {
    WHOLE: Without(),
    "unjournalled": Without(app="bench.cases.ablation.unjournalled"),
    "zscore": Without({"anomaly_detector": "zscore"}),
    "untyped": Without({"fingerprint": "off"}),
    "unnumbered": Without({"sequence": "off"}),
}
_FIGURES = ("cpu_us_per_frame", "frames_per_s", "kafka_cpu_us_per_frame", "rss_mb")


def measure(bench: Bench, name: str, frames: int) -> dict[str, float]:
    """One worker without a part."""
    how = ALL[name]
    found = worker.measure(bench, frames, DEVICES, app=how.app, **how.settings)
    return {figure: found[figure] for figure in _FIGURES}


def interpreted_ns(frames: int) -> float:
    """CPU time of the payload check as plain Python, ns a frame; a process of its own, which numba leaves alone."""
    command = [sys.executable, "-m", "bench.cases.ablation.interpreted", str(frames)]
    env = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise BenchFailed(f"the payload check cannot be interpreted: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout)["ns_per_frame"])


def run(bench: Bench, frames: int = FRAMES, repeats: int = REPEATS, names: tuple[str, ...] = tuple(ALL)) -> Result:
    """See the module; the arguments make it shorter."""
    result = Result("ablation")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names if number % 2 == 0 else names[::-1]:  # whatever drifts, drifts for all
            bench.say(f"ablation: {name}, repeat {number + 1} of {repeats}")
            found[name].append(measure(bench, name, frames))
    for name, runs in found.items():
        for figure in _FIGURES:
            result.repeat(f"{figure}_{name}", [one[figure] for one in runs])
        ratio = result.figures[f"cpu_us_per_frame_{name}"] / result.figures[f"cpu_us_per_frame_{WHOLE}"]
        result.figures[f"of_whole_{name}"] = rounded(ratio)
        result.rows.append({"worker": name} | {figure: result.figures[f"{figure}_{name}"] for figure in _FIGURES})
    bench.say("ablation: payload check, compiled and interpreted")
    compiled = [payload_check.measure("small", CHECKED_FRAMES, 3)["ns_per_frame"] for _ in range(repeats)]
    plain = [interpreted_ns(INTERPRETED_FRAMES) for _ in range(repeats)]
    result.repeat("payload_check_ns", compiled)
    result.repeat("payload_check_interpreted_ns", plain)
    result.figures["payload_check_interpreted_times"] = rounded(min(plain) / min(compiled))
    result.notes.append("of_whole: CPU time a frame over that of the whole worker in the same run")
    return result
