"""The state of one scored series (a *channel*: one device, one field) in two tiers, and code that both tiers share.

``LIGHT`` (264 bytes) has one shared factor for each hour of the day, one histogram of levels and a leaky memory of its
reports. ``FULL`` (1,384 bytes) has a usual size of each view by hour, a second histogram, and a ring of reports.
Scoring takes constant time and never reads later values. Kernels pass intermediate results to each other in ``now``
(float64 [NOW]); its indices are defined here.

Sizes are stored as squares, ``w = sqrt(E e^4)``, so that float32 can represent them. The *usual size* of a deviation is
``sqrt(w)``, the 4th root of the running 4th moment. By Markov's inequality at most one row in s^4 is s times as large,
whatever the distribution: a device that spikes regularly needs a bigger spike.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.record import COUNTER, Cause
from klais.jit.kernel import F64, float64, int64, kernel, record, void

HOURS, HOURS_LIGHT = 24, 16  # parts of the day of each tier
LEVELS = 8  # levels of the running range
BLOCKS = 12  # blocks in the ring of reports, full tier
VIEWS, VIEWS_LIGHT = 9, 6  # views of the series, see full.py and light.py
DAYS = 8  # days whose largest hours the full tier remembers, today included
STEPS, DISTANCE = 0, 1  # what is largest: the steps of an hour, the distance from the usual value
STORED_LIGHT = 16  # floats stored for the light views

_COMMON = [
    ("t", "<f8"),  # time of the newest row, s since the epoch
    ("x", "<f8"),  # its value
    ("rows", "<u4"),  # rows since the series began or changed its mode
    ("owner", "<i4"),  # row of the device, -1 = free
    ("following", "<i4"),  # next channel of the same device, -1 = none; for a free channel, the next free one
    ("began_s", "<u4"),  # time of the first row, s since the epoch
    ("spacing", "<f4"),  # mean seconds between rows; a gap counts as short
    ("size", "<f4"),  # mean |input|
    ("quantum", "<f4"),  # smallest usual step of the value
    ("level", "<f4"),  # slow mean of the input (for a counter, its newest rate)
    ("visit", "<f4"),  # mean input in this part of the day so far
    ("run_size", "<f4"),  # sqrt of the mean 4th power of the lengths of runs of equal values
    ("longest", "<f4"),  # longest recent run of this kind, in rows
    ("recent", "<f4"),  # largest recent surprise: only a larger one is reported
    ("peak", "<f4"),  # largest recent report: only one that clearly exceeds it is flagged
    ("up", "<u2"),  # recent steps upwards and downwards
    ("down", "<u2"),
    ("visits", "<u2"),  # rows in this part of the day so far
    ("run", "<u2"),  # rows since the value last changed
    ("feature", "u1"),
    ("mode", "u1"),  # 1: a counter, scored by its rate
    ("traits", "u1"),  # DECIMALS; ZEROS: rows with the value 0 in units of ONE_ZERO, or zeros are usual
    ("hour", "u1"),  # part of the day of the newest row, 255 = none yet
    ("latch", "u1"),  # parts of the day until a drift or noise is reported again
    ("flag_count", "u1"),  # flags so far, up to 255
]
LIGHT = np.dtype(
    [
        *_COMMON,
        ("known", "<u2"),  # bit b: part b of the day has an expected value
        ("levels", "<u2", (1, LEVELS)),
        ("low", "<f4", (1,)),
        ("high", "<f4", (1,)),
        ("expected", "<f4", (HOURS_LIGHT,)),
        ("stored", "<f4", (STORED_LIGHT,)),
        ("factor", "u1", (HOURS_LIGHT,)),  # log2 in eighths: how much larger deviations are in this part of the day
        ("distance", "<f4"),  # mean distance of the last parts of the day from the expected value
        ("today", "<f4"),  # the largest such distance of this day
        ("furthest", "<f4"),  # and of the days before; it halves in two weeks
    ],
    align=True,
)
FULL = np.dtype(
    [
        *_COMMON,
        ("known", "u1", (HOURS,)),  # visits of each part of the day
        ("place", "u1"),  # in the ring of reports
        ("pad", "u1"),
        ("levels", "<u2", (2, LEVELS)),
        ("low", "<f4", (2,)),
        ("high", "<f4", (2,)),
        ("expected", "<f4", (HOURS,)),
        ("block", "<f4"),  # rows in the newest block of the ring
        ("ring", "<f4", (BLOCKS,)),
        ("fast", "<f4", (VIEWS,)),
        ("slow", "<f4", (VIEWS,)),
        ("mean", "<f4", (VIEWS,)),
        ("usual", "<f4", (VIEWS,)),  # w of each view
        ("usual_by_hour", "<f4", (VIEWS, HOURS)),
        ("change", "<f4"),  # mean root of the steps in this part of the day so far
        ("distance", "<f4"),  # mean distance of the last hours from the expected value
        ("largest", "<f4", (2, DAYS)),  # STEPS, DISTANCE: the largest of each day, by its number modulo 8; 0 = none
    ],
    align=True,
)
LIGHTS, FULLS = record(LIGHT)[::1], record(FULL)[::1]
Channels = npt.NDArray[np.void]

# Indices in ``now``: first the row that is being scored, then the results.
ELAPSED, SPACING, GAP, LENGTHS, STEP, QUANTUM, INPUT, BEFORE, ROW, LEVEL, USUAL_NOW, HOUR, NEW_HOUR = range(13)
SURPRISE, REPORT, CAUSE, EXPECTED, SCALE, DRIFT, STUCK, BEST, NOISE, WILDEST, ZERO, BEYOND = range(13, 25)
NOW = 25

WARM_ROWS = 50.0  # rows before the first surprise
LEARN_ROWS = 300.0  # usual sizes count as larger while a series has few rows: 4th power times 1 + 300 / rows
MEMORY_ROWS = 5000.0  # rows (of 300 s) that usual sizes remember
DAY_MEMORY_S = 15_000.0  # seconds within a part of the day that its usual sizes remember
FLOOR_SHARE = 2e-5  # minimum usual size, as a share of the mean size of the value (float32 resolves 6e-8 of it)
FLOOR_QUANTA = 2.5  # and in quanta: a constant that moves by one step is not an event
FLOOR_MIN = 1e-36  # and of its square: nothing can be compared with a usual size of 0
CLIP = 20.0  # rows are learned with a deviation of at most this many usual sizes
RARE = 2.4  # surprise of a level never seen before
THRESHOLD = 5.0  # score of a flag, in usual sizes
YOUNG, YOUNG_S = 1.0, 2 * 86_400.0  # a new series has a threshold higher by this share, decreasing over this time
GUARD, GUARD_S = 1.2, 6 * 86_400.0  # a flag must exceed earlier reports by this factor; they halve in this time
HABIT, MAX_HABIT_FLAGS = 1.0, 4.0  # the factor grows by this for each earlier flag, up to this many flags
MIN_VALUE = 1e-18  # values nearer to 0 count as 0: squares below the normal range of floats are slow on CPUs
DECIMALS, ONE_ZERO, ZEROS = 1, 2, 6  # bits of the traits
MAX_VALUE = 1e18  # values further out are clipped: the square of a difference stays within float32
DAY_S = 86_400.0


_LEVEL, _HOUR, _JUMP, _STUCK, _RARE = map(float, (Cause.LEVEL, Cause.HOUR, Cause.JUMP, Cause.STUCK, Cause.RARE))
# The inputs of views: the value, the value minus its usual value at this time of the day, the size of the step, the
# size of the second difference.
VALUE, RESIDUAL, CHANGE, DEVIATION = range(4)


@kernel([int64(of, int64, float64, float64, int64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def begin_row(state: Channels, r: int, t: float, x: float, by_rows: int, now: npt.NDArray[np.float64]) -> int:
    """Write the time since the previous row and the factor of all lengths into ``now``; returns 0 for the first row."""
    n = np.int64(state["rows"][r])
    if n == 0:
        state["t"][r], state["x"][r], state["rows"][r], state["hour"][r] = t, x, np.uint32(1), np.uint8(255)
        if state["began_s"][r] == np.uint32(0):
            state["began_s"][r] = np.uint32(max(1.0, min(4e9, t)))
        return 0
    elapsed = t - state["t"][r]
    if elapsed < 0.0 and t < np.float64(state["began_s"][r]):  # the first row was from a clock in the future
        state["began_s"][r] = np.uint32(max(1.0, t))
    spacing, gap = np.float64(state["spacing"][r]), 0.0
    if elapsed > 0.0:
        counted = elapsed
        longest = 4.0 * spacing + 1e-9
        if n > 5 and elapsed > longest:
            gap = 1.0 if elapsed > 8.0 * spacing else 0.0
            counted = longest
        spacing += max(0.02, 1.0 / n) * (counted - spacing)
        state["spacing"][r] = np.float32(spacing)
    state["t"][r] = t
    now[ELAPSED], now[SPACING], now[GAP], now[LENGTHS] = elapsed, spacing, gap, 1.0
    if by_rows == 0 and spacing > 0.0:
        now[LENGTHS] = min(30.0, max(0.1, np.sqrt(300.0 / spacing)))
    return 1


@kernel([int64(of, int64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def choose_input(state: Channels, r: int, now: npt.NDArray[np.float64]) -> int:
    """Choose the input: the value, or the rate of a counter; 0 if there is none (a reset, two rows at one instant)."""
    now[INPUT] = state["x"][r]
    if state["mode"][r] == np.uint8(1):
        if now[ELAPSED] <= 0.0 or now[STEP] < 0.0:
            return 0
        now[INPUT] = min(now[STEP] / now[ELAPSED], MAX_VALUE)
        now[QUANTUM] /= max(now[SPACING], 1e-9)
        now[BEFORE] = np.float64(state["level"][r])
    rows = int(state["rows"][r])
    now[ROW] = np.float64(rows - 1)
    state["rows"][r] = np.uint32(min(rows + 1, 4_000_000_000))
    if rows == 1:
        state["level"][r], state["size"][r] = np.float32(now[INPUT]), np.float32(abs(now[INPUT]))
    now[LEVEL] = np.float64(state["level"][r]) if rows > 1 else now[INPUT]
    return 1


@kernel([float64(of, int64, int64, float64) for of in (LIGHTS, FULLS)], borrows=True)
def rarity(state: Channels, r: int, which: int, value: float) -> float:
    """Rarity of the level of ``value`` within the range so far, from 0 (the usual level) to 1 (never seen); learns
    the level."""
    x = np.float64(np.float32(value))
    counts, low, high = state["levels"], np.float64(state["low"][r, which]), np.float64(state["high"][r, which])
    total = 0.0
    for i in range(LEVELS):
        total += counts[r, which, i]
    if total == 0.0:
        low = high = x
    if x < low or x > high:  # the range grows: counts move to the new levels
        wider_low, wider_high = min(low, x), max(high, x)
        upwards = x < low
        for i in range(LEVELS):
            a = LEVELS - 1 - i if upwards else i
            middle = low + (a + 0.5) * (high - low) / LEVELS
            to = min(LEVELS - 1, int((middle - wider_low) / (wider_high - wider_low) * LEVELS))
            if to != a:
                counts[r, which, to] += counts[r, which, a]
                counts[r, which, a] = np.uint16(0)
        low, high = wider_low, wider_high
    state["low"][r, which], state["high"][r, which] = np.float32(low), np.float32(high)
    at = max(0, min(LEVELS - 1, int((x - low) / (high - low) * LEVELS))) if high > low else 0
    count = np.float64(counts[r, which, at])
    out = np.log((total + 2.0) / (count + 1.0)) / np.log(total + 2.0) if total > 20.0 else 0.0
    if count >= 60_000.0:
        for i in range(LEVELS):
            counts[r, which, i] >>= np.uint16(1)
    counts[r, which, at] += np.uint16(1)
    return float(out)


@kernel([void(of, int64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def keep_level(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Learn the slow mean of the input and of its size."""
    weight = 1.0 / (now[ROW] + 1.0)
    level, size = now[LEVEL], np.float64(state["size"][r])
    level += max(0.001, weight) * (now[INPUT] - level)
    state["level"][r] = np.float32(level if state["mode"][r] == np.uint8(0) else now[INPUT])
    state["size"][r] = np.float32(size + max(1.0 / MEMORY_ROWS, weight) * (abs(now[INPUT]) - size))


@kernel([void(of, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def decide_flag(state: Channels, r: int, threshold: float, now: npt.NDArray[np.float64]) -> None:
    """Flag a report that exceeds the threshold and the reports of recent days; a stuck run; first zeros; a far value.

    A series with a long tail keeps exceeding its own maximum, so each flag makes the next one harder.
    """
    peak = np.float64(state["peak"][r])
    if peak > 0.0 and now[ELAPSED] > 0.0:
        peak *= 1.0 - min(1.0, 0.6931 * now[ELAPSED] / GUARD_S)
    report, age_s = now[REPORT], state["t"][r] - np.float64(state["began_s"][r])
    wanted = threshold * (1.0 + YOUNG * min(1.0, max(0.0, 1.0 - age_s / YOUNG_S)))
    guard = GUARD * (1.0 + HABIT * min(MAX_HABIT_FLAGS, np.float64(state["flag_count"][r])))
    surprising = report >= wanted and report > guard * peak
    if report > 0.0:
        peak = max(peak, min(report, 50.0))
    state["peak"][r] = np.float32(peak)
    if not surprising:
        now[CAUSE] = 0.0
        if now[STUCK] > 0.0:
            now[CAUSE], now[EXPECTED] = _STUCK, now[BEFORE]
            now[SCALE] = np.sqrt(np.float64(state["run_size"][r])) * now[SPACING]
        elif now[ZERO] > 0.0 or now[BEYOND] > 0.0:
            now[CAUSE], now[EXPECTED], now[REPORT] = _RARE, now[LEVEL], max(report, threshold)
            now[SCALE] = abs(now[INPUT] - now[LEVEL]) / now[REPORT]
    elif now[INPUT] == 0.0:
        state["traits"][r] |= np.uint8(ZEROS)  # these zeros have their flag
    if now[CAUSE] > 0.0 and state["mode"][r] == np.uint8(1):
        now[CAUSE] += COUNTER


@kernel([void(of, int64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def count_flag(state: Channels, r: int, now: npt.NDArray[np.float64]) -> None:
    """Record that a row was flagged."""
    if now[CAUSE] > 0.0:
        state["flag_count"][r] = min(state["flag_count"][r], np.uint8(254)) + np.uint8(1)


@kernel(void(int64, F64), borrows=True, inlined=True)
def explain_view(kind: int, now: npt.NDArray[np.float64]) -> None:
    """CAUSE and EXPECTED of the view that deviates most; BEST is its signed distance from its mean."""
    if kind == VALUE:
        now[CAUSE], now[EXPECTED] = _LEVEL, now[INPUT] - now[BEST]
    elif kind == CHANGE:
        now[CAUSE], now[EXPECTED] = _JUMP, now[BEFORE]
    else:  # at a time of the day that is not known yet, the usual value is the level
        now[CAUSE], now[EXPECTED] = _HOUR if now[USUAL_NOW] != now[LEVEL] else _LEVEL, now[USUAL_NOW]


@kernel(float64(int64, F64), borrows=True, inlined=True)
def input_of(kind: int, now: npt.NDArray[np.float64]) -> float:
    """The input of a view of this kind in this row."""
    if kind == VALUE:
        return float(now[INPUT])
    if kind == RESIDUAL:
        return float(now[INPUT] - now[USUAL_NOW])
    if kind == CHANGE:
        return float(abs(now[INPUT] - now[BEFORE]))
    return float(abs(now[INPUT] - now[USUAL_NOW]))
