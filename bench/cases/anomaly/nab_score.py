"""The scorer of the Numenta Anomaly Benchmark, from its definition (Lavin and Ahmad 2015, "Evaluating real-time anomaly
detection algorithms", section 3; the sweep over thresholds of NAB's sweeper.py).

The first detection within a window counts most at the window's start; the cost of a false positive depends on its
distance from the previous window. Score 100 = every window found with its first row and no false positive, 0 = no
detection at all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Weight of a false positive and of a missed window; that of a detected window is 1.
PROFILES = {"standard": (0.11, 1.0), "low_fp": (0.22, 1.0), "low_fn": (0.11, 2.0)}
PROBATION_SHARE, PROBATION_ROWS = 0.15, 750  # the first rows of a file, which do not count
_FURTHEST = 3.0  # lengths of a window after the last one: a false positive beyond counts in full

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """Scores of one file's rows, float64 [n], and its windows as (first row, last row)."""

    scores: Floats
    windows: list[tuple[int, int]]


def sigmoid(position: Floats) -> Floats:
    """NAB's scaled sigmoid: 1 far ahead, 0 at a window's end, -1 far behind."""
    return np.where(position > _FURTHEST, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, _FURTHEST))) - 1.0)


def probation(rows: int) -> int:
    """Rows at the start of a file that do not count."""
    return min(math.floor(PROBATION_SHARE * rows), PROBATION_ROWS)


def row_values(windows: list[tuple[int, int]], rows: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Value of a detection at each row (a true one up to 1, a false one below 0), and its window (-1 = none)."""
    value, window = np.full(rows, -1.0), np.full(rows, -1, np.int64)
    ordered = sorted(windows)
    for k, (first, last) in enumerate(ordered):
        size = last - first + 1
        until = ordered[k + 1][0] if k + 1 < len(ordered) else rows
        behind = np.arange(last + 1, until)
        value[behind] = sigmoid((behind - last) / max(size - 1.0, 1.0))
    for k, (first, last) in enumerate(ordered):
        inside = np.arange(first, last + 1)
        value[inside] = sigmoid(-(last - inside + 1) / (last - first + 1.0)) / sigmoid(np.array([-1.0]))[0]
        window[inside] = k
    return value, window


def curve(files: Mapping[str, LabelledFile], fp_weight: float, fn_weight: float) -> tuple[Floats, Floats, float]:
    """Thresholds (descending), NAB's raw score at each, and the maximum."""
    scores, gains, owner = [], [], []
    windows = 0
    for file in files.values():
        n = len(file.scores)
        value, window = row_values(file.windows, n)
        counts = (np.arange(n) >= probation(n)) & (file.scores > 0)
        scores.append(file.scores[counts])
        gains.append(np.where(window < 0, fp_weight * value, value)[counts])
        owner.append(np.where(window < 0, -1, window + windows)[counts])
        windows += len(file.windows)
    score, gain, window = np.concatenate(scores), np.concatenate(gains), np.concatenate(owner)
    order = np.argsort(-score, kind="stable")
    score, gain, window = score[order], gain[order], window[order]
    _only_the_best(gain, window, fn_weight)
    total = np.cumsum(gain)
    last = np.r_[score[1:] != score[:-1], True] if len(score) else np.zeros(0, bool)
    return score[last], total[last], windows * (1.0 + fn_weight)


def _only_the_best(gain: Floats, window: npt.NDArray[np.int64], fn_weight: float) -> None:
    """Of the detections in a window only the most valuable one counts: later ones add their gain over it."""
    best: dict[int, float] = {}
    for at in np.flatnonzero(window >= 0).tolist():
        k, value = int(window[at]), float(gain[at])
        before = best.get(k)
        gain[at] = value + fn_weight if before is None else max(0.0, value - before)
        best[k] = value if before is None else max(before, value)


def best(files: Mapping[str, LabelledFile], profile: str = "standard") -> tuple[float, float]:
    """NAB's score (0 to 100) at the one threshold that is best for all files together, and that threshold."""
    thresholds, gained, attainable = curve(files, *PROFILES[profile])
    if not len(gained) or attainable <= 0 or gained.max() <= 0:
        return 0.0, math.inf
    at = int(np.argmax(gained))
    return float(100.0 * gained[at] / attainable), float(thresholds[at])
