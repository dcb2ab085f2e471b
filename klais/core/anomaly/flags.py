"""Anomaly flags in kernels: written by a detector, recorded in the rows of their devices."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.record import FLAG, OF_INTERVAL, OF_SIZE, OF_TYPE, Flags
from klais.core.devices.index import ROWS
from klais.core.devices.layout import FEATURE_FIELD, FEATURE_INTERVAL, FEATURE_SIZE, FEATURE_TYPE, Rows
from klais.jit.kernel import I32, I64, U8, U32, float64, int64, kernel, record, void

FLAGS = record(FLAG)[::1]
_FIELD, _INTERVAL, _SIZE = np.uint8(FEATURE_FIELD), np.uint8(FEATURE_INTERVAL), np.uint8(FEATURE_SIZE)
_TYPE = np.uint8(FEATURE_TYPE)


@kernel(int64(float64), borrows=True, inlined=True)
def age_code(seconds: float) -> int:
    """A time span as a byte, see :func:`klais.core.anomaly.record.age_s`."""
    return int(min(255.0, np.floor(8.0 * np.log2(max(1.0, seconds)) + 0.5)))


@kernel(void(FLAGS, int64, int64, int64, float64, float64, float64, float64), borrows=True)
def put_flag(
    flags: Flags, at: int, frame: int, nth: int, value: float, expected: float, score: float, scale: float
) -> None:
    """Write one flag; the caller adds cause, since and before."""
    flags["frame"][at], flags["nth"][at] = np.uint32(frame), np.uint8(nth)
    flags["value"][at], flags["expected"][at] = value, expected
    flags["score"][at], flags["scale"][at] = np.float32(min(score, 3e38)), np.float32(min(abs(scale), 3e38))
    flags["cause"][at] = flags["since"][at] = flags["before"][at] = np.uint8(0)


@kernel(void(ROWS, I32, I64, U8, FLAGS, U32), borrows=True)
def remember_flags(
    rows: Rows,
    row: npt.NDArray[np.int32],
    time_ns: npt.NDArray[np.int64],
    skip: npt.NDArray[np.uint8],
    flags: Flags,
    path: npt.NDArray[np.uint32],
) -> None:
    """Record a step's flags (FLAG [k]; ``path`` uint32 [k]) in the rows of their devices: the count and the newest."""
    for k in range(flags.shape[0]):
        i = np.int64(flags["frame"][k])
        if i >= row.shape[0] or row[i] < 0 or skip[i] != 0:
            continue
        r = np.int64(row[i])
        rows["flags"][r] += np.uint32(1)
        rows["flag_ns"][r] = time_ns[i]
        rows["flag_value"][r], rows["flag_expected"][r] = flags["value"][k], flags["expected"][k]
        rows["flag_score"][r], rows["flag_scale"][r] = flags["score"][k], flags["scale"][k]
        rows["flag_cause"][r], rows["flag_since"][r] = flags["cause"][k], flags["since"][k]
        rows["flag_before"][r], rows["flag_path"][r] = flags["before"][k], path[k]
        nth = np.int64(flags["nth"][k])
        feature = _INTERVAL if nth == OF_INTERVAL else _SIZE if nth == OF_SIZE else _FIELD
        rows["flag_feature"][r] = _TYPE if nth == OF_TYPE else feature
