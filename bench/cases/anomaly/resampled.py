"""Copies of a labelled corpus with other length, spacing, gaps, sign, scale: no detector was tuned on them."""

import numpy as np

from bench.cases.anomaly.nab_score import probation

File = tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]
Corpus = dict[str, File]
SEED = 0
MIN_WINDOW = 3  # rows


def corpora(original: Corpus, seed: int = SEED) -> dict[str, Corpus]:
    """The corpus and six resampled copies."""
    rng = np.random.default_rng(seed)
    out = {"orig": original}
    out["mean of 3"] = {name: averaged(*file, 3) for name, file in original.items()}
    out["mean of 6"] = {name: averaged(*file, 12 if "Tweets" in name else 6) for name, file in original.items()}
    out["irregular"] = {name: irregular(*file, rng) for name, file in original.items()}
    out["logarithm"] = {name: logarithm(*file, rng) for name, file in original.items()}
    out["pieces"] = pieces(original, rng, 1, 1500)
    out["pieces of means"] = pieces(original, rng, 3, 700)
    return {name: {key: _valid(file) for key, file in corpus.items()} for name, corpus in out.items()}


def averaged(t: np.ndarray, x: np.ndarray, windows: list[tuple[int, int]], factor: int) -> File:
    """Means of ``factor`` rows."""
    n = len(x) // factor
    shorter = [(min(a // factor, n - 1), min(b // factor, n - 1)) for a, b in windows]
    return t[: n * factor : factor].copy(), x[: n * factor].reshape(n, factor).mean(1), shorter


def irregular(t: np.ndarray, x: np.ndarray, windows: list[tuple[int, int]], rng: np.random.Generator) -> File:
    """Some of the rows, with gaps of hours, at times that jitter."""
    n = len(x)
    kept = rng.random(n) < (0.6 if n < 5000 else 0.35)
    for _ in range(max(1, n // 1500)):
        at, size = rng.integers(0, n), int(rng.exponential(60))
        kept[at : at + size] = False
    index = np.flatnonzero(kept)
    times = np.sort(t[index] + rng.integers(0, 120, len(index)))
    return times, x[index].copy(), _moved(windows, index)


def logarithm(t: np.ndarray, x: np.ndarray, windows: list[tuple[int, int]], rng: np.random.Generator) -> File:
    """Values on a logarithmic scale, perhaps upside down, at another time of the day."""
    scale = max(1e-9, float(np.median(np.abs(x))))
    return t + rng.integers(0, 86_400), np.log1p(np.maximum(x, 0) / scale) * rng.choice([1.0, -1.0]), windows


def pieces(original: Corpus, rng: np.random.Generator, factor: int, rows: int) -> Corpus:
    """Short files around the windows."""
    out: Corpus = {}
    for name, file in original.items():
        more = 2 if "Tweets" in name and factor > 1 else 1
        t, x, windows = averaged(*file, factor * more) if factor > 1 else file
        size = min(rows * 4 // 3 if "Tweets" in name else rows, len(x))
        if not windows and factor > 1:
            continue
        if not windows:
            begin = int(rng.integers(0, len(x) - size + 1))
            out[name] = (t[begin : begin + size].copy(), x[begin : begin + size].copy(), [])
            continue
        for k, (a, b) in enumerate(windows):
            tries = [int((a + b) // 2 - rng.uniform(0.3, 0.9) * size) for _ in range(2)]
            begin = next((at for at in tries if at >= 0 and at + size <= len(x)), -1)
            if begin >= 0:
                middles = [(c + d) // 2 - begin for c, d in windows]
                inside = [m for m in middles if 0.16 * size < m < 0.95 * size]
                half = max(8, int(size * 0.05 / max(1, len(inside))))
                spans = [(max(0, m - half), min(size - 1, m + half)) for m in inside]
                out[f"{name}#{k}"] = (t[begin : begin + size].copy(), x[begin : begin + size].copy(), _merged(spans))
    return out


def _moved(windows: list[tuple[int, int]], index: np.ndarray) -> list[tuple[int, int]]:
    spans = [(int(np.searchsorted(index, a)), int(np.searchsorted(index, b, side="right")) - 1) for a, b in windows]
    return [(a, b) for a, b in spans if a < len(index) and b - a >= MIN_WINDOW]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if out and a <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(b, out[-1][1]))
        else:
            out.append((a, b))
    return out


def _valid(file: File) -> File:
    """Windows that begin after the probation; earlier rows never count."""
    t, x, windows = file
    begin = probation(len(x))
    kept = [(max(a, begin), b) for a, b in windows if (a + b) // 2 >= begin]
    return np.asarray(t, float), np.asarray(x, float), [(a, b) for a, b in kept if b - a >= MIN_WINDOW]
