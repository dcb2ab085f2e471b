"""Forecasts of the traffic: one interface for all predictors, and a simple estimator with its own confidence.

``predict(window)`` gives a :class:`TrafficForecast` from up to 60 rows of per-second features. A burst has a
definition, so that a test can compare forecasts with the traffic: the mean rate of the next 5 seconds exceeds twice the
window's median. Pure: numpy only. The learned forecast is in :mod:`klais.traffic`.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

FEATURES = (
    "rate",
    "devices",
    "new_devices",
    "payload_bytes",
    "dropped",
    "active",
    "entropy",
    "top_share",
    "size_cv",
    "malformed",
    "duplicates",
    "limited",
    "resets",
)
"""Columns of a window over the whole fleet: frames/s, known devices, new devices/s, mean bytes of a frame, dropped
frames/s, devices that sent in the second, entropy of the frames over them (nats), share of the busiest one (0 to 1),
deviation of the frame size over its mean; and per second: malformed frames, duplicates, frames dropped by device limits
(rate, block, too many new devices), restarts of sequence numbers."""
WINDOW_S = 60
HORIZON_S = 5
FACTOR = 2.0  # a burst exceeds the median by this factor
MIN_FORECAST_ROWS = 10  # with fewer rows there is no forecast
SMALL_RATE = 20.0  # frames/s: twice a smaller median is not a burst, the noise of single frames can cause it
MIN_MEMORY_S, MAX_MEMORY_S = 3, 10  # seconds averaged for the present level: few for steady traffic, more for noise
MEMORY_S, MEMORY_PER_SPREAD_S = 2.0, 25.0
MIN_SLOPE_S = 5
DAMPING = 0.3  # share of a slope that is expected to continue over the horizon
MIN_SPREAD = 0.05  # of the log rate: smallest spread that a forecast assumes
LEVEL_DRIFT = 0.1  # of the log rate: possible change of the level within the horizon
DECILE_SD = 1.2816  # the outer deciles of a normal distribution, in standard deviations

Window = npt.NDArray[np.float64]
TrafficClass = Literal["normal", "elevated", "burst", "thundering_herd", "attack"]
CLASSES: tuple[TrafficClass, ...] = ("normal", "elevated", "burst", "thundering_herd", "attack")


@dataclass(frozen=True, slots=True)
class TrafficForecast:
    """Class and forecast of the traffic.

    Attributes
    ----------
    probability : float
        Probability of a burst (0 to 1).
    rate : float
        Expected mean rate of the next 5 s (frames/s): the middle value of ``quantiles``.
    median : float
        Median of the window (frames/s).
    why : str
        The figures on which it is based.
    quantiles : tuple of float
        0.1, 0.5 and 0.9 quantile of the mean rate of the next 5 s (frames/s).
    kind : TrafficClass
        Present class of the traffic.
    confidence : float
        Confidence of the class, 0 to 1; 0 from a predictor that does not classify.
    busiest : float
        Usual rate of the busiest device (frames/s): the median over the window.
    model : str
        Its origin: ``none``, ``trend``, ``rules``, or a model's name and backend.
    """

    probability: float
    rate: float
    median: float
    why: str
    quantiles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kind: TrafficClass = "normal"
    confidence: float = 0.0
    busiest: float = 0.0
    model: str = "none"

    def public(self) -> dict[str, Any]:
        """As a JSON object."""
        out = {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}
        return out | {"quantiles": [round(rate, 1) for rate in self.quantiles]}


NOTHING = TrafficForecast(0.0, 0.0, 0.0, "too little history")
OFF = TrafficForecast(0.0, 0.0, 0.0, "KLAIS_FORECAST is none")


class Predictor(Protocol):
    """The interface that the controller uses."""

    def predict(self, window: Window) -> TrafficForecast:
        """Forecast from ``window`` float64 [n <= 60, len(FEATURES)], the newest row last."""
        ...


class NoPredictor:
    """Predicts nothing: the controller reacts only to lag and CPU."""

    def predict(self, window: Window) -> TrafficForecast:
        """See :class:`Predictor`."""
        return OFF


class TrendPredictor:
    """Extrapolates the log rate: the level of the last seconds plus a part of their slope, with a confidence.

    The probability is that of a normal distribution beyond log(2 x median). Its deviation comes from the window: the
    robust spread of one second around its neighbours (1.4826 x median absolute deviation). Noisy traffic is averaged
    over a longer time, and a slope counts only as far as it exceeds its own standard error.
    ``tests/unit/control/test_forecast.py`` compares it with the shipped recording of traffic, where its Brier score
    is better than that of the climatology (a constant forecast of the overall share of bursts).
    """

    def predict(self, window: Window) -> TrafficForecast:
        """See :class:`Predictor`."""
        if len(window) < MIN_FORECAST_ROWS:
            return NOTHING
        rate = np.maximum(window[:, 0], 0.0)
        median = float(np.median(rate))
        log_rate = np.log(rate + 1.0 + 0.05 * rate.mean())  # keeps the log of an empty second finite
        around = log_rate[1:-1] - (log_rate[:-2] + log_rate[2:]) / 2
        spread = max(MIN_SPREAD, 1.4826 * float(np.median(np.abs(around))) / math.sqrt(1.5))
        memory = int(min(max(MEMORY_S + MEMORY_PER_SPREAD_S * spread, MIN_MEMORY_S), MAX_MEMORY_S))
        level = math.log(float(rate[-memory:].mean()) + 1.0)
        slope = _sure_slope(log_rate[-max(MIN_SLOPE_S, memory) :], spread)
        expected = level + DAMPING * slope * HORIZON_S
        limit = math.log(FACTOR * max(median, SMALL_RATE) + 1.0)
        deviation = spread * math.sqrt(1.0 / memory + 1.0 / HORIZON_S) + LEVEL_DRIFT
        probability = 0.5 * math.erfc((limit - expected) / (deviation * math.sqrt(2.0)))
        why = f"level {math.expm1(level):,.0f}/s, slope {100 * slope:+.0f} %/s, "
        why += f"median {median:,.0f}/s, spread {100 * spread:.0f} %"
        low, middle, high = (
            max(0.0, math.expm1(min(expected + at * deviation, 30.0))) for at in (-DECILE_SD, 0.0, DECILE_SD)
        )
        probability = min(max(probability, 0.0), 1.0)
        return TrafficForecast(probability, middle, median, why, (low, middle, high), model="trend")


def _sure_slope(values: npt.NDArray[np.float64], spread: float) -> float:
    """Slope of the least-squares line through n evenly spaced values, shrunk by its variance ``12 spread^2 / (n (n^2 -
    1))``."""
    n = len(values)
    at = np.arange(n) - (n - 1) / 2
    slope = float(at @ values / (at @ at))
    variance = 12.0 * spread * spread / (n * (n * n - 1))
    return slope * max(0.0, 1.0 - variance / (slope * slope + 1e-12))
