"""Running z-scores of interval, payload size and up to 8 numeric fields of each device.

Mean and variance are exponentially weighted (Finch 2009, "Incremental calculation of weighted mean and variance",
eq. 140 to 143) with weight ``max(1 / (n + 1), 1 / window)``: the plain running mean and variance until the window is
full, then a memory of about ``window`` samples. A sample is scored before it is learned.

Contract of a scorer, kept by whatever replaces this one: ``score(columns, state, now) -> scores``. Here the columns are
the frames' rows, times, sizes and numeric fields, the state is the rows' profiles, now is each frame's receive time.
"""

import numba
import numpy as np
import numpy.typing as npt

from klais.devices.index import ROWS
from klais.devices.layout import MAX_FIELDS, Rows
from klais.kernel import F64, I32, I64, U8, U64, float64, int64, kernel, void
from klais.wire.constants import HEADER_SIZE, Reason

# One flag: the frame, the feature that stood out most, what was seen and what was expected.
FLAG = np.dtype(
    [("frame", "<i4"), ("feature", "<i4"), ("field", "<i4"), ("value", "<f8"), ("expected", "<f8"), ("z", "<f8")]
)
FLAGS = numba.from_dtype(FLAG)[::1]
# Positions in the ``limits`` column (float64 [3]).
THRESHOLD, MIN_SAMPLES, WINDOW = 0, 1, 2
LIMITS = 3

_QUEUED = np.uint8(Reason.QUEUED)
# Squares of what is learned stay finite, and so does z as a float32; no sensor reads beyond either.
_MAX_VALUE = 1e150
_MAX_Z = 1e30
_MAX_VARIANCE = 3e38
_MAX_SAMPLES = np.uint16(65_535)
_ONE16 = np.uint16(1)


@kernel(float64(int64, float64))
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


@kernel(float64(ROWS, int64, int64, float64, F64))
def score_one(rows: Rows, r: int, feature: int, value: float, limits: npt.NDArray[np.float64]) -> float:
    """z of ``value`` against the profile of row ``r`` (0 before ``limits[MIN_SAMPLES]`` samples), then learn it."""
    samples = rows["samples"]
    mean = rows["mean"]
    var = rows["var"]
    n = samples[r, feature]
    difference = min(max(value, -_MAX_VALUE), _MAX_VALUE) - mean[r, feature]
    deviation = max(np.sqrt(np.float64(var[r, feature])), smallest_deviation(feature, mean[r, feature]))
    z = min(max(difference / deviation, -_MAX_Z), _MAX_Z) if np.float64(n) >= limits[MIN_SAMPLES] else 0.0
    weight = max(1.0 / (np.float64(n) + 1.0), 1.0 / limits[WINDOW])
    mean[r, feature] += weight * difference
    spread = (1.0 - weight) * (np.float64(var[r, feature]) + weight * difference * difference)
    var[r, feature] = np.float32(min(spread, _MAX_VARIANCE))
    if n < _MAX_SAMPLES:
        samples[r, feature] = n + _ONE16
    return z  # type: ignore[no-any-return]


@kernel(int64(ROWS, int64, numba.uint32, int64))
def field_slot(rows: Rows, r: int, path: int, guess: int) -> int:
    """Profile slot of a field of row ``r`` (a new one for a new path), -1 when all slots hold other paths."""
    paths = rows["path"]
    count = np.int64(rows["field_count"][r])
    if guess < count and paths[r, guess] == path:
        return guess
    for k in range(count):
        if paths[r, k] == path:
            return k
    if count == MAX_FIELDS:
        return -1
    paths[r, count] = path
    rows["field_count"][r] = np.uint8(count + 1)
    return count


@kernel(void(FLAGS, int64, int64, int64, int64, float64, float64, float64))
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


@kernel(void(ROWS, int64, int64, int64, int64, float64, F64, FLAGS, int64))
def consider(
    rows: Rows,
    r: int,
    frame: int,
    feature: int,
    field: int,
    value: float,
    limits: npt.NDArray[np.float64],
    flags: npt.NDArray[np.void],
    at: int,
) -> None:
    """Score one sample; note it in ``flags[at]`` when it stands out more than what is noted there."""
    expected = rows["mean"][r, feature]
    z = score_one(rows, r, feature, value, limits)
    if abs(z) > abs(flags["z"][at]):
        put_flag(flags, at, frame, feature, field, value, expected, z)


@kernel(void(ROWS, int64, int64, FLAGS, int64))
def remember_flag(rows: Rows, r: int, now_ns: int, flags: npt.NDArray[np.void], at: int) -> None:
    """Keep the newest flag in the device's row, for the views."""
    rows["flags"][r] += np.uint32(1)
    rows["flag_ns"][r] = now_ns
    rows["flag_feature"][r] = np.uint8(flags["feature"][at])
    rows["flag_value"][r] = flags["value"][at]
    rows["flag_expected"][r] = flags["expected"][at]
    rows["flag_z"][r] = np.float32(flags["z"][at])


@kernel(int64(ROWS, I32, I64, I64, U8, U8, I32, U64, F64, int64, F64, FLAGS))
def score(
    rows: Rows,
    row: npt.NDArray[np.int32],
    time_ns: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    verdict: npt.NDArray[np.uint8],
    skip: npt.NDArray[np.uint8],
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
    field_frame, field_path, field_value : [m]
        Numeric fields in frame order, ``field_count`` of them.
    flags : FLAG [n], out
        At most one a frame: the feature with the largest |z| above ``limits[THRESHOLD]``.
    """
    flag_count = 0
    f = 0
    for i in range(row.shape[0]):
        first = f
        while f < field_count and field_frame[f] == i:
            f += 1
        r = np.int64(row[i])
        if r < 0 or skip[i] != 0 or verdict[i] > _QUEUED:
            continue
        flags["z"][flag_count] = 0.0
        if rows["samples"][r, 1] > np.uint16(0):
            interval_s = np.float64(max(time_ns[i] - rows["last_ns"][r], 0)) * 1e-9
            consider(rows, r, i, 0, -1, interval_s, limits, flags, flag_count)
        consider(rows, r, i, 1, -1, np.float64(lengths[i] - HEADER_SIZE), limits, flags, flag_count)
        rows["last_ns"][r] = max(time_ns[i], rows["last_ns"][r])
        for j in range(first, f):
            slot = field_slot(rows, r, np.uint32(field_path[j]), j - first)
            if slot >= 0:
                consider(rows, r, i, 2 + slot, j, field_value[j], limits, flags, flag_count)
        z = flags["z"][flag_count]
        rows["score"][r] = np.float32(abs(z))
        if abs(z) > limits[THRESHOLD]:
            remember_flag(rows, r, time_ns[i], flags, flag_count)
            flag_count += 1
    return flag_count
