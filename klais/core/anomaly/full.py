"""The full tier: nine views of a series in 1,384 bytes, with a usual size for each view and each hour of the day."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import (
    BEFORE,
    BEST,
    BLOCKS,
    CAUSE,
    CHANGE,
    CLIP,
    DAY_MEMORY_S,
    DAY_S,
    DAYS,
    DEVIATION,
    DISTANCE,
    DRIFT,
    ELAPSED,
    EXPECTED,
    FLOOR_MIN,
    FLOOR_QUANTA,
    FLOOR_SHARE,
    FULLS,
    GAP,
    HOUR,
    HOURS,
    INPUT,
    LEARN_ROWS,
    LENGTHS,
    LEVEL,
    LEVELS,
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
    STEPS,
    SURPRISE,
    USUAL_NOW,
    VALUE,
    VIEWS,
    WARM_ROWS,
    WILDEST,
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

# One view per row: input, smoothing length in rows (of 300 s), length of the slow mean that it is compared with, in
# rows (0: the long-run mean), weight. Chosen on NAB's development files and their resampled copies.
_INPUT = np.array([VALUE, VALUE, VALUE, RESIDUAL, RESIDUAL, RESIDUAL, DEVIATION, CHANGE, CHANGE])
_FAST = np.array([1.0, 3.0, 6.0, 1.0, 6.0, 96.0, 48.0, 3.0, 1.0])
_SLOW = np.array([300.0, 300.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
_WEIGHT = np.array([0.6, 0.8, 0.8, 0.7, 0.8, 0.88, 0.9, 0.6, 0.5])
_REPORT_ROWS, _RAMP, _MIN_ROWS = 96.0, 32.0, 12.0  # memory of past reports
_VISIT_WEIGHT = 0.05
NOISE_FACTOR = 1.35  # times the mean root of the steps: 1.8 times the steps, and more where an hour has few rows
NOISE_DAYS, NOISE_ROWS = 3, 4.0  # days to compare an hour with, rows that it needs
MIN_LARGEST = 1e-36  # of a day with rows
_RARE = float(Cause.RARE)


@kernel(void(FULLS, int64), borrows=True)
def forget_full(state: Channels, r: int) -> None:
    """Restart the series with another input; quantum, steps and runs of the value stay."""
    state["rows"][r], state["hour"][r], state["visits"][r] = np.uint32(1), np.uint8(255), np.uint16(0)
    state["size"][r] = state["level"][r] = state["recent"][r] = state["block"][r] = np.float32(0.0)
    for b in range(LEVELS):
        state["levels"][r, 0, b] = state["levels"][r, 1, b] = np.uint16(0)
    for b in range(BLOCKS):
        state["ring"][r, b] = np.float32(0.0)
    state["change"][r] = state["distance"][r] = np.float32(0.0)
    for d in range(DAYS):
        state["largest"][r, STEPS, d] = state["largest"][r, DISTANCE, d] = np.float32(0.0)
    for b in range(HOURS):
        state["expected"][r, b], state["known"][r, b] = np.float32(0.0), np.uint8(0)
    for j in range(VIEWS):
        state["fast"][r, j] = state["slow"][r, j] = state["mean"][r, j] = state["usual"][r, j] = np.float32(0.0)
        for b in range(HOURS):
            state["usual_by_hour"][r, j, b] = np.float32(0.0)


@kernel(void(FULLS, int64, F64), borrows=True)
def expect_by_hour(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Expected value at this time of the day: learned once per visit, read with interpolation."""
    phase = (state["t"][r] % DAY_S) * (HOURS / DAY_S)
    b = max(0, min(HOURS - 1, int(phase)))
    before = np.int64(state["hour"][r])
    now[HOUR], now[NEW_HOUR] = b, 1.0 if b != before else 0.0
    if b != before:
        if before != 255 and state["visits"][r] > np.uint16(0):
            count = min(250, int(state["known"][r, before]) + 1)
            state["known"][r, before] = np.uint8(count)
            old = np.float64(state["expected"][r, before])
            weight = max(_VISIT_WEIGHT, 1.0 / count)
            state["expected"][r, before] = np.float32(old + weight * (np.float64(state["visit"][r]) - old))
        state["visit"][r], state["visits"][r], state["hour"][r] = np.float32(0.0), np.uint16(0), np.uint8(b)
    visits = np.float64(state["visits"][r]) + 1.0
    if visits < 60_000.0:
        state["visits"][r] = np.uint16(visits)
    mean = np.float64(state["visit"][r])
    state["visit"][r] = np.float32(mean + (now[INPUT] - mean) / visits)
    off = phase - b - 0.5
    beside = (b + 1) % HOURS if off > 0.0 else (b + HOURS - 1) % HOURS
    now[USUAL_NOW] = now[LEVEL]
    if state["known"][r, b] > np.uint8(0):
        here = np.float64(state["expected"][r, b])
        if state["known"][r, beside] > np.uint8(0):
            here += abs(off) * (np.float64(state["expected"][r, beside]) - here)
        now[USUAL_NOW] = here


@kernel((FULLS, int64, int64, int64), borrows=True)
def largest_before(state: Channels, r: int, which: int, today: int) -> tuple[float, int]:
    """The largest hour of the seven days before ``today``, and the number of these days that are known."""
    largest, days = 0.0, 0
    for d in range(DAYS):
        if d != today % DAYS and state["largest"][r, which, d] > np.float32(0.0):
            largest = max(largest, np.float64(state["largest"][r, which, d]))
            days += 1
    return largest, days


@kernel(void(FULLS, int64, int64, int64, float64), borrows=True)
def keep_largest(state: Channels, r: int, which: int, today: int, value: float) -> None:
    """Learn an hour of ``today``."""
    kept = max(np.float64(state["largest"][r, which, today % DAYS]), value, MIN_LARGEST)  # 0 is a day without rows
    state["largest"][r, which, today % DAYS] = np.float32(kept)


@kernel(void(FULLS, int64, int64, F64), borrows=True)
def judge_noise(state: Channels, r: int, today: int, now: npt.NDArray[np.float64]) -> None:
    """NOISE where the steps of the hour that has ended exceed those of each hour of the last seven days; learns them.

    The mean is that of roots, so that a single spike or switch hardly counts.
    """
    rows, mean = np.float64(state["visits"][r]), np.float64(state["change"][r])
    if rows < NOISE_ROWS:
        return
    largest, days = largest_before(state, r, STEPS, today)
    floor = np.sqrt(max(FLOOR_SHARE * np.float64(state["size"][r]), FLOOR_QUANTA * now[QUANTUM]))
    wildest = max(largest, floor)
    if days >= NOISE_DAYS and mean > NOISE_FACTOR * (1.0 + 1.0 / rows) * wildest:
        now[NOISE], now[WILDEST] = mean * mean, wildest * wildest
    keep_largest(state, r, STEPS, today, mean)


@kernel(void(FULLS, int64, int64, F64), borrows=True)
def judge_drift(state: Channels, r: int, today: int, now: npt.NDArray[np.float64]) -> None:
    """DRIFT where the last hours are much further from the expected value than any hours of the last seven days."""
    before = np.int64(state["hour"][r])
    if before == 255 or state["visits"][r] == np.uint16(0) or state["known"][r, before] == np.uint8(0):
        return
    distance = learn_distance(state, r, before, 1.0)
    largest, days = largest_before(state, r, DISTANCE, today)
    compare_distance(state, r, distance, largest, days, 1.0, now)
    keep_largest(state, r, DISTANCE, today, distance)


@kernel(void(FULLS, int64, F64), borrows=True)
def judge_hour(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """At the first row of an hour, judge the one that has ended: NOISE and DRIFT, 0 = none; learn the row's step.

    To be called before the new hour begins.
    """
    now[NOISE] = now[DRIFT] = 0.0
    t = state["t"][r]
    rows: float = np.float64(state["visits"][r])
    mean: float = np.float64(state["change"][r])
    b, before = min(HOURS - 1, int(t % DAY_S * (HOURS / DAY_S))), np.int64(state["hour"][r])
    if b != before:
        day = np.int64(t // DAY_S)
        today = np.int64((t - max(0.0, now[ELAPSED])) // DAY_S)
        if b < before and today == day:  # the first row of the day was the reset of a counter
            today -= 1
        judge_noise(state, r, today, now)
        judge_drift(state, r, today, now)
        for d in range(max(today + 1, day - DAYS + 1), day + 1):
            state["largest"][r, STEPS, d % DAYS] = state["largest"][r, DISTANCE, d % DAYS] = np.float32(0.0)
        mean = rows = 0.0
    if now[GAP] == 0.0:
        mean += (np.sqrt(abs(now[INPUT] - now[BEFORE])) - mean) / (rows + 1.0)
    state["change"][r] = np.float32(mean)


@kernel(float64(FULLS, int64, int64, float64, F64), borrows=True)
def distance(state: Channels, r: int, j: int, u: float, now: npt.NDArray[np.float64]) -> float:
    """Distance of a view, smoothed, from its slow or its long-run mean; learns the smoothed input and the slow mean."""
    row, lengths = now[ROW], now[LENGTHS]
    rows = max(1.0, _FAST[j] * lengths) if _FAST[j] > 1.0 else 1.0
    fast = u
    if rows > 1.0 and row > 0.0:
        fast = np.float64(state["fast"][r, j])
        fast += max(1.0 / rows, 1.0 / (row + 1.0)) * (u - fast)
    state["fast"][r, j] = np.float32(fast)
    if _SLOW[j] > 0.0:
        slow = u
        if row > 0.0:
            slow = np.float64(state["slow"][r, j])
            slow += max(1.0 / (_SLOW[j] * lengths), 1.0 / (row + 1.0)) * (u - slow)
        state["slow"][r, j] = np.float32(slow)
        return float(fast - slow)
    if row < rows:
        state["mean"][r, j] = np.float32(fast)
    return float(fast - np.float64(state["mean"][r, j]))


@kernel(void(FULLS, int64, F64), borrows=True)
def compare_views(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Compare each view with its usual size, overall and at this hour, and learn it; set SURPRISE and its cause."""
    row, b = now[ROW], int(now[HOUR])
    share, quanta = FLOOR_SHARE * np.float64(state["size"][r]), FLOOR_QUANTA * now[QUANTUM]
    floor_row = max(share, quanta) ** 2 + FLOOR_MIN
    floor_smooth = max(share, 0.5 * quanta) ** 2 + FLOOR_MIN
    memory = max(300.0, MEMORY_ROWS * now[LENGTHS])
    by_hour = min(0.5, now[SPACING] / DAY_MEMORY_S)
    counter = state["mode"][r] == np.uint8(1)
    best = 0.0
    for j in range(VIEWS):
        kind = _INPUT[j]
        if kind == CHANGE and now[GAP] > 0.0:
            continue
        e = distance(state, r, j, input_of(kind, now), now)
        age = row - (max(1.0, _FAST[j] * now[LENGTHS]) if _FAST[j] > 1.0 else 1.0)
        if age < 0.0:
            continue
        w, w_hour = np.float64(state["usual"][r, j]), np.float64(state["usual_by_hour"][r, j, b])
        floor = floor_smooth if _FAST[j] > 1.0 else floor_row
        if counter and _FAST[j] > 1.0:  # one step of a counter is a rate for one row
            floor = max(share, 0.5 * quanta / max(1.0, _FAST[j] * now[LENGTHS])) ** 2 + FLOOR_MIN
        fourth, fourth_hour = w * w, w_hour * w_hour
        usual = np.sqrt(max(max(fourth, fourth_hour) * (1.0 + LEARN_ROWS / (age + 1.0)), floor * floor))
        square = e * e
        ratio = square / usual
        if age > WARM_ROWS:
            weighted = _WEIGHT[j] * _WEIGHT[j] * ratio
            if weighted > best:
                best = weighted
                now[BEST], now[SCALE] = e, np.sqrt(usual)
                explain_view(kind, now)
            if ratio > CLIP * CLIP:
                square *= CLIP * CLIP / ratio
                e *= CLIP / np.sqrt(ratio)
        weight = max(1.0 / memory, 1.0 / (age + 1.0))
        if _SLOW[j] == 0.0:
            state["mean"][r, j] += np.float32(weight * e)
        power = square * square
        state["usual"][r, j] = np.float32(np.sqrt(fourth + weight * (power - fourth)))
        state["usual_by_hour"][r, j, b] = np.float32(np.sqrt(fourth_hour + by_hour * (power - fourth_hour)))
    now[SURPRISE] = np.sqrt(best)


@kernel(void(FULLS, int64, F64), borrows=True)
def report_full(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Report a surprise only if it exceeds all recent ones, stored as a ring with the largest of each block."""
    rows = max(_MIN_ROWS, min(_REPORT_ROWS * now[LENGTHS], now[ROW] / _RAMP))
    size = max(1.0, _REPORT_ROWS * now[LENGTHS] / BLOCKS)
    block, recent = float(state["block"][r]) + 1.0, float(state["recent"][r])
    place = np.int64(state["place"][r])
    if block >= size:
        state["ring"][r, place] = np.float32(recent)
        place = (place + 1) % BLOCKS
        state["place"][r] = np.uint8(place)
        recent = block = 0.0
    state["block"][r] = np.float32(block)
    now[REPORT] = 0.0
    if now[SURPRISE] > recent:
        largest = 0.0
        for j in range(BLOCKS):
            if j > 0 and (j + 1) * size > rows:
                break
            largest = max(largest, np.float64(state["ring"][r, (place - 1 - j) % BLOCKS]))
        if now[SURPRISE] > largest:
            now[REPORT] = now[SURPRISE]
        recent = now[SURPRISE]
    state["recent"][r] = np.float32(recent)


@kernel(void(FULLS, int64, float64, float64, int64, float64, F64), borrows=True)
def score_full(
    state: Channels, r: int, t: float, x: float, by_rows: int, threshold: float, now: npt.NDArray[np.float64]
) -> None:
    """Score and learn one value of channel ``r``; as :func:`klais.core.anomaly.light.score_light`."""
    now[SURPRISE] = now[REPORT] = now[CAUSE] = 0.0
    if not np.isfinite(x) or begin_row(state, r, t, min(max(x, -MAX_VALUE), MAX_VALUE), by_rows, now) == 0:
        return
    if observe_step(state, r, min(max(x, -MAX_VALUE), MAX_VALUE), now) == 1:
        forget_full(state, r)
    if choose_input(state, r, now) == 0:
        return
    judge_hour(state, r, now)
    expect_by_hour(state, r, now)
    compare_views(state, r, now)
    keep_level(state, r, now)
    rare = rarity(state, r, 0, now[INPUT])
    rare = RARE * max(rare, rarity(state, r, 1, now[INPUT] - np.float64(state["slow"][r, 0])))
    if now[ROW] > WARM_ROWS and rare > now[SURPRISE]:
        now[SURPRISE], now[CAUSE], now[EXPECTED] = rare, _RARE, now[LEVEL]
        now[SCALE] = abs(now[INPUT] - now[LEVEL]) / rare
    report_full(state, r, now)
    decide_flag(state, r, threshold, now)
    if now[CAUSE] > 0.0 or now[NEW_HOUR] > 0.0:
        report_slow_changes(state, r, HOURS, now)
    count_flag(state, r, now)
