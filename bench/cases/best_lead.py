"""The best possible lead before the peak of a herd: an oracle that knows the herd's curve, but not when it begins.

Page's cumulative sum of the log-likelihood ratio of the frames in each step, with the herd's true rate against the
usual one, is the fastest test with a given rate of false alarms (Moustakides 1986). With a threshold of the logarithm
of the steps of a day it gives at most one false alarm a day (Lorden 1971). No forecast that sees only rates is earlier
on average, however often it looks; a device's own silence is not visible before its first frame.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from klais.traffic.herds import frame_times
from klais.traffic.judging import DAY_S, INTERVAL_S, LEVEL_NOISE

CURVE_SAMPLE = 40_000  # devices from which the true curve is computed
ALARMS_PER_DAY = 1.0


def best_lead(devices: int, spread_s: float, buffered: int, back_off: bool, seed: int, step_s: float) -> float | None:
    """Seconds from the oracle's alarm to the peak of the arrivals in one herd; None = no alarm before the peak.

    ``step_s``: how often the oracle gets the number of frames (1.0 = as the controller does).
    """
    rng = np.random.default_rng([seed, devices, buffered, int(back_off), int(spread_s), 77])
    steps = int((2.0 * spread_s + 30.0) / step_s)
    edges = np.arange(steps + 1) * step_s
    some = min(CURVE_SAMPLE, 4 * devices)
    curve = np.histogram(frame_times(some, "beta", spread_s, buffered, back_off, rng)[1], edges)[0] * (devices / some)
    times = frame_times(devices, "beta", spread_s, buffered, back_off, rng)[1]
    usual = devices / INTERVAL_S * step_s
    noise = LEVEL_NOISE / math.sqrt(step_s)
    frames = rng.poisson(usual * np.exp(rng.normal(0.0, noise, steps))) + np.histogram(times, edges)[0]
    spread = 1.0 + usual * noise**2  # more than independent arrivals have
    ratio = (frames * np.log1p(curve / usual) - curve) / spread
    crossed = np.flatnonzero(np.cumsum(ratio) > math.log(DAY_S / step_s / ALARMS_PER_DAY))
    peak_s = float(np.histogram(times, np.arange(int(2.0 * spread_s + 30.0) + 1))[0].argmax()) + 0.5
    if not len(crossed) or (alarm_s := float(edges[crossed[0] + 1])) > peak_s:
        return None
    return peak_s - alarm_s


def best_figures(
    sizes: Sequence[int], spread_s: float, buffered: Sequence[int], repeats: int, seed: int
) -> dict[str, Any]:
    """Share of the herds with 5 s of lead and the median lead, for reports once a second and four times a second."""
    out: dict[str, Any] = {}
    for step_s in (1.0, 0.25):
        leads = [
            best_lead(devices, spread_s, frames, back_off, seed + repeat, step_s)
            for devices in sizes
            for frames in buffered
            for back_off in (False, True)
            for repeat in range(repeats)
        ]
        found = [lead for lead in leads if lead is not None]
        name = f"best_{step_s:g}s"
        out[f"{name}_lead_5s"] = round(sum(lead >= 5.0 for lead in found) / len(leads), 3)
        out[f"{name}_median_s"] = round(float(np.median(found)), 2) if found else None
    return out
