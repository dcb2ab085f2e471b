"""Trains the traffic model: episodes from recordings and seeds, boosted trees, evaluation on the later days.

    python -m klais.traffic.training DIR [--seed 1] [--episodes 4800] [--out FOLDER]

created the model in the package (``--out klais/models/data/traffic``). ``klais models train`` does the same in a
low-priority process, from the shipped recording or from your own traces.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from klais.control.forecast import CLASSES, SMALL_RATE, WINDOW_S
from klais.models.card import Card, write_model
from klais.traffic.backends import onnx_bytes
from klais.traffic.bases import Base
from klais.traffic.features import NAMES, features
from klais.traffic.predictor import KIND, MIN_LEARNED_ROWS, OUTPUTS, QUANTILES, interpret
from klais.traffic.scenarios import Episode, episode
from klais.traffic.trees import Trees, evaluate, from_sklearn

STRIDE = 6  # s between two windows of an episode
NEAR_S = (5, 22)  # around the onset every window is used
PROBES = 64
SHORT_SHARE = 0.1  # of the windows are shorter than 60 s
SCRIPT = "klais/traffic/training.py"
EPISODES = 4800
# Boosting of each head. Few leaves: a forecast is made once a second, when the CPU has forgotten the trees, so reading
# them from memory takes most of its time.
OF_CLASSES: dict[str, Any] = {"max_iter": 30, "max_leaf_nodes": 14, "learning_rate": 0.25}
OF_BURST: dict[str, Any] = {"max_iter": 75, "max_leaf_nodes": 20, "learning_rate": 0.18}
OF_QUANTILE: dict[str, Any] = {"max_iter": 15, "max_leaf_nodes": 20, "learning_rate": 0.25}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Samples:
    """Windows: ``x`` float32 [n, features], ``labels`` int64, ``bursts`` bool, ``ratios`` float64 (log of the coming
    mean rate over the level), and ``kinds`` of their episodes."""

    x: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    bursts: npt.NDArray[np.bool_]
    ratios: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.str_]

    def with_class(self) -> "Samples":
        """The samples whose second has a class."""
        sure = self.labels >= 0
        return Samples(self.x[sure], self.labels[sure], self.bursts[sure], self.ratios[sure], self.kinds[sure])


def windows_of(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """All windows of 60 rows, float64 [t - 59, 60, columns]; window i ends with row i + 59."""
    view: npt.NDArray[np.float64] = sliding_window_view(rows, WINDOW_S, axis=0).transpose(0, 2, 1)
    return view


def samples(
    bases: Sequence[Base], episodes: int, seed: int, test: bool = False, held_out: bool = False, nice: Say | None = None
) -> Samples:
    """Draw episodes and their windows, more of them around the onset."""
    rng = np.random.default_rng([seed, int(test), int(held_out)])
    parts: list[tuple[Any, ...]] = []
    for number in range(episodes):
        drawn = episode(bases[number % len(bases)], rng, held_out, test)
        parts.append(_windows(drawn, rng))
        if nice and number and number % 500 == 0:
            nice(f"{number} of {episodes} episodes")
    return Samples(*(np.concatenate([part[at] for part in parts]) for at in range(5)))


def _windows(drawn: Episode, rng: np.random.Generator) -> tuple[Any, ...]:
    ends = np.arange(WINDOW_S - 1, len(drawn.rows) - 6)
    near = (ends >= drawn.onset_s - NEAR_S[0]) & (ends < drawn.onset_s + NEAR_S[1]) & (drawn.kind != "calm")
    ends = ends[near | (ends % STRIDE == rng.integers(STRIDE))]
    windows = windows_of(drawn.rows)[ends - WINDOW_S + 1]
    for at in np.flatnonzero(rng.random(len(ends)) < SHORT_SHARE):  # as in the first minute of a controller
        missing = int(rng.integers(1, WINDOW_S - MIN_LEARNED_ROWS))
        windows[at, :missing] = windows[at, missing]
    level = np.maximum(np.median(windows[:, :, 0], axis=1), SMALL_RATE)
    ratios = np.log((drawn.nexts[ends] + 1.0) / level)
    kinds = np.full(len(ends), drawn.kind)
    return features(windows), drawn.labels[ends], drawn.bursts[ends], ratios, kinds


def fit(train: Samples, seed: int, iterations: int | None = None, say: Say = lambda text: None) -> Trees:
    """Boosted trees for class, burst and quantiles (scikit-learn), fitted one after the other on few threads.

    ``iterations``: of boosting, for each head; by default those of the module.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    rounds: dict[str, Any] = {} if iterations is None else {"max_iter": iterations}
    shared: dict[str, Any] = {
        "min_samples_leaf": 40, "l2_regularization": 1.0, "random_state": seed, "early_stopping": False,
    }  # fmt: skip
    heads: list[tuple[Any, Sequence[int]]] = []
    sure = train.labels >= 0
    counts = np.bincount(train.labels[sure], minlength=len(CLASSES))
    weight = np.sqrt(counts.max() / np.maximum(counts, 1))[train.labels[sure]]
    model = HistGradientBoostingClassifier(**OF_CLASSES | rounds, **shared)
    model.fit(train.x[sure], train.labels[sure], weight)
    heads.append((model, range(len(CLASSES))))
    say("classes fitted")
    burst = HistGradientBoostingClassifier(**OF_BURST | rounds, **shared).fit(train.x, train.bursts)
    heads.append((burst, [len(CLASSES)]))
    say("burst fitted")
    for at, quantile in enumerate(QUANTILES):
        how = OF_QUANTILE | rounds | {"loss": "quantile", "quantile": quantile}
        regressor = HistGradientBoostingRegressor(**how, **shared)
        heads.append((regressor.fit(train.x, train.ratios), [len(CLASSES) + 1 + at]))
    say("quantiles fitted")
    some = np.random.default_rng(seed).choice(len(train.x), PROBES, replace=False)
    return from_sklearn(heads, train.x[some])


def f1(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> dict[str, float]:
    """F1 of each class that occurs, by name, and their mean as ``macro_f1``."""
    out = {}
    for at, name in enumerate(CLASSES):
        true, found = labels == at, predicted == at
        if true.any():
            out[name] = round(2 * int((true & found).sum()) / int(true.sum() + found.sum()), 4)
    return out | {"macro_f1": round(sum(out.values()) / len(out), 4)}


def judge(trees: Trees, test: Samples) -> dict[str, Any]:
    """Figures of the trees on samples that were not used for training."""
    classes, burst, ratios = interpret(evaluate(trees, test.x), test.x)
    sure = test.labels >= 0
    predicted, labels, kinds = classes.argmax(axis=1)[sure], test.labels[sure], test.kinds[sure]
    right = predicted == labels
    by_kind = {str(kind): float(right[kinds == kind].mean()) for kind in sorted(set(kinds))}
    share = test.bursts.mean()
    return {
        **f1(labels, predicted),
        "accuracy_by_kind": {kind: round(value, 4) for kind, value in by_kind.items()},
        "brier": round(float(((burst - test.bursts) ** 2).mean()), 5),
        "brier_climatology": round(float(share * (1 - share)), 5),
        "quantile_coverage": [round(float((test.ratios <= ratios[:, at]).mean()), 3) for at in range(3)],
        "windows": len(labels),
    }


def train(
    bases: Sequence[Base],
    folder: Callable[[str], Path],
    seed: int = 1,
    episodes: int = EPISODES,
    say: Say = lambda text: None,
) -> Card:
    """Draw, fit, evaluate on the later part of each recording with other settings, and write.

    Parameters
    ----------
    bases : sequence of Base
        Recordings; the first 60 % of each are used for training.
    folder : callable
        Version -> folder of the model.
    seed, episodes : int
        The same seed, episodes, recordings and libraries give the same trees.
    """
    began_s = time.monotonic()
    early, late = [base.part("train") for base in bases], [base.part("test") for base in bases]
    trees = fit(samples(early, episodes, seed, nice=say), seed, say=say)
    figures = judge(trees, samples(late, max(60, episodes // 4), seed, test=True))
    held_out = judge(trees, samples(late, max(60, episodes // 8), seed, test=True, held_out=True))
    files = {"trees.npz": trees.dump()}
    try:
        files["model.onnx"] = onnx_bytes(trees)
    except ImportError:
        say("the package onnx is not installed: without model.onnx, scikit-learn evaluates the trees (extra ml)")
    version = "traffic-" + hashlib.sha256(files["trees.npz"]).hexdigest()[:10]
    about = {
        "kind": KIND, "version": version, "title": "Traffic classes, burst probability and rate quantiles",
        "method": "gradient boosted trees (scikit-learn HistGradientBoosting), one ONNX node", "script": SCRIPT,
        "seed": seed, "episodes": episodes, "features": list(NAMES), "outputs": OUTPUTS, "classes": list(CLASSES),
        "data": [{"name": base.name, "steps": len(base.counts), "step_s": base.step_s} for base in bases],
        "data_licence": "NASA HTTP logs of July and August 1995: free to use (Internet Traffic Archive); else yours",
        "split": "by time: the first 60 % of each recording trains; the test also has other sizes of fleets and herds",
        "libraries": {name: metadata.version(name) for name in ("numpy", "scikit-learn")},
        "test": figures, "held_out_kinds": held_out, "licence": "as KLAIS",
        "limits": "simulated herds and floods over recorded web traffic; no recorded attack on an IoT system",
    }  # fmt: skip
    card = write_model(folder(version), files, about)
    took_s = time.monotonic() - began_s
    say(f"{version}: macro-F1 {figures['macro_f1']}, held-out kinds {held_out['macro_f1']}, {took_s:.0f} s")
    return card


def lower_priority(threads: int = 1) -> None:
    """Set lowest priority and few threads for a training next to the data path; call it before sklearn is loaded."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.nice(19)


def main() -> None:
    """The command line of the module."""
    import argparse

    from klais.traffic.bases import load_folder

    parser = argparse.ArgumentParser(description="Train the traffic model.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--out", type=Path, default=Path("klais/models/data") / KIND)
    given = parser.parse_args()
    lower_priority()
    train(load_folder(given.traces), lambda version: given.out / version, given.seed, given.episodes, print)


if __name__ == "__main__":
    main()
