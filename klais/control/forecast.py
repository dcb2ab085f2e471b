"""Forecasts of the traffic: one interface for all predictors, and a plain estimator with its own confidence.

``predict(window)`` gives a :class:`BurstForecast` from up to 60 rows of per-second features. A burst has a definition,
so that a test can compare forecasts with the traffic: the mean rate of the next 5 seconds exceeds twice the window's
median. Pure: numpy only.
"""

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FEATURES = ("rate", "devices", "new_devices", "payload_bytes", "dropped")
"""Columns of a window: frames/s, devices known, new devices/s, mean bytes of a frame, frames dropped/s."""
WINDOW_S = 60
HORIZON_S = 5
FACTOR = 2.0  # times the median: what counts as a burst
LEAST_ROWS = 10  # below that there is no forecast
SMALL_RATE = 200.0  # frames/s: twice a smaller median is no burst
LEAST_MEMORY_S, MOST_MEMORY_S = 3, 10  # seconds that the present level averages: few for steady traffic, more for noise
MEMORY_S, MEMORY_PER_SPREAD_S = 2.0, 25.0
LEAST_SLOPE_S = 5
DAMPING = 0.3  # share of a slope that is expected to continue over the horizon
LEAST_SPREAD = 0.05  # of the log rate: least spread that a forecast assumes
WANDER = 0.1  # of the log rate: how far the level itself may move within the horizon

Window = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BurstForecast:
    """``probability`` of a burst (0 to 1), the ``rate`` expected at the horizon and the window's ``median`` (frames/s),
    ``why``."""

    probability: float
    rate: float
    median: float
    why: str

    def public(self) -> dict[str, Any]:
        """As one JSON object."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


NOTHING = BurstForecast(0.0, 0.0, 0.0, "too little history")


class Predictor(Protocol):
    """The interface that the controller uses; a learned model implements it too."""

    def predict(self, window: Window) -> BurstForecast:
        """Forecast from ``window`` float64 [n <= 60, len(FEATURES)], the newest row last."""
        ...


class TrendPredictor:
    """Extrapolates the log rate: the level of the last seconds plus a part of their slope, with a confidence.

    The probability is that of a normal distribution beyond log(2 x median). Its deviation comes from the window itself:
    the robust spread of one second around its neighbours (1.4826 x median absolute deviation). Noisy traffic is
    averaged over a longer time, and a slope counts only as far as it exceeds its own standard error.
    ``tests/unit/control/test_forecast.py`` compares it with the shipped recording of traffic, where its Brier score
    beats the climatology (a constant forecast of the overall share of bursts).
    """

    def predict(self, window: Window) -> BurstForecast:
        """See :class:`Predictor`."""
        if len(window) < LEAST_ROWS:
            return NOTHING
        rate = np.maximum(window[:, 0], 0.0)
        median = float(np.median(rate))
        log_rate = np.log(rate + 1.0 + 0.05 * rate.mean())  # keeps the log of an empty second finite
        around = log_rate[1:-1] - (log_rate[:-2] + log_rate[2:]) / 2
        spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(around))) / math.sqrt(1.5))
        memory = int(min(max(MEMORY_S + MEMORY_PER_SPREAD_S * spread, LEAST_MEMORY_S), MOST_MEMORY_S))
        level = math.log(float(rate[-memory:].mean()) + 1.0)
        slope = _sure_slope(log_rate[-max(LEAST_SLOPE_S, memory) :], spread)
        expected = level + DAMPING * slope * HORIZON_S
        limit = math.log(FACTOR * max(median, SMALL_RATE) + 1.0)
        deviation = spread * math.sqrt(1.0 / memory + 1.0 / HORIZON_S) + WANDER
        probability = 0.5 * math.erfc((limit - expected) / (deviation * math.sqrt(2.0)))
        why = f"level {math.expm1(level):,.0f}/s, slope {100 * slope:+.0f} %/s, "
        why += f"median {median:,.0f}/s, spread {100 * spread:.0f} %"
        return BurstForecast(min(max(probability, 0.0), 1.0), max(0.0, math.expm1(min(expected, 30.0))), median, why)


def _sure_slope(values: npt.NDArray[np.float64], spread: float) -> float:
    """Slope of the least-squares line through n evenly spaced values, shrunk by its variance ``12 spread^2 / (n (n^2 -
    1))``."""
    n = len(values)
    at = np.arange(n) - (n - 1) / 2
    slope = float(at @ values / (at @ at))
    variance = 12.0 * spread * spread / (n * (n * n - 1))
    return slope * max(0.0, 1.0 - variance / (slope * slope + 1e-12))


class Features:
    """Collects one row a second from running totals."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=WINDOW_S)
        self._before: tuple[float, dict[str, float]] | None = None

    def add(self, now_s: float, totals: dict[str, float]) -> bool:
        """Add totals (``received``, ``bytes``, ``dropped``; ``devices`` of now); return whether a second is complete.

        Totals that fall, as when a process starts or stops, give no row: counting starts from them.
        """
        if self._before is None:
            self._before = (now_s, totals)
            return False
        elapsed_s, before = now_s - self._before[0], self._before[1]
        if elapsed_s < 1.0:
            return False
        self._before = (now_s, totals)
        grown = {name: (value - before.get(name, 0.0)) / elapsed_s for name, value in totals.items()}
        if min(grown["received"], grown["bytes"]) < 0.0:
            return False
        frames = grown["received"]
        mean_bytes = grown["bytes"] / frames if frames > 0 else 0.0
        new = max(0.0, grown["devices"])
        self._rows.append((frames, totals["devices"], new, mean_bytes, max(0.0, grown["dropped"])))
        return True

    def window(self) -> Window:
        """Rows so far, float64 [n <= 60, len(FEATURES)], the newest last."""
        return np.array(self._rows, np.float64).reshape(-1, len(FEATURES))
