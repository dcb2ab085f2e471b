"""Figures of a predictor on whole days and on herds: false alarms per day, lead time, Brier score. For the benchmark.

An *alarm* is a burst probability above 0.5; alarms within a minute count as one. It is *false* if no burst follows
within 10 s, by the definition of :mod:`klais.control.forecast`, on a day without herds and floods. The *lead* of a herd
is the time from the end of the second whose row first raises the probability above 0.5 to the peak of its arrivals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.control.forecast import HORIZON_S, SMALL_RATE, WINDOW_S, TrendPredictor
from klais.control.habits import Habits
from klais.sim.herd import SPREAD_S
from klais.traffic.bases import Base
from klais.traffic.features import features
from klais.traffic.fleet import Fleet, Group
from klais.traffic.herds import herd_group
from klais.traffic.predictor import interpret
from klais.traffic.scenarios import truth
from klais.traffic.training import windows_of

CHUNK = 4000
ALARM = 0.5
MERGE_S, FOLLOWS_S = 60, 10
DAY_S = 86_400
RATE = 1600.0  # frames/s on average to which a recording is scaled
INTERVAL_S = 30.0  # normal interval of the devices of a herd
LEVEL_NOISE = 0.03  # deviation of the log of their rate from second to second
SERVICE_SHARE = 0.25  # of the peak of arrivals: rate of a dam, to compute when its queue peaks

Floats = npt.NDArray[np.float64]
Run = Callable[[npt.NDArray[np.float32]], Floats]  # features -> outputs


@dataclass(frozen=True, slots=True)
class Days:
    """Part of a recording: ``predicted`` and ``trend`` probabilities of a burst, float64 [t]; ``came`` whether one did,
    bool [t]; ``ratio`` of the coming 5 s to the median, float64 [t]; and its length in ``days``."""

    predicted: Floats
    trend: Floats
    came: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int64]
    ratio: Floats
    days: float


def watch(base: Base, run: Run, seed: int, max_s: int = DAY_S, trend_every: int = 0) -> Days:
    """Process a recording (at most ``max_s`` seconds from its beginning), scaled to 1,600 frames/s.

    ``trend_every``: also evaluate the trend predictor, in every n-th second (0 = never; the others are NaN).
    """
    rng = np.random.default_rng(seed)
    seconds = int(min(max_s, len(base.counts) * base.step_s))
    counts = base.seconds(0, seconds, rng)
    rate = rng.poisson(counts * RATE / max(float(counts.mean()), 1e-6)).astype(np.float64)
    return _watched(rate, run, rng, trend_every)


def watch_simulated(
    run: Run, seed: int, noise: float, peak: float = 1.0, peak_s: int = 0, every_s: int = 60, seconds: int = DAY_S
) -> Days:
    """Simulated seconds of 1,600 frames/s: ``noise`` is the deviation of the log of the rate from second to second, and
    every ``every_s`` the rate is ``peak`` times as high for ``peak_s``."""
    rng = np.random.default_rng(seed)
    shape = np.where(np.arange(seconds) % every_s < peak_s, peak, 1.0) * np.exp(rng.normal(0.0, noise, seconds))
    return _watched(rng.poisson(RATE * shape).astype(np.float64), run, rng)


def _watched(rate: Floats, run: Run, rng: np.random.Generator, trend_every: int = 0) -> Days:
    seconds = len(rate)
    rows = Fleet(20_000, 1e9, 0.0, [Group(rate, np.full(seconds, 20_000.0))]).rows(rng)
    windows = windows_of(rows)
    starts = range(0, len(windows), CHUNK)
    medians = np.concatenate([np.median(windows[at : at + CHUNK, :, 0], axis=1) for at in starts])
    inputs = (features(windows[at : at + CHUNK]) for at in starts)
    parts = [interpret(run(x), x)[:2] for x in inputs]
    predicted, kinds = np.concatenate([p[1] for p in parts]), np.concatenate([p[0].argmax(axis=1) for p in parts])
    predicted = _with_habits(predicted, rate, medians)
    trend = np.full(len(predicted), np.nan)
    if trend_every:
        predict = TrendPredictor().predict
        at_s = range(0, len(predicted), trend_every)
        trend[::trend_every] = [predict(windows[at]).probability for at in at_s]
    came, ahead = truth(rate)
    ratio = ahead[WINDOW_S - 1 :] / np.maximum(medians, SMALL_RATE)
    return Days(predicted, trend, came[WINDOW_S - 1 :], kinds, ratio, seconds / DAY_S)


def _with_habits(predicted: Floats, rate: Floats, medians: Floats) -> Floats:
    """Probabilities float64 [t] as the controller uses them; ``rate`` starts 59 s earlier."""
    level = np.maximum(medians, SMALL_RATE)
    mean = np.convolve(rate, np.full(HORIZON_S, 1.0 / HORIZON_S), "valid")[WINDOW_S - HORIZON_S :]
    habits, of_1s, of_5s = Habits(), rate[WINDOW_S - 1 :] / level, mean / level
    seen = zip(predicted.tolist(), of_1s.tolist(), of_5s.tolist(), strict=True)
    return np.array([habits.look(float(second), *each) for second, each in enumerate(seen)])


def alarms_of(predicted: Floats, came: npt.NDArray[np.bool_]) -> list[tuple[int, int, bool]]:
    """First and last second of each alarm, and whether a burst came."""
    above = np.flatnonzero(predicted > ALARM)
    if not len(above):
        return []
    apart = np.diff(above) > MERGE_S
    starts, ends = above[np.concatenate(([True], apart))], above[np.concatenate((apart, [True]))]
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    return [(start, end, bool(came[max(0, start - 1) : end + FOLLOWS_S].any())) for start, end in spans]


def false_alarms(predicted: Floats, came: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The number of alarms, and of false ones."""
    alarms = alarms_of(predicted, came)
    return len(alarms), sum(not real for _, _, real in alarms)


def largest_false(seen: Days, max_count: int = 10) -> list[dict[str, float]]:
    """The false alarms of the highest probability, and the highest ratio to the median that came (2 = a burst)."""
    out = [
        {
            "at_s": start,
            "seconds": end - start + 1,
            "probability": round(float(seen.predicted[start : end + 1].max()), 3),
            "came_to": round(float(seen.ratio[max(0, start - 1) : end + FOLLOWS_S].max()), 2),
        }
        for start, end, real in alarms_of(seen.predicted, seen.came)
        if not real
    ]
    return sorted(out, key=lambda alarm: -alarm["probability"])[:max_count]


def brier(predicted: Floats, came: npt.NDArray[np.bool_]) -> float:
    """Mean squared error of probabilities."""
    return float(((predicted - came) ** 2).mean())


@dataclass(frozen=True, slots=True)
class HerdLead:
    """One herd: seconds from the alarm to the peak of its arrivals and to that of the queue of a dam (negative = after
    it, None = no alarm), from its first arrivals to the alarm, and whether its class was detected by the peak."""

    devices: int
    spread_s: float
    to_peak_s: float | None
    to_queue_peak_s: float | None
    after_first_s: float | None
    named: bool


def herd_lead(
    run: Run, devices: int, spread_s: float, buffered: int, away_s: int, back_off: bool, seed: int
) -> HerdLead:
    """One Beta(3,4) herd over the steady traffic of a fleet of as many devices."""
    rng = np.random.default_rng([seed, devices, buffered, away_s, int(spread_s)])
    onset, length = WINDOW_S + 40, WINDOW_S + 40 + int(2.0 * spread_s) + 40
    level = np.full(length, devices / INTERVAL_S) * np.exp(rng.normal(0, LEVEL_NOISE, length))
    rate = rng.poisson(level).astype(np.float64)
    pool = np.full(length, float(devices))
    rate[onset - away_s : onset] *= 0.3
    pool[onset - away_s : onset] *= 0.3
    herd, back = herd_group(devices, "beta", spread_s, buffered, back_off, onset, length, rng)
    rows = Fleet(devices, 1e9, 0.0, [Group(rate, pool), herd]).rows(rng)
    x = features(windows_of(rows))
    classes, predicted, _ = interpret(run(x), x)
    predicted, kinds = np.concatenate((np.zeros(WINDOW_S - 1), predicted)), classes.argmax(axis=1)
    peak = int(herd.frames.argmax())
    queue = np.zeros(length)
    service = max(2.0 * float(rate.mean()), SERVICE_SHARE * float(herd.frames.max()))
    for second in range(1, length):
        queue[second] = max(0.0, queue[second - 1] + rate[second] + herd.frames[second] - service)
    queue_peak = int(queue.argmax())
    alarms = np.flatnonzero(predicted[onset - 1 : queue_peak + 1] > ALARM)
    named = bool((kinds[onset - WINDOW_S + 1 : peak - WINDOW_S + 2] == 3).any())
    if not len(alarms):
        return HerdLead(devices, spread_s, None, None, None, named)
    known_s = onset - 1 + int(alarms[0]) + 1  # the end of that second
    first = int(np.flatnonzero(back > 0)[0])
    return HerdLead(devices, spread_s, peak + 0.5 - known_s, queue_peak + 0.5 - known_s, known_s - float(first), named)


def lead_figures(leads: Sequence[HerdLead]) -> dict[str, Any]:
    """Shares of the herds with 5 s of lead, and medians."""

    def share(values: list[float | None], minimum: float) -> float:
        return round(sum(v is not None and v >= minimum for v in values) / len(values), 3)

    known = [lead.after_first_s for lead in leads if lead.after_first_s is not None]
    to_peak = [lead.to_peak_s for lead in leads if lead.to_peak_s is not None]
    return {
        "herds": len(leads),
        "alarm_before_peak": share([lead.to_peak_s for lead in leads], 0.0),
        "lead_5s_to_arrivals_peak": share([lead.to_peak_s for lead in leads], 5.0),
        "lead_5s_to_queue_peak": share([lead.to_queue_peak_s for lead in leads], 5.0),
        "median_lead_s": round(float(np.median(to_peak)), 2) if to_peak else None,
        "median_after_first_s": round(float(np.median(known)), 2) if known else None,
        "named_by_peak": round(sum(lead.named for lead in leads) / len(leads), 3),
    }


STANDARD_SPREAD_S = SPREAD_S["beta"]
