"""The rhythm of a device: its intervals, relative to its usual interval and to the rest of the fleet.

Three things are not anomalies of one device: a pause of all devices (the fleet's clock stops while no device sends), a
new rate of the whole fleet (the common change of log intervals is subtracted), and single losses (the median of three
counts). Devices that send faster than the scoring period are judged by the mean interval of a bucket, so a frame costs
one addition.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.gate import GATES, Gates
from klais.core.anomaly.record import Cause
from klais.jit.kernel import F64, float64, int64, kernel, void

# Indices in ``fleet`` (float64 [FLEET]): newest receive time and the clock (s), mean time step (s), number of steps,
# common change of the logarithm of intervals, frames in a row far behind the newest time.
NEWEST_S, CLOCK_S, STEP_S, STEPS, SHIFT, BEHIND = range(6)
FLEET = 6
# Indices in ``seen`` (float64 [SEEN]), for a flag of the rhythm: observed and expected interval (s), score, usual size.
INTERVAL_S, USUAL_S, SCORE, USUAL_SIZE = range(4)
SEEN = 4

FLEET_MIN = 8  # minimum number of devices in a fleet
MAX_ADVANCE_STEPS = 20.0  # mean time steps that the clock advances while no device sends
BEHIND_S, BEHIND_FRAMES = 60.0, 300.0  # so many frames in a row, so far behind: the clock was set back
SHIFT_GAIN, MAX_SHIFT = 10.0, 0.7  # how fast the common change follows: 10 times while all devices send once
WARM_BUCKETS, LEARN_BUCKETS = 12, 15.0
MEMORY_BUCKETS, SPREAD_BUCKETS = 300.0, 500.0
FLOOR, FLEET_FLOOR = 0.15, 0.1  # log: a change by 15 % scores 1; in a fleet the common part of the change is known
GAP4 = 6.0**4  # a silence is this many times the usual large interval, to the 4th power
GAP_MEMORY = 0.002
YOUNG_S, NIGHT_S = 86_400.0, 4 * 3600.0  # in the first day so long a silence may be the first night: it is learned only
CLIP = 3.0  # usual sizes: the furthest that a bucket is learned at, so that a change is flagged before it is learned
SETTLED_BUCKETS = 30.0  # the spread learns as if it had seen so many buckets more
THRESHOLD, GUARD, HALF_S = 5.0, 1.2, 3 * 86_400.0
_INTERVAL, _SILENCE = int(Cause.INTERVAL), int(Cause.SILENCE)
_MAX_BUCKETS = np.uint16(60_000)


@kernel(float64(F64, float64, int64), borrows=True, inlined=True)
def advance_clock(fleet: npt.NDArray[np.float64], t: float, devices: int) -> float:
    """The fleet's clock (s) at receive time ``t`` (s): it follows the time but stops while no device sends.

    One frame from an edge whose clock was wrong must not stop it until that time is reached: after ``BEHIND_FRAMES``
    frames in a row that are far behind the newest time, it follows theirs.
    """
    step = t - fleet[NEWEST_S]
    if step <= 0.0:
        fleet[BEHIND] = fleet[BEHIND] + 1.0 if step < -BEHIND_S else 0.0
        if fleet[BEHIND] >= BEHIND_FRAMES:
            fleet[NEWEST_S], fleet[BEHIND] = t, 0.0
        return float(fleet[CLOCK_S])
    fleet[BEHIND] = 0.0
    if fleet[STEPS] > 0.0:
        counted = step
        if fleet[STEPS] > 200.0 and devices >= FLEET_MIN:
            counted = min(step, MAX_ADVANCE_STEPS * fleet[STEP_S] + 1e-6)
        fleet[CLOCK_S] += counted
        fleet[STEP_S] += max(0.002, 1.0 / fleet[STEPS]) * (counted - fleet[STEP_S])
    fleet[STEPS] += 1.0
    fleet[NEWEST_S] = t
    return float(fleet[CLOCK_S])


@kernel(int64(GATES, int64, float64, float64, F64), borrows=True, inlined=True)
def judge_silence(gates: Gates, r: int, interval_s: float, period_s: float, seen: npt.NDArray[np.float64]) -> int:
    """SILENCE if an interval is far longer than the device's long ones and the longest lately; learns it."""
    fourth = interval_s * interval_s * interval_s * interval_s
    mean, longest = np.float64(gates["gap4"][r]), np.float64(gates["longest_s"][r])
    longest *= 1.0 - min(0.5, 0.6931 * interval_s / HALF_S)
    cause = 0
    more = 2.0 * (1.0 + np.float64(gates["rhythm_flag_count"][r]))  # a gap that was reported before is a habit
    if gates["buckets"][r] >= WARM_BUCKETS and fourth > GAP4 * mean and interval_s > more * longest:
        seen_s = np.float64(gates["buckets"][r]) * max(period_s, np.exp(np.float64(gates["usual"][r])))
        cause = _SILENCE if seen_s > YOUNG_S or interval_s < NIGHT_S else 0
        usual_s = np.sqrt(np.sqrt(mean))
        seen[INTERVAL_S], seen[USUAL_S], seen[USUAL_SIZE] = interval_s, usual_s, usual_s
        seen[SCORE] = 5.0 * interval_s / (6.0 * max(usual_s, 1e-3))
    weight = max(GAP_MEMORY, 1.0 / (np.float64(gates["buckets"][r]) + 1.0))
    gates["gap4"][r] = np.float32(min(mean + weight * (fourth - mean), 1e37))
    gates["longest_s"][r] = np.float32(max(longest, interval_s))
    return cause


@kernel(int64(GATES, int64, float64, float64, F64, int64, F64), borrows=True)
def judge_bucket(
    gates: Gates,
    r: int,
    mean_s: float,
    waited_s: float,
    fleet: npt.NDArray[np.float64],
    devices: int,
    seen: npt.NDArray[np.float64],
) -> int:
    """INTERVAL if a bucket's mean interval differs from the usual one by more than the common change; learns both."""
    y = np.log(max(mean_s, 1e-4))
    n = np.float64(gates["buckets"][r])
    shift = fleet[SHIFT] if devices >= FLEET_MIN else 0.0
    x = y - shift
    usual = np.float64(gates["usual"][r]) if n > 0.0 else x
    a, b = np.float64(gates["last"][r, 0]), np.float64(gates["last"][r, 1])
    middle = max(min(x, a), min(max(x, a), b)) if n > 1.0 else x
    gates["last"][r, 1], gates["last"][r, 0] = np.float32(a), np.float32(x)
    if devices >= FLEET_MIN:
        fleet[SHIFT] += min(MAX_SHIFT, max(-MAX_SHIFT, x - usual)) * min(0.5, SHIFT_GAIN / devices)
    e = middle - usual
    gates["usual"][r] = np.float32(usual + max(1.0 / MEMORY_BUCKETS, 1.0 / (n + 1.0)) * (x - usual))
    w = np.float64(gates["spread"][r])
    fourth = w * w
    floor = FLOOR if devices < FLEET_MIN else FLEET_FLOOR
    size = np.sqrt(np.sqrt(max(fourth * (1.0 + LEARN_BUCKETS / (n + 1.0)), floor * floor * floor * floor)))
    score = abs(e) / size
    e = min(max(e, -CLIP * size), CLIP * size)
    power = e * e * e * e
    gates["spread"][r] = np.float32(
        np.sqrt(fourth + max(1.0 / SPREAD_BUCKETS, 1.0 / (n + SETTLED_BUCKETS)) * (power - fourth))
    )
    if gates["buckets"][r] < _MAX_BUCKETS:
        gates["buckets"][r] += np.uint16(1)
    peak = np.float64(gates["peak"][r]) * (1.0 - min(1.0, 0.6931 * waited_s / HALF_S))
    is_flag = n >= WARM_BUCKETS and score >= THRESHOLD and score > GUARD * peak
    if n >= WARM_BUCKETS:
        peak = max(peak, min(score, 50.0))
    gates["peak"][r] = np.float32(peak)
    seen[INTERVAL_S], seen[USUAL_S] = np.exp(middle + shift), np.exp(usual + shift)
    seen[SCORE], seen[USUAL_SIZE] = score, size
    return _INTERVAL if is_flag else 0


@kernel(int64(GATES, int64, int64, float64, float64, F64, int64, F64), borrows=True, inlined=True)
def observe_rhythm(
    gates: Gates,
    r: int,
    known: int,
    clock_s: float,
    period_s: float,
    fleet: npt.NDArray[np.float64],
    devices: int,
    seen: npt.NDArray[np.float64],
) -> int:
    """Process a frame at ``clock_s`` (the fleet's clock); returns INTERVAL or SILENCE for a flag, else 0.

    ``known`` 0: the interval before this frame is not valid (the first frame, another edge, a clock set back).
    """
    clock_ms = np.uint32(np.int64(clock_s * 1e3) & 0xFFFFFFFF)
    before, begin = gates["clock_ms"][r], gates["begin_ms"][r]
    gates["clock_ms"][r] = clock_ms
    if known == 0:
        gates["begin_ms"][r], gates["frames"][r] = clock_ms, np.uint16(0)
        return 0
    cause: int = judge_silence(gates, r, np.float64(np.uint32(clock_ms - before)) * 1e-3, period_s, seen)
    gates["frames"][r] += np.uint16(1)
    waited_s = np.float64(np.uint32(clock_ms - begin)) * 1e-3
    if waited_s < 0.99 * period_s and gates["frames"][r] < np.uint16(60_000):
        return cause
    mean_s = waited_s / np.float64(gates["frames"][r])
    gates["begin_ms"][r], gates["frames"][r] = clock_ms, np.uint16(0)
    if cause != 0:  # a silence is not part of the rhythm
        return cause
    return int(judge_bucket(gates, r, mean_s, waited_s, fleet, devices, seen))


@kernel(void(GATES, F64, F64, F64, float64, int64, F64, int64[::1], float64[:, ::1]), borrows=True)
def rhythm_of_series(
    gates: Gates,
    fleet: npt.NDArray[np.float64],
    t: npt.NDArray[np.float64],
    interval_s: npt.NDArray[np.float64],
    period_s: float,
    devices: int,
    seen: npt.NDArray[np.float64],
    cause: npt.NDArray[np.int64],
    out: npt.NDArray[np.float64],
) -> None:
    """The rhythm of one device (gate 0) with frames at times ``t``; an interval below 0 is unknown."""
    for i in range(t.shape[0]):
        clock_s = advance_clock(fleet, t[i], devices)
        cause[i] = observe_rhythm(gates, 0, 1 if interval_s[i] >= 0.0 else 0, clock_s, period_s, fleet, devices, seen)
        for k in range(SEEN):
            out[i, k] = seen[k]
        if cause[i] != 0:
            gates["rhythm_flag_count"][0] = min(gates["rhythm_flag_count"][0], np.uint8(254)) + np.uint8(1)
