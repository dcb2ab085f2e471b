"""A plot of a series as SVG: values, scores below, flags as marks. This is too little to need a library."""

from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, SCORES, MARGIN = 1200, 320, 120, 40
COLUMNS = 1000  # number of columns, each with a line from the smallest to the largest value within
Floats = npt.NDArray[np.float64]


def plot(title: str, t: Floats, x: Floats, score: Floats, flags: Floats, threshold: float) -> str:
    """The SVG: ``t``, ``x`` and ``score`` [n], ``flags`` [k] their times."""
    kept = np.isfinite(x)
    if not kept.any():
        return _svg(title, "")
    begin, end = float(t[kept].min()), float(t[kept].max())
    low, high = float(x[kept].min()), float(x[kept].max())
    across = (WIDTH - 2 * MARGIN) / max(end - begin, 1e-9)
    values = _range_path(t[kept], x[kept], begin, across, low, high, MARGIN, HEIGHT - 2 * MARGIN)
    top = max(float(score.max()), threshold)
    scores = _range_path(t, score, begin, across, 0.0, top, HEIGHT, SCORES)
    line = HEIGHT + SCORES - threshold / top * SCORES
    marks = "".join(
        f'<line x1="{MARGIN + (at - begin) * across:.1f}" x2="{MARGIN + (at - begin) * across:.1f}" y1="{MARGIN}" '
        f'y2="{HEIGHT + SCORES}" class="flag"/>'
        for at in flags.tolist()
    )
    labels = "".join(
        f'<text x="4" y="{y:.0f}">{escape(f"{value:.6g}")}</text>'
        for value, y in ((high, MARGIN + 4), (low, HEIGHT - MARGIN), (threshold, line))
    )
    rest = f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{line:.1f}" y2="{line:.1f}" class="threshold"/>'
    return _svg(title, f'{marks}<path d="{values}"/><path d="{scores}" class="score"/>{rest}{labels}')


def _range_path(
    t: Floats, x: Floats, begin: float, across: float, low: float, high: float, top: float, height: float
) -> str:
    """A vertical line for each column of pixels that has rows."""
    column = np.clip(((t - begin) * across * COLUMNS / (WIDTH - 2 * MARGIN)).astype(np.int64), 0, COLUMNS - 1)
    minimum, highest = np.full(COLUMNS, np.inf), np.full(COLUMNS, -np.inf)
    np.minimum.at(minimum, column, x)
    np.maximum.at(highest, column, x)
    scale = height / max(high - low, 1e-300)
    at = np.flatnonzero(highest >= minimum)
    place = MARGIN + (at + 0.5) * (WIDTH - 2 * MARGIN) / COLUMNS
    y1, y2 = top + (high - highest[at]) * scale, top + (high - minimum[at]) * scale + 1.0
    return "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(place, y1, y2, strict=True))


def compare(title: str, t: Floats, panels: list[tuple[str, Floats, Floats]]) -> str:
    """The SVG of two series: a panel for each (name, first, second), one below the other; all arrays are [n]."""
    if not len(t):
        return _svg(title, "")
    begin, across = float(t.min()), (WIDTH - 2 * MARGIN) / max(float(t.max() - t.min()), 1e-9)
    high = (HEIGHT + SCORES - MARGIN) / len(panels)
    parts = []
    for number, (name, first, second) in enumerate(panels):
        top = MARGIN + number * high + 14
        highest = max(float(first.max()), float(second.max()), 1.0)
        for values, kind in ((first, "happened"), (second, "would")):
            x, y = MARGIN + (t - begin) * across, top + (highest - values) * (high - 24) / highest
            path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
            parts.append(f'<path d="{path}" class="{kind}"/>')
        parts.append(f'<text x="{MARGIN}" y="{top - 4:.0f}">{escape(f"{name}, at most {highest:.6g}")}</text>')
    return _svg(title, "".join(parts))


def _svg(title: str, body: str) -> str:
    style = (
        "text{font:11px sans-serif}path{stroke:#246;fill:none}.score{stroke:#a60}"
        ".happened{stroke:#06c;opacity:.7}.would{stroke:#d60;opacity:.7}"
        ".flag{stroke:#c00;stroke-width:2;opacity:.6}.threshold{stroke:#999;stroke-dasharray:4}"
    )
    high = HEIGHT + SCORES + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}"><style>{style}</style>'
        f'<rect width="{WIDTH}" height="{high}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="16">{escape(title)}</text>{body}</svg>\n'
    )
