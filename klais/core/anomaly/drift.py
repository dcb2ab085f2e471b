"""Slow changes of a series, in both tiers: the mean distance of some hours from the expected values, and its report."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import (
    CAUSE,
    DRIFT,
    EXPECTED,
    FLOOR_QUANTA,
    FLOOR_SHARE,
    FULLS,
    LIGHTS,
    NEW_HOUR,
    NOISE,
    QUANTUM,
    SCALE,
    USUAL_NOW,
    WILDEST,
    Channels,
)
from klais.core.anomaly.record import COUNTER, Cause
from klais.jit.kernel import F64, float64, int64, kernel, void

# The mean distance of DRIFT_HOURS hours is a drift if it is DRIFT_FACTOR times the largest of the last seven days, and
# more while some of these are unknown, such as the first weekend.
DRIFT_FACTOR, DRIFT_UNKNOWN, DRIFT_HOURS = 2.6, 0.5, 6.0
DRIFT_DAYS, WEEK_DAYS = 4, 7  # days that must be known, and all of them
LATCH_DAYS = 2  # after any flag without a drift or noise flag, which may have the same cause
_DRIFT, _NOISE = float(Cause.DRIFT), float(Cause.NOISE)


@kernel([float64(of, int64, int64, float64) for of in (LIGHTS, FULLS)], borrows=True)
def learn_distance(state: Channels, r: int, before: int, part_hours: float) -> float:
    """Mean distance of the last hours; learns part ``before`` of the day, which has ended and has an expected value.

    To be called before the expected value learns that part.
    """
    distance = np.float64(state["distance"][r])
    of_part = np.float64(state["visit"][r]) - np.float64(state["expected"][r, before])
    distance += (of_part - distance) * (part_hours / DRIFT_HOURS)
    state["distance"][r] = np.float32(distance)
    return float(abs(distance))


@kernel([void(of, int64, float64, float64, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def compare_distance(
    state: Channels, r: int, distance: float, largest: float, days: int, part_hours: float, now: npt.NDArray[np.float64]
) -> None:
    """DRIFT, the largest distance so far, if the present one is a drift: ``largest`` is that of ``days`` days.

    The largest of a week needs no assumption about the distribution, and a week has a weekend.
    """
    quanta = 0.5 * FLOOR_QUANTA * now[QUANTUM]
    if state["mode"][r] == np.uint8(1):  # one step of a counter is a rate for one row
        quanta /= max(1.0, DRIFT_HOURS / part_hours * np.float64(state["visits"][r]))
    furthest = max(largest, FLOOR_SHARE * np.float64(state["size"][r]), quanta)
    factor = DRIFT_FACTOR * (1.0 + DRIFT_UNKNOWN * max(0, WEEK_DAYS - days))
    if days >= DRIFT_DAYS and distance > factor * furthest:
        now[DRIFT] = furthest


@kernel([void(of, int64, int64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def report_slow_changes(state: Channels, r: int, parts: int, now: npt.NDArray[np.float64]) -> None:
    """A drift or noise is reported unless another flag of the last days may have the same cause; a day has ``parts``.

    To be called at flags and at the first row of each part of the day.
    """
    if now[CAUSE] > 0.0:
        state["latch"][r] = np.uint8(LATCH_DAYS * parts)
        return
    if state["latch"][r] > np.uint8(0):
        if now[NEW_HOUR] > 0.0:
            state["latch"][r] -= np.uint8(1)
        return
    if now[DRIFT] > 0.0:
        now[CAUSE], now[EXPECTED], now[SCALE] = _DRIFT, now[USUAL_NOW], now[DRIFT]
    elif now[NOISE] > 0.0:
        now[CAUSE], now[EXPECTED], now[SCALE] = _NOISE, now[WILDEST], now[NOISE]
    else:
        return
    state["latch"][r] = np.uint8(LATCH_DAYS * parts)
    if state["mode"][r] == np.uint8(1):
        now[CAUSE] += COUNTER
