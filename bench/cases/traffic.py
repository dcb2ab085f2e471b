"""``python -m bench traffic [DIR] [--json]``: the forecast's model on the later part of recorded traces.

Without DIR it uses the recording in the package, else the traces (``*.csv`` of timestamp,count) in that folder. Six
groups of figures: macro-F1 of the classes (test settings, and kinds of floods and herds not in the training), Brier
score of the burst against the trend and the climatology, false alarms a day of recordings, false alarms of simulated
days with noise and peaks, lead before the peak of Beta(3,4) herds beside the best possible one (``best_lead.py``), and
the time of one answer by ONNX Runtime and by scikit-learn in the same run.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases.best_lead import best_figures
from klais.config.load import load
from klais.control.forecast import FEATURES
from klais.models.store import ModelStore
from klais.traffic.backends import Backend, OnnxBackend, SklearnBackend
from klais.traffic.bases import Base, load_folder, shipped
from klais.traffic.chain import trees_of
from klais.traffic.features import features_of
from klais.traffic.judging import (
    DAY_S,
    brier,
    false_alarms,
    herd_lead,
    largest_false,
    lead_figures,
    watch,
    watch_simulated,
)
from klais.traffic.predictor import KIND, LearnedPredictor
from klais.traffic.training import judge, samples

SEED = 2
HERD_SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
BUFFERED = (2, 5, 10)
BEST_REPEATS = 2  # herds of each kind for the best possible lead
SIMULATED: dict[str, dict[str, float]] = {
    "noise_10": {"noise": 0.1},
    "noise_30": {"noise": 0.3},
    "peak_1s": {"noise": 0.0, "peak": 2.5, "peak_s": 1},
    "peak_3s": {"noise": 0.1, "peak": 1.8, "peak_s": 3},
    "peak_5min": {"noise": 0.05, "peak": 1.9, "peak_s": 4, "every_s": 300},
}
"""Days without a burst: noise of the rate from second to second, and peaks of some seconds each minute or 5 minutes."""
ROUNDS, CALLS = 20, 50  # rounds of calls of one kind, and their length
TARGETS = {
    "macro_f1": (">=", 0.94),
    "onnx_to_sklearn_p99": ("<=", 0.2),
    "onnx_p99_us": ("<=", 180.0),
    "lead_5s_to_arrivals_peak_10s": (">=", 0.9),
    "false_alarms_per_day": ("<=", 1.0),
    "false_alarms_simulated_day": ("<=", 1.0),
    "brier_to_trend": ("<=", 1.0),
    "brier_to_climatology": ("<=", 1.0),
}


def main(arguments: list[str]) -> int:
    """Run the benchmark; the last line is one JSON object with ``--json``."""
    parser = argparse.ArgumentParser("python -m bench traffic", description=__doc__)
    parser.add_argument("traces", nargs="?", type=Path, help="folder of traces; without it the one in the package")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--episodes", type=int, default=300, help="stretches of 190 s to judge classes by")
    parser.add_argument("--hours", type=float, default=168.0, help="of each trace to look for false alarms in")
    given = parser.parse_args(arguments)
    model = next(m for m in ModelStore.of(load()).models(KIND) if m.active)
    trees = trees_of(model)
    onnx, sklearn = OnnxBackend(model.read("model.onnx"), trees), SklearnBackend(trees)
    late = [base.part("test") for base in (load_folder(given.traces) if given.traces else shipped())]
    figures: dict[str, Any] = {"model": model.version, "traces": [base.name for base in late]}
    test = judge(trees, samples(late, given.episodes, SEED, test=True))
    held_out = judge(trees, samples(late, given.episodes // 2, SEED, test=True, held_out=True))
    figures |= {"macro_f1": test["macro_f1"], "held_out_kinds_macro_f1": held_out["macro_f1"]}
    figures |= {"test": test, "held_out_kinds": held_out}
    _say("classes", {name: figures[name] for name in ("macro_f1", "held_out_kinds_macro_f1")})
    figures |= _days(late, onnx, int(given.hours * 3600)) | _simulated(onnx)
    figures |= _herds(onnx)
    figures |= _costs(onnx, sklearn, model.version)
    figures["targets"] = {
        name: bool(figures[name] <= bound if sense == "<=" else figures[name] >= bound)
        for name, (sense, bound) in TARGETS.items()
    }
    _say("targets met", figures["targets"])
    if given.json:
        print(json.dumps(figures))
    return 0


def _days(bases: Sequence[Base], backend: Backend, max_s: int) -> dict[str, Any]:
    """False alarms a day and Brier scores on recordings without herds and floods."""
    out: dict[str, Any] = {"by_trace": {}}
    false, days, errors = 0, 0.0, np.zeros(3)
    for base in bases:
        seen = watch(base, backend.run, SEED, min(max_s, DAY_S * 31), trend_every=13)
        alarms, wrong = false_alarms(seen.predicted, seen.came)
        asked = ~np.isnan(seen.trend)
        came = seen.came[asked]
        scores = [
            brier(seen.predicted[asked], came),
            brier(seen.trend[asked], came),
            float(came.mean() * (1 - came.mean())),
        ]
        false, days, errors = false + wrong, days + seen.days, errors + np.array(scores) * seen.days
        named: dict[str, Any] = {
            "alarms": alarms,
            "false": wrong,
            "days": round(seen.days, 3),
            "bursts": round(float(came.mean()), 4),
        }
        named |= dict(zip(("brier", "brier_trend", "brier_climatology"), np.round(scores, 5).tolist(), strict=True))
        attack_share = round(float((seen.kinds >= 3).mean()), 5)
        named["largest_false"] = largest_false(seen)
        out["by_trace"][base.name] = named | {"herd_or_attack_share": attack_share}
        _say(base.name, named)
    model, trend, climatology = (errors / days).tolist()
    out |= {"false_alarms_per_day": round(false / days, 3), "brier": round(model, 5), "brier_trend": round(trend, 5)}
    return out | {
        "brier_climatology": round(climatology, 5),
        "brier_to_trend": round(model / max(trend, 1e-9), 4),
        "brier_to_climatology": round(model / max(climatology, 1e-9), 4),
    }


def _simulated(backend: Backend) -> dict[str, Any]:
    """False alarms of simulated days, and the most of one of them."""
    out: dict[str, int] = {}
    for name, how in SIMULATED.items():
        noise, peak = how["noise"], how.get("peak", 1.0)
        seen = watch_simulated(backend.run, SEED, noise, peak, int(how.get("peak_s", 0)), int(how.get("every_s", 60)))
        out[name] = false_alarms(seen.predicted, seen.came)[1]
    _say("false alarms of simulated days", out)
    return {"simulated_days": out, "false_alarms_simulated_day": max(out.values())}


def _herds(backend: Backend) -> dict[str, Any]:
    """Lead before the peak of herds after 3GPP TR 37.868 over 10 s, and over longer times, beside the best possible."""
    out: dict[str, Any] = {}
    for spread_s in (10.0, 20.0, 30.0):
        leads = [
            herd_lead(backend.run, devices, spread_s, buffered, away_s, back_off, SEED)
            for devices in HERD_SIZES
            for buffered in BUFFERED
            for away_s in (0, 30)
            for back_off in (False, True)
        ]
        figures = lead_figures(leads) | best_figures(HERD_SIZES, spread_s, BUFFERED, BEST_REPEATS, SEED)
        figures["of_possible"] = round(figures["lead_5s_to_arrivals_peak"] / max(figures["best_1s_lead_5s"], 1e-9), 3)
        out[f"herds_{spread_s:.0f}s"] = figures
        for name in ("lead_5s_to_arrivals_peak", "lead_5s_to_queue_peak", "best_1s_lead_5s", "of_possible"):
            out[f"{name}_{spread_s:.0f}s"] = figures[name]
        _say(f"herds over {spread_s:.0f} s", figures)
    return out


def _costs(onnx: Backend, sklearn: Backend, version: str) -> dict[str, Any]:
    """Time of one answer (us, p50 and p99) of both, in turns on one core, after a warm-up.

    A call in which the kernel gave the core to another program does not count (``interrupted`` is their share): on a
    busy machine these are more than one in a hundred, and p99 would be a time slice of the kernel. ``cpu``: CPU time of
    this thread.
    """
    rng = np.random.default_rng(SEED)
    windows = list(np.abs(rng.normal(1000.0, 200.0, (64, 60, len(FEATURES)))))
    inputs = [features_of(window) for window in windows]
    whole = LearnedPredictor(onnx, version)
    took: dict[str, list[tuple[int, int]]] = {"onnx": [], "sklearn": [], "whole_forecast": []}
    calls = interrupted = 0

    def timed(name: str, call: Callable[[Any], Any], given: Any) -> None:
        nonlocal calls, interrupted
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        call(given)
        spent = (time.perf_counter_ns() - wall_ns, time.thread_time_ns() - cpu_ns)
        calls += 1
        if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before:
            took[name].append(spent)
        else:
            interrupted += 1

    ways: tuple[tuple[str, Callable[[Any], Any], Sequence[Any]], ...] = (
        ("onnx", onnx.run, inputs),
        ("whole_forecast", whole.predict, windows),
        ("sklearn", sklearn.run, inputs),
    )
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        for at in range(ROUNDS + 1):
            if at == 1:  # the first round is the warm-up
                calls = interrupted = 0
                took = {name: [] for name in took}
            for name, call, given in ways:
                for number in range(CALLS):
                    timed(name, call, given[number % 64])
    finally:
        os.sched_setaffinity(0, cores)
    out: dict[str, Any] = {"interrupted": round(interrupted / calls, 4)}
    for name, pairs in took.items():
        kept = np.array(pairs) / 1000.0
        for label, quantile in (("p50", 50), ("p99", 99)):
            wall, cpu = np.percentile(kept, quantile, axis=0).tolist()
            out |= {f"{name}_{label}_us": round(wall, 1), f"{name}_{label}_cpu_us": round(cpu, 1)}
    out["onnx_to_sklearn_p99"] = round(out["onnx_p99_us"] / out["sklearn_p99_us"], 4)
    _say("cost", out)
    return out


def _say(what: str, figures: dict[str, Any]) -> None:
    print(f"{what}: " + "  ".join(f"{name}={value}" for name, value in figures.items()), flush=True)
