"""What a new value shows before its views are judged: a counter, a stuck run, first zeros, a value far out of range."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import (
    BEFORE,
    BEYOND,
    DAY_S,
    DECIMALS,
    ELAPSED,
    FULLS,
    LIGHTS,
    ONE_ZERO,
    QUANTUM,
    SPACING,
    STEP,
    STUCK,
    WARM_ROWS,
    ZERO,
    ZEROS,
    Channels,
)
from klais.jit.kernel import F64, float64, int64, kernel, void

# A run is a stuck sensor if it is so many times longer than usual (4th moment), and than the longest of the last days.
STUCK_FACTOR, STUCK_LONGEST, STUCK_COUNTER_LONGEST = 12.0, 1.5, 2.0
END_STOP_FACTOR = 2.5  # additional factor at the lowest or highest value so far, where a value rests
RUN_HALF_LIFE_S = 7 * 86_400.0  # the longest run halves in this time
COUNTER_STEPS = 40  # steps before a series can be classified as a counter
MAX_RUN = 65_000
ZERO_RUN = 2  # the third zero in a row is flagged, if no value was near 0:
ZERO_QUANTA, ZERO_SHARE = 3.0, 0.005  # within 3 quanta, or within 0.5 % of the largest value
# A value that leaves the range of its series by more than this many ranges is flagged, after days and rows enough.
BEYOND_RANGES, BEYOND_DAYS, BEYOND_ROWS = 1.0, 2.0, 500.0


@kernel([float64(of, int64, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def longest_run(state: Channels, r: int, run: int, limit: float, now: npt.NDArray[np.float64]) -> float:
    """Rows that a run of equal values may have: ``limit``, or more at values where the series rests.

    A closed valve, a solar panel at night, a counter at the weekend: a series rests at an end of its range far longer
    than a working sensor repeats a value. Until a run begins that is not on the first day, any run may be the first
    night.
    """
    counter, x = state["mode"][r] == np.uint8(1), np.float32(state["x"][r])
    at_end = not counter and (x <= state["low"][r, 0] or x >= state["high"][r, 0])
    if at_end:
        limit *= END_STOP_FACTOR
    if at_end or counter:
        spacing, age_s = max(now[SPACING], 1e-9), state["t"][r] - np.float64(state["began_s"][r])
        if age_s - run * spacing < DAY_S:
            limit = max(limit, DAY_S / spacing)
    return float(limit)


@kernel([void(of, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def observe_run(state: Channels, r: int, step: float, now: npt.NDArray[np.float64]) -> None:
    """Learn the length of a run of equal values when it ends; set STUCK if a run is much longer than any before."""
    run, elapsed = int(state["run"][r]), now[ELAPSED]
    changes = np.int64(state["up"][r]) + np.int64(state["down"][r])
    usual, longest = np.float64(state["run_size"][r]), np.float64(state["longest"][r])
    now[STUCK] = 0.0
    if longest > 0.0 and elapsed > 0.0:
        longest *= 1.0 - min(0.5, 0.6931 * elapsed / RUN_HALF_LIFE_S)
    if step > 0.0:
        longest = max(longest, np.float64(run))
        square = (run + 1.0) * (run + 1.0)
        usual = np.sqrt(usual * usual + max(0.002, 1.0 / (changes + 1.0)) * (square * square - usual * usual))
        state["run_size"][r], state["run"][r] = np.float32(usual), np.uint16(0)
    else:
        state["run"][r] = np.uint16(min(run + 1, MAX_RUN))
        if changes >= 30:
            longer = STUCK_COUNTER_LONGEST if state["mode"][r] == np.uint8(1) else STUCK_LONGEST
            limit = longest_run(state, r, run, max(STUCK_FACTOR * np.sqrt(usual), longer * longest), now)
            if run + 2 > limit and run + 1 <= limit:
                now[STUCK] = 1.0
    state["longest"][r] = np.float32(longest)


@kernel([void(of, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def observe_zero(state: Channels, r: int, x: float, now: npt.NDArray[np.float64]) -> None:
    """Set ZERO at the third zero in a row of a value that was never near 0: a broken sensor often sends zeros.

    To be called before the range of the series includes this row. Once zeros were seen, they are usual.
    """
    now[ZERO] = 0.0
    traits = int(state["traits"][r])
    zeros = traits & ZEROS
    if x != 0.0 or zeros == ZEROS:
        return
    zeros += ONE_ZERO
    age_s = state["t"][r] - np.float64(state["began_s"][r])
    if state["mode"][r] == np.uint8(1) or state["rows"][r] <= np.uint32(WARM_ROWS) or age_s < DAY_S:
        zeros = ZEROS
    elif zeros == ONE_ZERO:
        low, high = np.float64(state["low"][r, 0]), np.float64(state["high"][r, 0])
        near = max(ZERO_QUANTA * np.float64(state["quantum"][r]), ZERO_SHARE * max(abs(low), abs(high)))
        if low <= near and high >= -near:
            zeros = ZEROS
    elif zeros == ZEROS and state["run"][r] >= np.uint16(ZERO_RUN):
        now[ZERO] = 1.0
    state["traits"][r] = np.uint8(traits & DECIMALS | zeros)


@kernel([void(of, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def observe_range(state: Channels, r: int, x: float, now: npt.NDArray[np.float64]) -> None:
    """Set BEYOND if the value leaves the range of the series by more than that range.

    To be called before the range of the series includes this row.
    """
    now[BEYOND] = 0.0
    low, high = np.float64(state["low"][r, 0]), np.float64(state["high"][r, 0])
    age_s = state["t"][r] - np.float64(state["began_s"][r])
    if state["mode"][r] == np.uint8(1) or high <= low or state["rows"][r] < BEYOND_ROWS or age_s < BEYOND_DAYS * DAY_S:
        return
    if max(x - high, low - x) > BEYOND_RANGES * (high - low):
        now[BEYOND] = 1.0


@kernel([int64(of, int64, float64, F64) for of in (LIGHTS, FULLS)], borrows=True)
def observe_step(state: Channels, r: int, x: float, now: npt.NDArray[np.float64]) -> int:
    """Learn quantum and direction of the steps of a value; 1 if the series became a counter or ceased to be one."""
    before = state["x"][r]
    step = x - before
    size = abs(step)
    state["x"][r] = x
    observe_run(state, r, size, now)
    observe_zero(state, r, x, now)
    observe_range(state, r, x, now)
    if x != np.floor(x):
        state["traits"][r] |= np.uint8(DECIMALS)
    quantum = np.float64(state["quantum"][r])
    if size > 0.0:
        coarsest = min(size, 0.01 * max(abs(x), abs(before)))
        quantum = coarsest if quantum == 0.0 else min(quantum * 1.0005, coarsest)
        if state["traits"][r] & np.uint8(DECIMALS) == np.uint8(0):
            quantum = max(quantum, 1.0)
        state["quantum"][r] = np.float32(quantum)
        if step > 0.0:
            state["up"][r] += np.uint16(1)
        else:
            state["down"][r] += np.uint16(1)
        if state["up"][r] > np.uint16(2000) or state["down"][r] > np.uint16(2000):
            state["up"][r] >>= np.uint16(1)
            state["down"][r] >>= np.uint16(1)
    up, down = np.int64(state["up"][r]), np.int64(state["down"][r])
    mode = int(state["mode"][r])
    wanted = mode
    if up + down >= COUNTER_STEPS:
        if down * 200 <= up:
            wanted = 1
        elif down * 50 > up:
            wanted = 0
    now[STEP], now[QUANTUM], now[BEFORE] = step, quantum, before
    state["mode"][r] = np.uint8(wanted)
    return 1 if wanted != mode else 0
