"""``python -m bench nab DIR [--tier light|full] [--pooled] [--json]``: NAB's score of the detector on files in NAB's
layout.

DIR has ``data/*/*.csv`` (timestamp,value) and ``combined_windows.json`` (also as labels/combined_windows.json). All
files share one threshold, the best one, as NAB prescribes. ``--pooled`` adds the score with one threshold over seven
corpora: the files, and six resampled copies of them (fixed seed), which shows a detector that is tuned to the files.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from bench.cases.anomaly.nab_score import LabelledFile, best
from bench.cases.anomaly.resampled import corpora
from klais.core.anomaly.samples import parse_time, read_samples
from klais.core.anomaly.series import Tier, score_series

REPEATS = 5
Series = dict[str, tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]]


def read(folder: Path) -> Series:
    """Every labelled file: times, values, and windows as (first row, last row)."""
    labels = next(
        (path for path in (folder / "combined_windows.json", folder / "labels" / "combined_windows.json")
         if path.exists()), None
    )  # fmt: skip
    if labels is None:
        raise SystemExit(f"{folder}: no combined_windows.json")
    windows = json.loads(labels.read_text())
    out: Series = {}
    for path in sorted(folder.glob("data/*/*.csv")):
        name = "/".join(path.parts[-2:])
        if name not in windows:
            continue
        with path.open() as lines:
            samples = read_samples(lines)
        spans = [[parse_time(end) for end in window] for window in windows[name]]
        rows = [np.flatnonzero((samples.t >= begin) & (samples.t <= end)) for begin, end in spans]
        out[name] = (samples.t, samples.x, [(int(row[0]), int(row[-1])) for row in rows if len(row)])
    if not out:
        raise SystemExit(f"{folder}: no labelled files data/*/*.csv")
    return out


def scored(series: Series, tier: Tier) -> dict[str, LabelledFile]:
    """The detector's scores of each file; one channel a file, no look ahead."""
    return {name: LabelledFile(score_series(t, x, tier)["score"], spans) for name, (t, x, spans) in series.items()}


def cost_ns(series: Series, tier: Tier) -> list[float]:
    """ns a value, of several passes over all files."""
    rows = sum(len(x) for _, x, _ in series.values())
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for t, x, _ in series.values():
            score_series(t, x, tier)
        took.append((time.perf_counter() - began) / rows * 1e9)
    return took


def measure(series: Series, tier: Tier, pooled: bool) -> dict[str, float | int | str | list[float]]:
    """All figures of one tier."""
    files = scored(series, tier)
    out: dict[str, float | int | str | list[float]] = {"tier": tier, "files": len(files)}
    for profile in ("standard", "low_fp", "low_fn"):
        out[profile], threshold = (round(figure, 3) for figure in best(files, profile))
        if profile == "standard":
            out["threshold"] = threshold
    took = cost_ns(series, tier)
    out |= {"ns_per_value": round(statistics.median(took), 1), "ns_per_value_runs": [round(ns, 1) for ns in took]}
    if pooled:
        together = {
            f"{name}|{key}": file
            for name, corpus in corpora(series).items()
            for key, file in scored(corpus, tier).items()
        }
        out["pooled"], out["pooled_threshold"] = (round(figure, 3) for figure in best(together))
    return out


def main(arguments: list[str]) -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser("python -m bench nab", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tier", choices=("light", "full"), default="full")
    parser.add_argument("--pooled", action="store_true", help="also with one threshold over seven resampled corpora")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    series = read(options.folder)
    found = measure(series, options.tier, options.pooled)
    print("  ".join(f"{name} {value}" for name, value in found.items()))
    if options.json:
        print(json.dumps({"name": "nab", **found}))
    return 0
