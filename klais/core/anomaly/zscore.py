"""Running z-scores of interval, payload size and up to 8 numeric fields of each device.

Mean and variance are exponentially weighted (Finch 2009, "Incremental calculation of weighted mean and variance",
eq. 140 to 143) with weight ``max(1 / (n + 1), 1 / window)``: the plain running mean and variance until the window is
full, then a memory of about ``window`` samples. A sample is scored before it is learned.

What is learned of a scored sample is at most 8 deviations away from the mean (Huber's clipping), so that one impossible
reading does not blind the profile. A level that really changed is learned after all: after 16 flags in a row a feature
begins its profile again. An interval is only taken between two frames that the same edge received, and whose times go
forward: clocks of edges differ, and are set.

A device has 8 slots for numeric fields. While a device sends fields that have none, those slots that were not used
lately are given to them (second chance, once in 64 such fields).

Contract of a scorer, kept by whatever replaces this one: ``score(columns, state, now) -> scores``. Here the columns are
the frames' rows, times, sizes and numeric fields, the state is the rows' profiles, now is each frame's receive time.
"""

import numba
import numpy as np
import numpy.typing as npt

from klais.core.devices.index import ROWS
from klais.core.devices.layout import MAX_FIELDS, Rows
from klais.core.wire.constants import HEADER_SIZE, Reason
from klais.jit.kernel import F64, I32, I64, U8, U64, float64, int64, kernel, void

# One flag: the frame, the feature that stood out most, what was seen and what was expected.
FLAG = np.dtype(
    [("frame", "<i4"), ("feature", "<i4"), ("field", "<i4"), ("value", "<f8"), ("expected", "<f8"), ("z", "<f8")]
)
FLAGS = numba.from_dtype(FLAG)[::1]
# The profile columns of the rows, strided [devices, features].
MEAN, VAR, SAMPLES = numba.float64[:, :], numba.float32[:, :], numba.uint16[:, :]
CLIP = 8.0  # deviations: the furthest that a scored sample is learned at
RELEARN_FLAGS = 16  # flags in a row after which a feature begins its profile again
SWEEP_MISSES = 64  # fields without a slot between two looks at which slots are in use
# Positions in the ``limits`` column (float64 [3]).
THRESHOLD, MIN_SAMPLES, WINDOW = 0, 1, 2
LIMITS = 3

_QUEUED = np.uint8(Reason.QUEUED)
# Squares of what is learned stay finite, and so does z as a float32; no sensor reads beyond either.
_MAX_VALUE = 1e150
_MAX_Z_SQUARE = 1e60
_MAX_VARIANCE = 3e38
_MAX_SAMPLES = 65_535.0


@kernel(float64(int64, float64), borrows=True)
def smallest_deviation(feature: int, mean: float) -> float:
    """The least standard deviation a feature is scored with: below it a difference is noise of the measuring itself.

    Interval: receive times are those of one ``recvmmsg`` call and devices wake by coarse timers (5 ms + 5 %). Size: a
    number that gains a digit is no event (2 bytes + 5 %). Fields: a constant that moves by a thousandth of itself is.
    """
    size = abs(mean)
    if feature == 0:
        return 0.005 + 0.05 * size
    if feature == 1:
        return 2.0 + 0.05 * size
    return 1e-9 + 1e-3 * size


@kernel(void(ROWS, int64, int64), borrows=True)
def forget_feature(rows: Rows, r: int, feature: int) -> None:
    """Let a feature begin its profile again."""
    rows["samples"][r, feature] = np.uint16(0)
    rows["mean"][r, feature] = 0.0
    rows["var"][r, feature] = np.float32(0.0)
    rows["run"][r, feature] = np.uint8(0)


@kernel(float64(ROWS, int64, int64, float64, float64, float64, float64), borrows=True)
def learnable(
    rows: Rows, r: int, feature: int, difference: float, z_square: float, scale: float, threshold: float
) -> float:
    """What may be learned of a sample that stands out, or comes after one that did: its difference, clipped.

    Counts the flags in a row; when they are so many, the profile is forgotten, and all of the difference counts.
    """
    if z_square > threshold * threshold:
        rows["run"][r, feature] += np.uint8(1)
        if rows["run"][r, feature] >= RELEARN_FLAGS:
            value = difference + rows["mean"][r, feature]
            forget_feature(rows, r, feature)
            return float(value)
    else:
        rows["run"][r, feature] = np.uint8(0)
    furthest = CLIP * np.sqrt(scale)
    return float(min(max(difference, -furthest), furthest))


@kernel(float64(ROWS, MEAN, VAR, SAMPLES, int64, int64, float64, float64, float64, float64), borrows=True, inlined=True)
def score_one(
    rows: Rows,
    means: npt.NDArray[np.float64],
    variances: npt.NDArray[np.float32],
    samples: npt.NDArray[np.uint16],
    r: int,
    feature: int,
    value: float,
    min_samples: float,
    window: float,
    threshold: float,
) -> float:
    """Signed z squared of ``value`` against the profile of row ``r`` (0 before it has enough samples), then learn it.

    Squared, because comparing needs no root: only what stands out pays for one. The profile's columns are handed in
    beside ``rows``: to look them up for each value takes half as long again.
    """
    difference = min(max(value, -_MAX_VALUE), _MAX_VALUE) - means[r, feature]
    z_square = 0.0
    if np.float64(samples[r, feature]) >= min_samples:
        least = smallest_deviation(feature, means[r, feature])
        scale = max(np.float64(variances[r, feature]), least * least)
        z_square = min(difference * difference / scale, _MAX_Z_SQUARE)
        sign = difference
        if z_square > min(threshold * threshold, CLIP * CLIP) or rows["run"][r, feature] != np.uint8(0):
            difference = learnable(rows, r, feature, difference, z_square, scale, threshold)
        if sign < 0.0:
            z_square = -z_square
    n = np.float64(samples[r, feature])
    weight = 1.0 / min(n + 1.0, window)
    means[r, feature] += weight * difference
    variance = (1.0 - weight) * (np.float64(variances[r, feature]) + weight * (difference * difference))
    variances[r, feature] = np.float32(min(variance, _MAX_VARIANCE))
    if n < _MAX_SAMPLES:
        samples[r, feature] = np.uint16(n + 1.0)
    return z_square


@kernel(void(ROWS, int64, int64), borrows=True)
def replace_unused_slot(rows: Rows, r: int, path: int) -> None:
    """Give the first field slot that was not used since the last sweep to ``path``; all slots count as unused then."""
    used = rows["field_used"][r]
    for k in range(MAX_FIELDS):
        if used >> k & 1 == 0:
            rows["path"][r, k] = np.uint32(path)
            forget_feature(rows, r, 2 + k)
            break
    rows["field_used"][r] = np.uint8(0)
    rows["field_misses"][r] = np.uint8(0)


@kernel(int64(ROWS, int64, numba.uint32, int64), borrows=True, inlined=True)
def field_slot(rows: Rows, r: int, path: int, guess: int) -> int:
    """Profile slot of a field of row ``r`` (a new one for a new path), -1 when all slots hold other paths."""
    paths = rows["path"]
    count = np.int64(rows["field_count"][r])
    slot = -1
    if guess < count and paths[r, guess] == path:
        slot = guess
    else:
        for k in range(count):
            if paths[r, k] == path:
                slot = k
                break
    if slot < 0 and count < MAX_FIELDS:
        paths[r, count] = path
        rows["field_count"][r] = np.uint8(count + 1)
        slot = int(count)
    if slot >= 0:
        rows["field_used"][r] |= np.uint8(1 << slot)
        return int(slot)
    rows["field_misses"][r] += np.uint8(1)
    if rows["field_misses"][r] >= SWEEP_MISSES:
        replace_unused_slot(rows, r, np.int64(path))
    return -1


@kernel(void(FLAGS, int64, int64, int64, int64, float64, float64, float64), borrows=True)
def put_flag(
    flags: npt.NDArray[np.void], at: int, frame: int, feature: int, field: int, value: float, expected: float, z: float
) -> None:
    """Write one flag."""
    flags["frame"][at] = np.int32(frame)
    flags["feature"][at] = np.int32(feature)
    flags["field"][at] = np.int32(field)
    flags["value"][at] = value
    flags["expected"][at] = expected
    flags["z"][at] = z


@kernel(void(ROWS, int64, int64, FLAGS, int64), borrows=True)
def remember_flag(rows: Rows, r: int, now_ns: int, flags: npt.NDArray[np.void], at: int) -> None:
    """Keep the newest flag in the device's row, for the views."""
    rows["flags"][r] += np.uint32(1)
    rows["flag_ns"][r] = now_ns
    rows["flag_feature"][r] = np.uint8(flags["feature"][at])
    rows["flag_value"][r] = flags["value"][at]
    rows["flag_expected"][r] = flags["expected"][at]
    rows["flag_z"][r] = np.float32(flags["z"][at])


@kernel(float64(ROWS, int64, int64, int64), borrows=True, inlined=True)
def interval_s(rows: Rows, r: int, now_ns: int, edge: int) -> float:
    """Seconds since the last admitted frame; below 0 where unknown: another edge received it, or a clock was set
    back.
    """
    if rows["samples"][r, 1] == np.uint16(0) or np.int64(rows["edge"][r]) != edge or now_ns < rows["last_ns"][r]:
        return -1.0
    return np.float64(now_ns - rows["last_ns"][r]) * 1e-9


@kernel(int64(ROWS, I32, I64, I64, U8, U8, int64, I32, U64, F64, int64, F64, FLAGS), borrows=True)
def score(
    rows: Rows,
    row: npt.NDArray[np.int32],
    time_ns: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    verdict: npt.NDArray[np.uint8],
    skip: npt.NDArray[np.uint8],
    edge: int,
    field_frame: npt.NDArray[np.int32],
    field_path: npt.NDArray[np.uint64],
    field_value: npt.NDArray[np.float64],
    field_count: int,
    limits: npt.NDArray[np.float64],
    flags: npt.NDArray[np.void],
) -> int:
    """Score and learn the admitted frames (PASSED, QUEUED) of a batch, in order; the number of flags written.

    Parameters
    ----------
    row, time_ns, lengths, verdict, skip : [n]
        Columns of the frames; ``skip`` 1 = the row already contains this step (replay).
    edge : int
        Which received the batch.
    field_frame, field_path, field_value : [m]
        Numeric fields in frame order, ``field_count`` of them.
    flags : FLAG [n], out
        At most one a frame: the feature with the largest |z| above ``limits[THRESHOLD]``.
    """
    means, variances, samples = rows["mean"], rows["var"], rows["samples"]
    least, window, z = limits[MIN_SAMPLES], limits[WINDOW], limits[THRESHOLD]
    threshold = z * z
    flag_count = 0
    f = 0
    for i in range(row.shape[0]):
        first = f
        while f < field_count and field_frame[f] == i:
            f += 1
        r = np.int64(row[i])
        if r < 0 or skip[i] != 0 or verdict[i] > _QUEUED:
            continue
        best = 0.0
        for j in range(first - 2, f):
            if j == first - 2:
                slot, x = -2, interval_s(rows, r, time_ns[i], edge)
                if x < 0.0:
                    continue
            elif j == first - 1:
                slot, x = -1, np.float64(lengths[i] - HEADER_SIZE)
            else:
                slot, x = field_slot(rows, r, np.uint32(field_path[j]), j - first), field_value[j]
                if slot < 0:
                    continue
            expected = means[r, 2 + slot]
            found = score_one(rows, means, variances, samples, r, 2 + slot, x, least, window, z)
            if abs(found) > abs(best):
                best = found
                if abs(found) > threshold:
                    field = j if j >= first else -1
                    put_flag(
                        flags, flag_count, i, 2 + slot, field, x, expected, np.copysign(np.sqrt(abs(found)), found)
                    )
        rows["last_ns"][r] = time_ns[i]
        rows["edge"][r] = np.uint16(edge)
        rows["score"][r] = np.float32(np.sqrt(abs(best)))
        if abs(best) > threshold:
            remember_flag(rows, r, time_ns[i], flags, flag_count)
            flag_count += 1
    return flag_count
