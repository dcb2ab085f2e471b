"""Admission: the verdict of each frame, in order, from the sequence window, the block list and the token buckets.

A device above its own rate is policed (DEVICE_RATE); a crowd above the global rate is shaped (QUEUED, first in first
out). While the queue holds anything, newcomers go behind it, so that each device's order is kept.
"""

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill, refilled_at
from klais.core.devices.index import ROWS
from klais.core.devices.layout import Rows
from klais.core.devices.sequence import DUPLICATE as SEEN_BEFORE
from klais.core.devices.sequence import observe
from klais.core.wire.constants import FIRST_MALFORMED, Reason
from klais.jit.kernel import F64, I32, I64, U8, U16, U32, boolean, int64, kernel, void

# Positions in the ``limits`` column (float64 [3]) and in the ``dam`` state column (float64 [2]).
DEVICE_RATE, DEVICE_BURST, QUEUE_LIMIT = 0, 1, 2
LIMITS = 3
TOKENS, DEPTH = 0, 1
DAM_STATE = 2

_PASSED = np.uint8(Reason.PASSED)
_QUEUED = np.uint8(Reason.QUEUED)
_DUPLICATE = np.uint8(Reason.DUPLICATE)
_BLOCKED = np.uint8(Reason.BLOCKED)
_DEVICE_RATE = np.uint8(Reason.DEVICE_RATE)
_QUEUE_FULL = np.uint8(Reason.QUEUE_FULL)
_FIRST_MALFORMED = np.uint8(FIRST_MALFORMED)
_ONE = np.uint32(1)


@kernel(int64(ROWS, int64, int64, int64, I32, int64), borrows=True)
def touch(rows: Rows, r: int, step: int, clean_step: int, dirty: npt.NDArray[np.int32], dirty_count: int) -> int:
    """Stamp row ``r`` with ``step``; list it in ``dirty`` if unchanged since ``clean_step``. The new dirty count."""
    stamp = rows["stamp"]
    if stamp[r] <= np.uint64(clean_step):
        dirty[dirty_count] = r
        dirty_count += 1
    stamp[r] = np.uint64(step)
    return dirty_count


@kernel(void(ROWS, I32, int64, U8), borrows=True)
def already_done(rows: Rows, row: npt.NDArray[np.int32], step: int, skip: npt.NDArray[np.uint8]) -> None:
    """``skip`` uint8 [n]: 1 where the frame's row already contains ``step`` (replay over a half-written checkpoint)."""
    stamp = rows["stamp"]
    for i in range(row.shape[0]):
        skip[i] = row[i] >= 0 and stamp[row[i]] >= np.uint64(step)


@kernel(int64(int64, boolean, ROWS, int64, F64, F64), borrows=True)
def judge(
    outcome: int, blocked: bool, rows: Rows, r: int, limits: npt.NDArray[np.float64], dam: npt.NDArray[np.float64]
) -> int:
    """Verdict of one well-formed frame of row ``r``, whose bucket is refilled; only looks, the caller takes tokens."""
    if outcome == SEEN_BEFORE:
        return int(_DUPLICATE)
    if blocked:
        return int(_BLOCKED)
    if rows["tokens"][r] < 1.0:
        return int(_DEVICE_RATE)
    if dam[DEPTH] == 0.0 and dam[TOKENS] >= 1.0:
        return int(_PASSED)
    if dam[DEPTH] < limits[QUEUE_LIMIT]:
        return int(_QUEUED)
    return int(_QUEUE_FULL)


@kernel(void(ROWS, int64, int64), borrows=True)
def count_in_row(rows: Rows, r: int, verdict: int) -> None:
    """Count the verdict in the device's row; a frame that got by the device's bucket takes a token of it."""
    if verdict == _DUPLICATE:
        rows["duplicate"][r] += _ONE
    elif verdict == _BLOCKED:
        rows["blocked"][r] += _ONE
    elif verdict == _DEVICE_RATE:
        rows["device_rate"][r] += _ONE
    else:
        rows["tokens"][r] -= 1.0
        if verdict == _QUEUE_FULL:
            rows["queue_full"][r] += _ONE
        else:
            rows["admitted"][r] += np.uint64(1)


@kernel(int64(boolean, int64, int64, ROWS, I32, U32, U16, I64, U8, U8, U8, I32, F64, F64, F64, I32, int64), borrows=True)
def admit(
    decide: bool,
    step: int,
    clean_step: int,
    rows: Rows,
    row: npt.NDArray[np.int32],
    sequence: npt.NDArray[np.uint32],
    frame_hash: npt.NDArray[np.uint16],
    time_ns: npt.NDArray[np.int64],
    verdict: npt.NDArray[np.uint8],
    skip: npt.NDArray[np.uint8],
    blocked: npt.NDArray[np.uint8],
    own: npt.NDArray[np.int32],
    special: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    dam: npt.NDArray[np.float64],
    dirty: npt.NDArray[np.int32],
    dirty_count: int,
) -> int:
    """Run n frames through their rows and the dam, in order; the new dirty count.

    Parameters
    ----------
    decide : bool
        True: verdicts of well-formed frames are decided here. False (replay): ``verdict`` holds them as journalled.
    row, sequence, frame_hash, time_ns : [n]
        Columns of the frames; ``row`` -1 = no row (malformed or DEVICE_LIMIT), nothing to do.
    verdict : uint8 [n], in and out
    skip, blocked : uint8 [n]
        ``skip``: the row already contains this step. ``blocked``: the device is on the block list (only when deciding).
    own, special : int32 [n], float64 [2 k]
        Place in ``special`` (rate, burst, rate, burst, ...) for frames of devices with limits of their own, -1 = as
        ``limits`` says.
    limits, dam : float64 [3], [2]
        See the positions at the head of this module; ``dam`` (tokens, depth) is updated.
    """
    tokens = rows["tokens"]
    refilled = rows["refilled_ns"]
    received = rows["received"]
    for i in range(row.shape[0]):
        r = np.int64(row[i])
        v = verdict[i]
        if r >= 0 and skip[i] == 0:
            dirty_count = touch(rows, r, step, clean_step, dirty, dirty_count)
            if v >= _FIRST_MALFORMED:
                rows["malformed"][r] += _ONE
                continue
            now_ns = time_ns[i]
            rate, burst = limits[DEVICE_RATE], limits[DEVICE_BURST]
            if own[i] >= 0:
                rate, burst = special[2 * own[i]], special[2 * own[i] + 1]
            if received[r] == 0:
                tokens[r] = burst
                refilled[r] = now_ns
                rows["first_ns"][r] = now_ns
            outcome = observe(rows, r, sequence[i], np.uint32(frame_hash[i]))
            tokens[r] = refill(tokens[r], refilled[r], now_ns, rate, burst)
            refilled[r] = refilled_at(refilled[r], now_ns)
            if decide:
                v = np.uint8(judge(outcome, blocked[i] != 0, rows, r, limits, dam))
                verdict[i] = v
            received[r] += np.uint64(1)
            count_in_row(rows, r, np.int64(v))
        if v == _PASSED:
            dam[TOKENS] -= 1.0
        elif v == _QUEUED:
            dam[DEPTH] += 1.0
    return dirty_count
