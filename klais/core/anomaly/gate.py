"""The gate record of a device: every frame is compared with it, whether or not the device has channels.

One record (192 bytes) for each row of a lane. It stores the fields' names, the band in which each feature needs no
scoring, the device's rhythm (:mod:`klais.core.anomaly.rhythm`), and which fields its frames always have.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.record import MAX_FIELDS
from klais.jit.kernel import int64, kernel, record, uint32, void

BANDS = 1 + MAX_FIELDS  # payload size, then the fields by slot
GATE = np.dtype(
    [
        ("owner", "<u4"),
        ("first", "<i4"),  # handle of the device's first channel, 0 = none; see klais.core.anomaly.arena
        ("scored_ds", "<u4"),  # receive time of the newest regular scoring, tenths of a second
        ("saved_ds", "<u4"),  # receive time of the newest scoring in the saved profile
        ("clock_ms", "<u4"),  # the fleet's clock at the newest frame
        ("begin_ms", "<u4"),  # the fleet's clock at the beginning of this bucket of intervals
        ("gap4", "<f4"),  # mean 4th power of intervals (s), by the fleet's clock
        ("longest_s", "<f4"),  # longest recent interval
        ("usual", "<f4"),  # mean of the logarithm of intervals, minus the fleet's shift
        ("spread", "<f4"),  # sqrt of the mean 4th power of deviations from that mean
        ("last", "<f4", (2,)),  # the two newest logarithms
        ("peak", "<f4"),  # largest recent score, so that a habit is not reported again
        ("path", "<u4", (MAX_FIELDS,)),  # low half of the path hash of each field
        ("low", "<f4", (BANDS,)),
        ("high", "<f4", (BANDS,)),
        ("frames", "<u2"),  # frames in this bucket
        ("buckets", "<u2"),  # buckets learned
        ("absent", "u1", (MAX_FIELDS,)),  # frames in a row without the field
        ("present", "u1", (MAX_FIELDS,)),  # frames in a row with it, until it counts as steady
        ("flag_count", "u1", (MAX_FIELDS,)),  # flags of its absence so far
        ("steady", "u1"),  # bit k: field k is in every frame
        ("waiting", "u1"),  # bit k: it is absent now
        ("slots", "u1"),
        ("used", "u1"),  # bit k: field slot k was used since the last sweep of the slots
        ("misses", "u1"),  # fields without a slot since the last sweep
        ("rhythm_flag_count", "u1"),  # flags of the rhythm so far
        ("watched", "u1"),  # 1: new channels are of the full tier
        ("spare", "u1"),
    ],
    align=True,
)
assert GATE.itemsize == 192
GATES = record(GATE)[::1]
Gates = npt.NDArray[np.void]
STEADY_FRAMES = 64  # frames in a row with a field before its absence is flagged; more after each flag
ABSENT_FRAMES = 3  # frames in a row without it before it is flagged
MAX_FLAGS = 3  # a field that was missing this often is optional
_ONE, _ZERO = np.uint8(1), np.uint8(0)


@kernel(void(GATES, int64, int64), borrows=True)
def empty_slot(gates: Gates, r: int, k: int) -> None:
    """Clear the state of the field in slot ``k``."""
    gates["path"][r, k] = np.uint32(0)
    gates["low"][r, 1 + k] = gates["high"][r, 1 + k] = np.float32(0.0)
    gates["absent"][r, k] = gates["present"][r, k] = gates["flag_count"][r, k] = _ZERO
    others = np.uint8(0xFF ^ (1 << k))
    gates["steady"][r] &= others
    gates["waiting"][r] &= others


@kernel(void(GATES, int64, uint32), borrows=True)
def empty_gate(gates: Gates, r: int, owner: int) -> None:
    """Reset the gate for the device that now has row ``r``. The caller has freed the channels."""
    gates["owner"][r], gates["first"][r] = owner, np.int32(0)
    gates["scored_ds"][r] = gates["saved_ds"][r] = gates["clock_ms"][r] = gates["begin_ms"][r] = np.uint32(0)
    gates["gap4"][r] = gates["longest_s"][r] = gates["usual"][r] = gates["spread"][r] = gates["peak"][r] = 0.0
    gates["last"][r, 0] = gates["last"][r, 1] = np.float32(0.0)
    gates["frames"][r] = gates["buckets"][r] = np.uint16(0)
    gates["steady"][r] = gates["waiting"][r] = gates["slots"][r] = gates["used"][r] = gates["misses"][r] = _ZERO
    gates["rhythm_flag_count"][r] = gates["watched"][r] = _ZERO
    gates["low"][r, 0] = gates["high"][r, 0] = np.float32(0.0)
    for k in range(MAX_FIELDS):
        empty_slot(gates, r, k)


@kernel(int64(GATES, int64, int64), borrows=True)
def observe_fields(gates: Gates, r: int, here: int) -> int:
    """Record which slots' fields a frame has (bits ``here``); returns the bits of fields missing for too long."""
    missing = 0
    steady, waiting = int(gates["steady"][r]), int(gates["waiting"][r])
    for k in range(np.int64(gates["slots"][r])):
        bit = 1 << k
        if here & bit != 0:
            gates["absent"][r, k] = _ZERO
            waiting &= ~bit
            if steady & bit == 0 and gates["flag_count"][r, k] < MAX_FLAGS:
                gates["present"][r, k] += _ONE
                if gates["present"][r, k] >= min(250, STEADY_FRAMES * (1 + int(gates["flag_count"][r, k]))):
                    steady |= bit
        elif steady & bit != 0:
            gates["absent"][r, k] += _ONE
            waiting |= bit
            if gates["absent"][r, k] >= ABSENT_FRAMES:
                steady &= ~bit
                waiting &= ~bit
                missing |= bit
                gates["present"][r, k] = _ZERO
                gates["flag_count"][r, k] += _ONE
        else:
            gates["present"][r, k] = _ZERO
    gates["steady"][r], gates["waiting"][r] = np.uint8(steady), np.uint8(waiting)
    return int(missing)
