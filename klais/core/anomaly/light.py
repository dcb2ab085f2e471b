"""The light tier: six views of a series in 264 bytes, one factor for each part of the day shared by all of them."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import (
    BEST,
    CAUSE,
    CHANGE,
    CLIP,
    DAY_MEMORY_S,
    DAY_S,
    DRIFT,
    ELAPSED,
    EXPECTED,
    FLOOR_MIN,
    FLOOR_QUANTA,
    FLOOR_SHARE,
    GAP,
    HOUR,
    HOURS_LIGHT,
    INPUT,
    LEARN_ROWS,
    LENGTHS,
    LEVEL,
    LEVELS,
    LIGHTS,
    MAX_VALUE,
    MEMORY_ROWS,
    NEW_HOUR,
    NOISE,
    QUANTUM,
    RARE,
    REPORT,
    RESIDUAL,
    ROW,
    SCALE,
    SPACING,
    STORED_LIGHT,
    SURPRISE,
    USUAL_NOW,
    VALUE,
    VIEWS_LIGHT,
    WARM_ROWS,
    Channels,
    begin_row,
    choose_input,
    count_flag,
    decide_flag,
    explain_view,
    input_of,
    keep_level,
    rarity,
)
from klais.core.anomaly.drift import compare_distance, learn_distance, report_slow_changes
from klais.core.anomaly.record import Cause
from klais.core.anomaly.steps import observe_step
from klais.jit.kernel import F64, float64, int64, kernel, void

# One view per row: its input, its smoothing length in rows (of 300 s), the length of the slow mean that it is compared
# with, in rows (0: the long-run mean), its weight. Chosen on NAB's development files and their resampled copies.
_INPUT = np.array([VALUE, VALUE, RESIDUAL, RESIDUAL, RESIDUAL, CHANGE])
_FAST = np.array([3.0, 6.0, 1.0, 6.0, 96.0, 1.0])
_SLOW = np.array([300.0, 0.0, 0.0, 0.0, 0.0, 0.0])
_WEIGHT = np.array([0.6, 0.8, 0.7, 0.8, 0.8, 0.5])
# Indices of each view's floats in ``stored``: smoothed input, slow mean or long-run mean, w.
_AT_FAST = np.array([0, 3, -1, 8, 11, -1])
_AT_MEAN = np.array([1, 4, 6, 9, 12, 14])
_AT_USUAL = np.array([2, 5, 7, 10, 13, 15])
_REPORT_ROWS, _RAMP, _MIN_ROWS, _LEAK = 96.0, 24.0, 12.0, 0.5  # memory of past reports
_VISIT_WEIGHT = 0.05
FURTHEST_DAYS = 14.0  # in which the largest distance from the expected values halves
_RARE = float(Cause.RARE)


@kernel(void(LIGHTS, int64), borrows=True)
def forget_light(state: Channels, r: int) -> None:
    """Restart the series with another input; quantum, steps and runs of the value stay."""
    state["rows"][r], state["hour"][r], state["visits"][r] = np.uint32(1), np.uint8(255), np.uint16(0)
    state["size"][r] = state["level"][r] = state["recent"][r] = np.float32(0.0)
    state["known"][r] = np.uint16(0)
    state["distance"][r] = state["today"][r] = state["furthest"][r] = np.float32(0.0)
    for b in range(HOURS_LIGHT):
        state["expected"][r, b], state["factor"][r, b] = np.float32(0.0), np.uint8(0)
    for b in range(LEVELS):
        state["levels"][r, 0, b] = np.uint16(0)
    for b in range(STORED_LIGHT):
        state["stored"][r, b] = np.float32(0.0)


@kernel(void(LIGHTS, int64, F64), borrows=True)
def judge_drift(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """DRIFT where the last hours are much further from the expected value than those of earlier days, 0 = it is not.

    To be called at the first row of a part of the day, before the part begins.
    """
    before = np.int64(state["hour"][r])
    if before != 255 and state["visits"][r] > np.uint16(0) and np.int64(state["known"][r]) >> before & 1 == 1:
        distance = learn_distance(state, r, before, 24.0 / HOURS_LIGHT)
        days = int(now[ROW] * now[SPACING] / DAY_S) - 1  # the first one has no expected values
        compare_distance(state, r, distance, np.float64(state["furthest"][r]), days, 24.0 / HOURS_LIGHT, now)
        state["today"][r] = max(state["today"][r], np.float32(distance))
    passed = max(0.0, now[ELAPSED]) // DAY_S + (1.0 if now[HOUR] < before else 0.0)  # midnights
    if passed > 0.0 and before != 255:
        kept = np.float64(state["furthest"][r]) * 0.5 ** (passed / FURTHEST_DAYS)
        state["furthest"][r] = np.float32(max(kept, np.float64(state["today"][r])))
        state["today"][r] = np.float32(0.0)


@kernel(void(LIGHTS, int64, F64), borrows=True)
def expect_by_hour(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Expected value at this time of the day: learned once per visit, read with interpolation."""
    phase = (state["t"][r] % DAY_S) * (HOURS_LIGHT / DAY_S)
    b = max(0, min(HOURS_LIGHT - 1, int(phase)))
    before, known = np.int64(state["hour"][r]), np.int64(state["known"][r])
    now[HOUR], now[NEW_HOUR] = b, 0.0
    if b != before:
        now[NEW_HOUR], now[DRIFT], now[NOISE] = 1.0, 0.0, 0.0
        judge_drift(state, r, now)
        if before != 255 and state["visits"][r] > np.uint16(0):
            mean = np.float64(state["visit"][r])
            if known >> before & 1 == 0:
                state["expected"][r, before] = np.float32(mean)
                known |= 1 << before
                state["known"][r] = np.uint16(known)
            else:
                weight = max(_VISIT_WEIGHT, min(0.5, DAY_S / max(1.0, now[ROW] * now[SPACING])))
                old = np.float64(state["expected"][r, before])
                state["expected"][r, before] = np.float32(old + weight * (mean - old))
        state["visit"][r], state["visits"][r], state["hour"][r] = np.float32(0.0), np.uint16(0), np.uint8(b)
    visits = np.float64(state["visits"][r]) + 1.0
    if visits < 60_000.0:
        state["visits"][r] = np.uint16(visits)
    mean = np.float64(state["visit"][r])
    state["visit"][r] = np.float32(mean + (now[INPUT] - mean) / visits)
    off = phase - b - 0.5
    beside = (b + 1) % HOURS_LIGHT if off > 0.0 else (b + HOURS_LIGHT - 1) % HOURS_LIGHT
    now[USUAL_NOW] = now[LEVEL]
    if known >> b & 1 == 1:
        here = np.float64(state["expected"][r, b])
        if known >> beside & 1 == 1:
            here += abs(off) * (np.float64(state["expected"][r, beside]) - here)
        now[USUAL_NOW] = here


@kernel(float64(LIGHTS, int64, F64), borrows=True)
def compare_views(state: Channels, r: int, now: npt.NDArray[np.float64]) -> float:
    """Compare each view with its usual size and learn it; set SURPRISE and its cause; the mean of e^4 / E e^4."""
    stored, row, lengths = state["stored"], now[ROW], now[LENGTHS]
    share, quanta = FLOOR_SHARE * np.float64(state["size"][r]), FLOOR_QUANTA * now[QUANTUM]
    floor_row = max(share, quanta) ** 2 + FLOOR_MIN
    floor_smooth = max(share, 0.5 * quanta) ** 2 + FLOOR_MIN
    memory = max(300.0, MEMORY_ROWS * lengths)
    by_hour = 2.0 ** (np.float64(state["factor"][r, int(now[HOUR])]) * 0.125)
    counter = state["mode"][r] == np.uint8(1)
    best = ratios = judged = 0.0
    for j in range(VIEWS_LIGHT):
        kind = _INPUT[j]
        if kind == CHANGE and now[GAP] > 0.0:
            continue
        u = input_of(kind, now)
        rows = max(1.0, _FAST[j] * lengths) if _FAST[j] > 1.0 else 1.0
        fast = u
        if _AT_FAST[j] >= 0:
            fast = np.float64(stored[r, _AT_FAST[j]])
            fast = fast + max(1.0 / rows, 1.0 / (row + 1.0)) * (u - fast) if rows > 1.0 and row > 0.0 else u
            stored[r, _AT_FAST[j]] = np.float32(fast)
        mean = np.float64(stored[r, _AT_MEAN[j]])
        if _SLOW[j] > 0.0:
            mean = u if row == 0.0 else mean + max(1.0 / (_SLOW[j] * lengths), 1.0 / (row + 1.0)) * (u - mean)
        elif row < rows:
            mean = fast
        e = fast - mean
        age = row - rows
        if age >= 0.0:
            w = np.float64(stored[r, _AT_USUAL[j]])
            fourth = w * w
            floor = floor_smooth if _FAST[j] > 1.0 else floor_row
            if counter and _FAST[j] > 1.0:  # one step of a counter is a rate for one row
                floor = max(share, 0.5 * quanta / rows) ** 2 + FLOOR_MIN
            usual = np.sqrt(max(fourth * by_hour * (1.0 + LEARN_ROWS / (age + 1.0)), floor * floor))
            square = e * e
            ratio = square / usual
            if age > WARM_ROWS and _WEIGHT[j] * _WEIGHT[j] * ratio > best:
                best = _WEIGHT[j] * _WEIGHT[j] * ratio
                now[BEST], now[SCALE] = e, np.sqrt(usual)
                explain_view(kind, now)
            if age > WARM_ROWS and ratio > CLIP * CLIP:
                square *= CLIP * CLIP / ratio
                e *= CLIP / np.sqrt(ratio)
            weight = max(1.0 / memory, 1.0 / (age + 1.0))
            if _SLOW[j] == 0.0:
                mean += weight * e
            if fourth > 0.0 and age > WARM_ROWS:
                ratios += square * square / fourth
                judged += 1.0
            stored[r, _AT_USUAL[j]] = np.float32(np.sqrt(fourth + weight * (square * square - fourth)))
        stored[r, _AT_MEAN[j]] = np.float32(mean)
    now[SURPRISE] = np.sqrt(best)
    return ratios / judged if judged > 0.0 else -1.0


@kernel(void(LIGHTS, int64, float64, F64), borrows=True)
def learn_factor(state: Channels, r: int, ratio: float, now: npt.NDArray[np.float64]) -> None:
    """Learn the factor of this part of the day: an EWMA of e^4 / E e^4, at least 1, stored as log2 in eighths.

    The row number dithers the rounding, otherwise slow changes would be lost.
    """
    if ratio < 0.0 or now[ROW] <= WARM_ROWS:
        return
    at = int(now[HOUR])
    factor = 2.0 ** (np.float64(state["factor"][r, at]) * 0.125)
    factor += min(0.5, now[SPACING] / DAY_MEMORY_S) * (ratio - factor)
    dither = np.float64(np.int64(now[ROW]) * 2_654_435_761 & 0xFFFF) / 65_536.0
    state["factor"][r, at] = np.uint8(min(255.0, np.floor(np.log2(max(1.0, factor)) * 8.0 + dither)))


@kernel(void(LIGHTS, int64, F64), borrows=True)
def report_light(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Report a surprise only if it exceeds a leaky memory of the last ones, so that one change is reported once."""
    rows = max(_MIN_ROWS, min(_REPORT_ROWS * now[LENGTHS], now[ROW] / _RAMP))
    recent = np.float64(state["recent"][r]) * (1.0 - _LEAK / rows)
    now[REPORT] = 0.0
    if now[SURPRISE] > recent:
        now[REPORT] = recent = now[SURPRISE]
    state["recent"][r] = np.float32(recent)


@kernel(void(LIGHTS, int64, float64, float64, int64, float64, F64), borrows=True)
def score_light(
    state: Channels, r: int, t: float, x: float, by_rows: int, threshold: float, now: npt.NDArray[np.float64]
) -> None:
    """Score and learn one value of channel ``r`` at ``t`` (s since the epoch): SURPRISE, REPORT and CAUSE of ``now``.

    Parameters
    ----------
    x : float
        If it is not finite, nothing is scored or learned.
    by_rows : int
        1: lengths are in rows, regardless of the time between them (for payload sizes).
    threshold : float
        REPORTs of at least this are flags, if earlier ones were clearly smaller.
    now : float64 [NOW], out
    """
    now[SURPRISE] = now[REPORT] = now[CAUSE] = 0.0
    if not np.isfinite(x) or begin_row(state, r, t, min(max(x, -MAX_VALUE), MAX_VALUE), by_rows, now) == 0:
        return
    if observe_step(state, r, min(max(x, -MAX_VALUE), MAX_VALUE), now) == 1:
        forget_light(state, r)
    if choose_input(state, r, now) == 0:
        return
    expect_by_hour(state, r, now)
    ratio = compare_views(state, r, now)
    learn_factor(state, r, ratio, now)
    keep_level(state, r, now)
    rare = RARE * rarity(state, r, 0, now[INPUT])
    if now[ROW] > WARM_ROWS and rare > now[SURPRISE]:
        now[SURPRISE], now[CAUSE], now[EXPECTED] = rare, _RARE, now[LEVEL]
        now[SCALE] = abs(now[INPUT] - now[LEVEL]) / rare
    report_light(state, r, now)
    decide_flag(state, r, threshold, now)
    if now[CAUSE] > 0.0 or now[NEW_HOUR] > 0.0:
        report_slow_changes(state, r, HOURS_LIGHT, now)
    count_flag(state, r, now)
