"""One whole series, for benchmarks and for files of users: processes it value by value like the lanes."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import (
    CAUSE,
    EXPECTED,
    FULL,
    FULLS,
    LIGHT,
    LIGHTS,
    NOW,
    REPORT,
    SCALE,
    THRESHOLD,
    Channels,
)
from klais.core.anomaly.explain import FlagFacts
from klais.core.anomaly.full import score_full
from klais.core.anomaly.gate import GATE
from klais.core.anomaly.light import score_light
from klais.core.anomaly.record import COUNTER, Cause, age_code_of
from klais.core.anomaly.rhythm import FLEET, SEEN, rhythm_of_series
from klais.core.anomaly.samples import Samples
from klais.jit.kernel import F64, float64, int64, kernel, void

Tier = Literal["light", "full"]
# The result for one row: REPORT for ranking (0: nothing new), the cause of its flag (0: none), the expected value.
SCORED = np.dtype([("score", "<f8"), ("cause", "<i8"), ("expected", "<f8"), ("scale", "<f8")])
_SCORED_COLUMNS = ("score", "cause", "expected", "scale")


@kernel(void(FULLS, int64, F64, F64, int64, float64, F64, float64[:, ::1]), borrows=True)
def _run_full(
    state: Channels,
    r: int,
    t: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    by_rows: int,
    threshold: float,
    now: npt.NDArray[np.float64],
    out: npt.NDArray[np.float64],
) -> None:
    for i in range(t.shape[0]):
        now[EXPECTED] = now[SCALE] = 0.0  # of the value before, if this one is not scored
        score_full(state, r, t[i], x[i], by_rows, threshold, now)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = now[REPORT], now[CAUSE], now[EXPECTED], now[SCALE]


@kernel(void(LIGHTS, int64, F64, F64, int64, float64, F64, float64[:, ::1]), borrows=True)
def _run_light(
    state: Channels,
    r: int,
    t: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    by_rows: int,
    threshold: float,
    now: npt.NDArray[np.float64],
    out: npt.NDArray[np.float64],
) -> None:
    for i in range(t.shape[0]):
        now[EXPECTED] = now[SCALE] = 0.0
        score_light(state, r, t[i], x[i], by_rows, threshold, now)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = now[REPORT], now[CAUSE], now[EXPECTED], now[SCALE]


def score_series(
    t: npt.ArrayLike,
    x: npt.ArrayLike,
    tier: Tier = "full",
    state: Channels | None = None,
    threshold: float = THRESHOLD,
    by_rows: bool = False,
) -> npt.NDArray[np.void]:
    """Scores and flags of a series: SCORED [n].

    Parameters
    ----------
    t, x : [n]
        Times (s since the epoch) and values.
    state : LIGHT [1] or FULL [1], optional
        The channel, which learns; a new one by default.
    by_rows : bool
        Whether lengths are in rows, regardless of the time between them.

    Examples
    --------
    >>> t = np.arange(2000) * 60.0
    >>> x = np.where(np.arange(2000) == 1500, 99.0, 20.0 + np.arange(2000) % 7 * 0.1)
    >>> np.flatnonzero(score_series(t, x)["cause"]).tolist()
    [1500]
    """
    times, values = (np.ascontiguousarray(column, np.float64) for column in (t, x))
    full = tier == "full"
    channel = np.zeros(1, FULL if full else LIGHT) if state is None else state
    found = np.zeros((len(times), len(_SCORED_COLUMNS)))
    run = _run_full if full else _run_light
    run(channel, 0, times, values, int(by_rows), threshold, np.zeros(NOW), found)
    out = np.empty(len(times), SCORED)
    for k, name in enumerate(_SCORED_COLUMNS):
        out[name] = found[:, k]
    return out


def rhythm_flags(t: npt.ArrayLike, period_s: float = 10.0) -> npt.NDArray[np.int64]:
    """Causes (0 = none) of rhythm flags of a single device without a fleet, with frames at times ``t``: int64 [n].

    Examples
    --------
    >>> t = np.cumsum(np.r_[np.full(100, 60.0), np.full(20, 180.0)])
    >>> np.flatnonzero(rhythm_flags(t)).tolist()
    [101]
    """
    return rhythm_of(t, period_s)[0]


def rhythm_of(t: npt.ArrayLike, period_s: float = 10.0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Causes int64 [n] as above, and float64 [n, SEEN]: interval seen and expected (s), score, usual size."""
    times = np.ascontiguousarray(t, np.float64)
    interval_s = np.diff(times, prepend=times[:1] + 1.0) if len(times) else times
    cause: npt.NDArray[np.int64] = np.zeros(len(times), np.int64)
    seen = np.zeros((len(times), SEEN))
    rhythm_of_series(np.zeros(1, GATE), np.zeros(FLEET), times, interval_s, period_s, 1, np.zeros(SEEN), cause, seen)
    return cause, seen


def facts_of_flags(samples: Samples, found: npt.NDArray[np.void]) -> list[tuple[float, FlagFacts]]:
    """(time, facts) of each flag of a series (``found`` SCORED [n]) and of its rhythm, ordered by time."""
    out = []
    earlier_flags = 0
    for i in np.flatnonzero(found["cause"]).tolist():
        row, cause = found[i], int(found["cause"][i])
        since = age_code_of(float(samples.t[i] - samples.t[0]))
        value, score = float(samples.x[i]), float(row["score"])
        if cause & (COUNTER - 1) == Cause.STUCK:
            run = i - int(np.flatnonzero(samples.x[: i + 1] != samples.x[i]).max(initial=-1)) - 1
            held_s = float(samples.t[i] - samples.t[i - run])
            since, score = age_code_of(held_s), held_s / max(float(row["scale"]), 1e-9)
        elif cause & (COUNTER - 1) == Cause.NOISE:
            value = float(row["scale"])
        elif cause & COUNTER and i:
            value = float((samples.x[i] - samples.x[i - 1]) / max(samples.t[i] - samples.t[i - 1], 1e-9))
        facts = FlagFacts(
            "value", cause, value, float(row["expected"]), score, float(row["scale"]), since, earlier_flags
        )
        out.append((float(samples.t[i]), facts))
        earlier_flags = min(255, earlier_flags + 1)
    causes, seen = rhythm_of(samples.t)
    for before, i in enumerate(np.flatnonzero(causes).tolist()):
        interval_s, usual_s, score, size = seen[i].tolist()
        facts = FlagFacts("interval_s", int(causes[i]), interval_s, usual_s, score, size, 0, min(255, before))
        out.append((float(samples.t[i]), facts))
    return sorted(out, key=lambda flag: flag[0])
