"""Converts a model's outputs to a forecast, and the rules that are used without a model."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klais.control.forecast import (
    CLASSES,
    MIN_FORECAST_ROWS,
    SMALL_RATE,
    TrafficForecast,
    TrendPredictor,
    Window,
)
from klais.traffic.backends import Backend
from klais.traffic.features import COLUMN, NAMES, Features, clean, features_of

BURST = len(CLASSES)  # index of the burst's log-odds among the outputs
QUANTILES = (0.1, 0.5, 0.9)
MIN_LEARNED_ROWS = 30  # a shorter window does not show what is usual
OUTPUTS = BURST + 1 + len(QUANTILES)
KIND = "traffic"  # kind of the model in the store
# On recorded traffic, whose noise alone causes bursts, half of the alarms at a probability of 0.5 would be false. From
# 0.85 on, less than one per day is (python -m bench traffic).
SURE_OF_BURST = 0.85
MAX_WHEN_QUIET = 0.35  # no alarm, no cut
RULES_CONFIDENCE = 0.7  # only obvious cases are classified
MAX_LOG = 12.0  # a forecast is at most exp(12) times the level

At = {name: at for at, name in enumerate(NAMES)}
Array = npt.NDArray[np.float64]


class LearnedPredictor:
    """Boosted trees over the features of a window.

    Parameters
    ----------
    backend : Backend
        Evaluates the trees.
    version : str
        Version of the model.
    """

    def __init__(self, backend: Backend, version: str) -> None:
        self._backend, self._start = backend, TrendPredictor().predict
        self.name = f"{version} ({backend.name})"

    def predict(self, window: Window) -> TrafficForecast:
        """See :class:`~klais.control.forecast.Predictor`."""
        window = clean(window)
        if len(window) < MIN_LEARNED_ROWS:
            return self._start(window)
        x = features_of(window)
        out = self._backend.run(x)[0]
        classes, probability, ratios = interpret(out[None], x)
        at = int(classes[0].argmax())
        median = max(0.0, float(np.median(window[:, 0])))
        low, middle, high = (max(median, SMALL_RATE) * math.exp(min(r, MAX_LOG)) for r in ratios[0].tolist())
        confidence = float(classes[0, at])
        why = f"{CLASSES[at]} ({100 * confidence:.0f} %): {describe(window)}"
        return TrafficForecast(
            float(probability[0]), middle, median, why, (low, middle, high), CLASSES[at], confidence,
            usual_busiest(window), self.name,
        )  # fmt: skip


def interpret(outputs: Array, x: Features) -> tuple[Array, Array, Array]:
    """Probability of each class [k, 5], of a burst [k], and the log of the coming rate over the level [k, 3], from the
    outputs for the features ``x`` [k, features].

    Traffic below its usual level that does not rise announces no burst: devices that are silent may return together,
    but nothing shows when, and a gap in the traffic is no herd.
    """
    logits = outputs[:, :BURST] - outputs[:, :BURST].max(axis=1, keepdims=True)
    classes = np.exp(logits)
    classes /= classes.sum(axis=1, keepdims=True)
    burst = cautious(1.0 / (1.0 + np.exp(-np.clip(outputs[:, BURST], -30.0, 30.0))))
    quiet = (x[:, At["rate_3s"]] < 0.0) & (x[:, At["lift"]] <= 0.0)
    burst = np.where(quiet, np.minimum(burst, MAX_WHEN_QUIET), burst)
    return classes, burst, np.sort(outputs[:, BURST + 1 :], axis=1)


def cautious(probability: Array) -> Array:
    """A model's probability, bent so that it exceeds 0.5, the alarm, only if the model is confident.

    It keeps the order. Both parts are bent outwards, towards the model's own probability, which is the better estimate.

    Examples
    --------
    >>> cautious(np.array([0.0, 0.425, 0.85, 0.8875, 1.0])).round(3).tolist()
    [0.0, 0.375, 0.5, 0.75, 1.0]
    """
    below = 0.5 - 0.5 * (1.0 - np.minimum(probability / SURE_OF_BURST, 1.0)) ** 2
    above = 0.5 * np.sqrt(np.maximum(probability - SURE_OF_BURST, 0.0) / (1.0 - SURE_OF_BURST))
    bent: Array = below + above
    return bent


class RulesPredictor:
    """Thresholds on the same features; the burst forecast is that of the trend. It works without any model."""

    name = "rules"

    def __init__(self, burst: Callable[[Window], TrafficForecast] | None = None) -> None:
        self._burst = burst or TrendPredictor().predict

    def predict(self, window: Window) -> TrafficForecast:
        """See :class:`~klais.control.forecast.Predictor`."""
        window = clean(window)
        trend = self._burst(window)
        if len(window) < MIN_FORECAST_ROWS:
            return trend
        x = features_of(window)[0]
        at = rule_class(dict(zip(NAMES, x.tolist(), strict=True)))
        return TrafficForecast(
            trend.probability, trend.rate, trend.median, f"{CLASSES[at]} (by rules): {describe(window)}",
            trend.quantiles, CLASSES[at], RULES_CONFIDENCE, usual_busiest(window), self.name,
        )  # fmt: skip


def rule_class(x: dict[str, float]) -> int:
    """Class (index into ``CLASSES``) of features by name: the obvious cases.

    Hostile is behaviour that most devices never show at the same time: malformed frames, duplicates, restarts without
    new devices, one device with most of the frames, more unknown devices with one frame each than the limit allows.
    """
    bad = max(x[f"{name}_3s"] - x[f"{name}_median"] for name in ("malformed", "duplicates", "limited"))
    alone = x["top_share"] > 0.3 and x["top_share"] > x["top_share_median"] + 0.2 and x["rate_3s"] > 0.2
    spoofed = x["resets_3s"] - x["resets_median"] > 0.25 and x["active_3s"] < 0.7
    if bad > 0.2 or alone or spoofed:
        return 4
    many = x["active_3s"] > 0.7 and x["rate_3s"] > 0.4
    if many and (x["new_devices_3s"] < 0.5 or x["active_low"] < -0.4 or x["frames_a_device"] > 0.5):
        return 3
    if x["rate_5s"] > math.log(2.0):
        return 2
    return 1 if x["rate_10s"] > math.log(1.3) else 0


def usual_busiest(window: Window) -> float:
    """Frames/s of the busiest device, the median over the window."""
    return float(np.median(window[:, COLUMN["top_share"]] * window[:, COLUMN["rate"]]))


def describe(window: Window) -> str:
    """The figures of the last 3 s compared with the window, as text."""
    last, usual = window[-3:].mean(axis=0), np.median(window, axis=0)
    rate = max(last[COLUMN["rate"]], 1e-9)
    text = f"{last[COLUMN['rate']]:,.0f} frames/s, usual {usual[COLUMN['rate']]:,.0f}"
    text += f"; {last[COLUMN['active']]:,.0f} devices, usual {usual[COLUMN['active']]:,.0f}"
    text += f"; busiest {100 * last[COLUMN['top_share']]:.0f} %"
    for name in ("new_devices", "malformed", "duplicates", "limited", "resets"):
        if (share := 100 * last[COLUMN[name]] / rate) >= 1.0:
            text += f"; {name.replace('_', ' ')} {share:.0f} %"
    return text
