"""Synthetic telemetry with a fault: the series and its labels (1 during the fault)."""

from collections.abc import Callable
from functools import partial

import numpy as np

from bench.cases.anomaly.kinds import DAY_S, Rng, activity, autoregressive, intervals, of_day, rounded, times

Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]
HOUR_S = 3600.0


def temperature(rng: Rng, t: np.ndarray, step_s: float) -> tuple[np.ndarray, float, float]:
    """Values, their step, their deviation."""
    shape = 4 * of_day(t, rng.uniform(0, 6.28))
    return rng.uniform(15, 25) + shape + 0.3 * autoregressive(rng, len(t), 0.95), 0.01, 0.3


def weather(rng: Rng, t: np.ndarray, step_s: float) -> tuple[np.ndarray, float, float]:
    """As above."""
    n = len(t)
    slow = autoregressive(rng, n, float(np.exp(-step_s / (2 * DAY_S))), 3.0)
    quick = autoregressive(rng, n, float(np.exp(-step_s / 1800)), 0.3)
    return 12 + slow + 4 * of_day(t, rng.uniform(0, 6.28)) + quick, 0.1, 0.3


def room(rng: Rng, t: np.ndarray, step_s: float) -> tuple[np.ndarray, float, float]:
    """As above."""
    return 21 + autoregressive(rng, len(t), float(np.exp(-step_s / 20_000)), 0.5), 0.1, 0.5


def pressure(rng: Rng, t: np.ndarray, step_s: float) -> tuple[np.ndarray, float, float]:
    """As above."""
    return 4 + 0.05 * rng.normal(size=len(t)) + 0.02 * of_day(t, rng.uniform(0, 6.28)), 0.001, 0.05


KINDS = {"temperature": temperature, "weather": weather, "room": room, "pressure": pressure}
# Fault -> length of its label in hours.
VALUE_FAULTS = {
    "stuck": 12.0,
    "spike_10sd": 0.0,
    "spike_20sd": 0.0,
    "level_10sd": 24.0,
    "drift_10sd": 24.0,
    "noise_x4": 6.0,
    "zeros": 0.5,
    "unit_c_to_f": 24.0,
}
OTHER_FAULTS = ("interval_third", "interval_x3", "silence_2h", "clock_jump", "counter_x4", "counter_stop")


def _spoil(rng: Rng, x: np.ndarray, i: int, end: int, noise: float, fault: str, step_s: float) -> None:
    """Put the fault into rows ``i`` to ``end`` of ``x`` (a shift stays)."""
    sign = rng.choice([-1, 1])
    if fault == "stuck":
        x[i:end] = x[i]
    elif fault.startswith("spike"):
        x[i] += sign * noise * (20 if "20" in fault else 10)
    elif fault == "level_10sd":
        x[i:] += sign * 10 * noise
    elif fault == "drift_10sd":
        rise = int(12 * HOUR_S / step_s)
        x[i:] += sign * 10 * noise * np.minimum(1.0, np.arange(len(x) - i) / rise)
    elif fault == "noise_x4":
        x[i:end] += rng.normal(size=end - i) * noise * 4
    elif fault == "zeros":
        x[i:end] = 0
    elif fault == "unit_c_to_f":
        x[i:] = x[i:] * 1.8 + 32


def with_value_fault(rng: Rng, kind: str, fault: str, days: float, step_s: float) -> Labelled:
    """A series of ``kind`` in which ``fault`` begins after two thirds of the time."""
    t = times(rng, days, step_s)
    x, step, noise = KINDS[kind](rng, t, step_s)
    i = int(np.searchsorted(t, t[0] + rng.uniform(0.64, 0.79) * days * DAY_S))
    end = min(len(x), i + max(1, int(VALUE_FAULTS[fault] * HOUR_S / step_s)))
    _spoil(rng, x, i, end, noise, fault, step_s)
    label = np.zeros(len(x), np.int64)
    label[i:end] = 1
    return t, rounded(x, step), label


def with_other_fault(rng: Rng, fault: str, days: float, step_s: float) -> Labelled:
    """Intervals, clocks and counters; the fault lasts a day."""
    t = times(rng, days, step_s)
    n = len(t)
    i = int(np.searchsorted(t, t[0] + rng.uniform(0.64, 0.79) * days * DAY_S))
    if fault in ("interval_third", "interval_x3", "silence_2h"):
        x = intervals(rng, n, step_s)
        if fault == "silence_2h":
            x[i] = 7200.0
        else:
            x[i:] *= 3.0 if fault == "interval_x3" else 1 / 3
        t = t[0] + np.cumsum(x)
    elif fault == "clock_jump":
        x = np.floor(t * 1000 - rng.gamma(2.0, 20, n))
        x[i:] += 3.6e6
    else:
        rate = activity(rng, t) * rng.gamma(1.0, 0.5, n) * step_s / 3600
        rate[i:] *= 4.0 if fault == "counter_x4" else 0.0
        x = rounded(1000 + np.cumsum(rate), 0.01)
    return t, x, ((t >= t[i]) & (t < t[i] + DAY_S)).astype(np.int64)


def _value_fault(kind: str, fault: str, rng: Rng, days: float, step_s: float) -> Labelled:
    return with_value_fault(rng, kind, fault, days, step_s)


def _other_fault(fault: str, rng: Rng, days: float, step_s: float) -> Labelled:
    return with_other_fault(rng, fault, days, step_s)


def all_faults() -> list[tuple[str, str, Callable[[Rng, float, float], Labelled]]]:
    """(fault, kind, generator): each value fault in each kind, then the others."""
    out: list[tuple[str, str, Callable[[Rng, float, float], Labelled]]] = []
    for fault in VALUE_FAULTS:
        for kind in KINDS:
            out.append((fault, kind, partial(_value_fault, kind, fault)))
    for fault in OTHER_FAULTS:
        kind = "interval" if "interval" in fault or "silence" in fault else "counter" if "counter" in fault else "clock"
        out.append((fault, kind, partial(_other_fault, fault)))
    return out
