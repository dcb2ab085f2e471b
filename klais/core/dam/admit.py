"""Admission: the verdict of each frame, in order, from the sequence window, the block list and the token buckets.

A device above its own rate is policed (DEVICE_RATE). When all devices together exceed the global rate, frames are
shaped (QUEUED): devices take turns in the queue (:mod:`klais.core.dam.fair`). While the queue is not empty, new frames
join it, so that each device's order is preserved.

A device gets a row with its first frame that is passed or queued. Refused frames create no row, so the rate bounds the
cost of a flood. A lane refuses new devices (DEVICE_LIMIT) when it knows its maximum number of devices or too many new
ones came at once.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill as refill_definition
from klais.core.devices.index import FREE, ROWS, USED, find, insert
from klais.core.devices.layout import Rows
from klais.core.devices.sequence import DUPLICATE as SEEN_BEFORE
from klais.core.devices.sequence import IN_ORDER, IS_DUPLICATE, NO_DUPLICATE, UNKNOWN, judge_without_restarts, observe
from klais.core.devices.sequence import REPLAYED as SENT_BEFORE
from klais.core.devices.signed import observe_signed
from klais.core.wire.constants import FIRST_MALFORMED, Reason
from klais.jit.kernel import (
    F64,
    I32,
    I64,
    IDS,
    U8,
    U32,
    U64,
    boolean,
    float64,
    group,
    int64,
    kernel,
    uint32,
    void,
)

# Indices in the ``limits`` column (float64 [8]): the devices' rate and burst, maximum length of the queue, maximum
# number of devices, eras (halves of the sequence window) per ns, the worker's clock (s since the epoch), and, as 0 or
# 1, whether devices that sign must continue to sign, and whether numbers of unsigned frames may never go back.
DEVICE_RATE, DEVICE_BURST, QUEUE_LIMIT, DEVICE_LIMIT, ERAS_PER_NS, NOW_S, STICKY, STRICT = 0, 1, 2, 3, 4, 5, 6, 7
LIMITS = 8
# Indices in the ``dam`` state column (float64 [3]): the global bucket, frames in the queue, the bucket of new devices.
TOKENS, DEPTH, NEW_DEVICES = 0, 1, 2
DAM_STATE = 3

_PASSED = np.uint8(Reason.PASSED)
_QUEUED = np.uint8(Reason.QUEUED)
_DUPLICATE = np.uint8(Reason.DUPLICATE)
_BLOCKED = np.uint8(Reason.BLOCKED)
_DEVICE_RATE = np.uint8(Reason.DEVICE_RATE)
_QUEUE_FULL = np.uint8(Reason.QUEUE_FULL)
_DEVICE_LIMIT = np.uint8(Reason.DEVICE_LIMIT)
_REPLAYED = np.uint8(Reason.REPLAYED)
_UNSIGNED = np.uint8(Reason.UNSIGNED)
_FIRST_MALFORMED = np.uint8(FIRST_MALFORMED)
_ONE = np.uint32(1)


class Devices(NamedTuple):
    """The device index and its rows, see :mod:`klais.core.devices.index`."""

    slots: npt.NDArray[np.uint64]
    key: npt.NDArray[np.uint64]
    rows: Rows
    free: npt.NDArray[np.int32]
    room: npt.NDArray[np.int64]


class Frames(NamedTuple):
    """Columns of n frames, in order.

    Attributes
    ----------
    ids, id_size, row, sequence, epoch, frame_hash, time_ns, source : [n]
        ``row`` -1 = none yet, in and out; ``epoch`` 0 = unsigned. See :func:`take_frame` and :func:`note_source` for
        the others.
    verdict : uint8 [n], in and out
    skip, blocked : uint8 [n]
        ``skip``: the row already contains this step. ``blocked``: the device is on the block list (only when deciding).
    own : int32 [n]
        Index in ``overrides`` for frames of devices with their own limits, -1 = as in ``limits``.
    """

    ids: npt.NDArray[np.uint64]
    id_size: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int32]
    sequence: npt.NDArray[np.uint32]
    epoch: npt.NDArray[np.uint32]
    frame_hash: npt.NDArray[np.uint32]
    time_ns: npt.NDArray[np.int64]
    source: npt.NDArray[np.uint32]
    verdict: npt.NDArray[np.uint8]
    skip: npt.NDArray[np.uint8]
    blocked: npt.NDArray[np.uint8]
    own: npt.NDArray[np.int32]


_DEVICES = group((U64, U64, ROWS, I32, I64), Devices)
_FRAMES = group((IDS, U8, I32, U32, U32, U32, I64, U32, U8, U8, U8, I32), Frames)

refill = kernel(float64(float64, int64, int64, float64, float64), borrows=True, inlined=True)(refill_definition)


@kernel(int64(ROWS, int64, int64, int64, I32, int64), borrows=True, inlined=True)
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


@kernel(int64(boolean, boolean, float64, F64, F64), borrows=True, inlined=True)
def judge(
    duplicate: bool, blocked: bool, tokens: float, limits: npt.NDArray[np.float64], dam: npt.NDArray[np.float64]
) -> int:
    """Verdict of one well-formed frame; ``tokens`` of its device's bucket. Read-only: the caller takes the tokens."""
    if duplicate:
        return int(_DUPLICATE)
    if blocked:
        return int(_BLOCKED)
    if tokens < 1.0:
        return int(_DEVICE_RATE)
    if dam[DEPTH] == 0.0 and dam[TOKENS] >= 1.0:
        return int(_PASSED)
    if dam[DEPTH] < limits[QUEUE_LIMIT]:
        return int(_QUEUED)
    return int(_QUEUE_FULL)


@kernel(int64(boolean, float64, int64, F64, F64), borrows=True)
def judge_new(
    blocked: bool, burst: float, devices: int, limits: npt.NDArray[np.float64], dam: npt.NDArray[np.float64]
) -> int:
    """Verdict of the first frame of a device that has no row, while the lane knows ``devices`` devices."""
    verdict = judge(False, blocked, burst, limits, dam)
    if verdict <= _QUEUED and (np.float64(devices) >= limits[DEVICE_LIMIT] or dam[NEW_DEVICES] < 1.0):
        return int(_DEVICE_LIMIT)
    return int(verdict)


@kernel(void(ROWS, int64, int64), borrows=True, inlined=True)
def count_in_row(rows: Rows, r: int, verdict: int) -> None:
    """Count the verdict in the device's row; a frame that passed the device's bucket takes a token from it."""
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


@kernel(void(ROWS, int64, uint32), borrows=True, inlined=True)
def note_source(rows: Rows, r: int, source: int) -> None:
    """Record a frame's source (0 = unknown), and whether it went back to the source before."""
    if source == np.uint32(0) or rows["source"][r] == source:
        return
    if rows["other_source"][r] == source:
        rows["source_turns"][r] += _ONE
    rows["other_source"][r] = rows["source"][r]
    rows["source"][r] = source


@kernel(int64(ROWS, int64, int64, boolean, uint32, uint32, int64, F64), borrows=True, inlined=True)
def take_number(
    rows: Rows,
    r: int,
    verdict: int,
    decide: bool,
    sequence: int,
    frame_hash: int,
    now_ns: int,
    limits: npt.NDArray[np.float64],
) -> int:
    """Enter the number of an unsigned frame in the window, in a replay as ``verdict`` states. REPLAYED (only with
    KLAIS_SEQUENCE_STRICT) leaves the window unchanged."""
    elapsed_s = np.float64(now_ns - rows["refilled_ns"][r]) * 1e-9
    known = UNKNOWN
    if not decide:
        if verdict == _REPLAYED:
            return SENT_BEFORE
        known = IS_DUPLICATE if verdict == _DUPLICATE else NO_DUPLICATE
    elif limits[STRICT] != 0.0:
        back = judge_without_restarts(rows, r, sequence, frame_hash, elapsed_s)
        if back == SENT_BEFORE:
            return SENT_BEFORE
        known = IS_DUPLICATE if back == SEEN_BEFORE else NO_DUPLICATE
    era = np.int64(np.float64(now_ns) * limits[ERAS_PER_NS])
    return int(observe(rows, r, sequence, frame_hash, era, elapsed_s, known))


@kernel(
    int64(ROWS, int64, int64, boolean, uint32, uint32, uint32, int64, float64, float64, boolean, F64, F64),
    borrows=True,
    inlined=True,
)
def take_frame(
    rows: Rows,
    r: int,
    verdict: int,
    decide: bool,
    sequence: int,
    epoch: int,
    frame_hash: int,
    now_ns: int,
    rate: float,
    burst: float,
    blocked: bool,
    limits: npt.NDArray[np.float64],
    dam: npt.NDArray[np.float64],
) -> int:
    """Enter one well-formed frame in its device's window and bucket; returns its verdict, decided here or as given.

    With a ``frame_hash`` of 0 the device's numbers are ignored, and so are those of its unsigned frames (``epoch`` 0)
    once it has signed any. Frames that are refused as REPLAYED or UNSIGNED change only their counts, because another
    sender may have forged them.
    """
    outcome = IN_ORDER
    if epoch != np.uint32(0):
        if frame_hash != np.uint32(0):
            outcome = observe_signed(rows, r, epoch, sequence)
    elif rows["epoch"][r] != np.uint32(0):
        if (decide and limits[STICKY] != 0.0) or verdict == _UNSIGNED:
            rows["received"][r] += np.uint64(1)
            rows["unsigned"][r] += _ONE
            return int(_UNSIGNED)
    elif frame_hash != np.uint32(0):
        outcome = take_number(rows, r, verdict, decide, sequence, frame_hash, now_ns, limits)
    if outcome == SENT_BEFORE:
        rows["received"][r] += np.uint64(1)
        rows["replayed"][r] += _ONE
        return int(_REPLAYED)
    if rows["received"][r] == np.uint64(0):
        rows["tokens"][r] = burst
    else:
        rows["tokens"][r] = refill(rows["tokens"][r], rows["refilled_ns"][r], now_ns, rate, burst)
    rows["refilled_ns"][r] = now_ns
    rows["last_seen_s"][r] = np.uint32(limits[NOW_S])
    if decide:
        verdict = judge(outcome == SEEN_BEFORE, blocked, rows["tokens"][r], limits, dam)
    rows["received"][r] += np.uint64(1)
    count_in_row(rows, r, verdict)
    return int(verdict)


@kernel((boolean, int64, _DEVICES, _FRAMES, float64, F64, F64), borrows=True)
def admit_new(
    decide: bool,
    i: int,
    devices: Devices,
    frames: Frames,
    burst: float,
    limits: npt.NDArray[np.float64],
    dam: npt.NDArray[np.float64],
) -> tuple[int, int]:
    """Frame ``i`` of a device without a row: returns the new row, -1 = none, and the verdict (see :func:`admit`)."""
    v, room = np.int64(frames.verdict[i]), devices.room
    if decide:
        v = np.int64(judge_new(frames.blocked[i] != 0, burst, room[USED] - room[FREE], limits, dam))
    if v > _QUEUED:
        return -1, int(v)
    low, high = frames.ids[i, 0], frames.ids[i, 1]
    r = np.int64(insert(devices.slots, devices.key, devices.rows, devices.free, room, low, high, frames.id_size[i]))
    devices.rows["created_s"][r] = np.uint32(limits[NOW_S])
    dam[NEW_DEVICES] -= 1.0
    return int(r), int(v)


@kernel(int64(boolean, int64, int64, _DEVICES, _FRAMES, F64, F64, F64, I32, int64), borrows=True)
def admit(
    decide: bool,
    step: int,
    clean_step: int,
    devices: Devices,
    frames: Frames,
    overrides: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    dam: npt.NDArray[np.float64],
    dirty: npt.NDArray[np.int32],
    dirty_count: int,
) -> int:
    """Run n frames through their rows and the dam, in order; returns the new dirty count.

    Parameters
    ----------
    decide : bool
        True: verdicts of well-formed frames are decided here. False (replay): ``verdict`` holds them as journalled.
    devices, frames
        New devices get a row.
    overrides : float64 [2 k]
        Rates and bursts of devices with their own limits: rate, burst, rate, burst, ...
    limits, dam : float64 [8], [3]
        See the indices at the top of this module; ``dam`` is updated.
    """
    rows, row, verdict, skip = devices.rows, frames.row, frames.verdict, frames.skip
    for i in range(row.shape[0]):
        r, v = np.int64(row[i]), np.int64(verdict[i])
        if v >= _FIRST_MALFORMED:
            if r >= 0 and skip[i] == 0:
                dirty_count = touch(rows, r, step, clean_step, dirty, dirty_count)
                rows["malformed"][r] += _ONE
            continue
        rate, burst, own = limits[DEVICE_RATE], limits[DEVICE_BURST], frames.own[i]
        if own >= 0:
            rate, burst = overrides[2 * own], overrides[2 * own + 1]
        undecided, blocked = decide, frames.blocked[i] != 0
        if r < 0:  # an earlier frame may have created the row
            r = max(np.int64(find(devices.slots, devices.key, rows, frames.ids[i, 0], frames.ids[i, 1])), np.int64(-1))
            if r < 0:
                r, v = admit_new(decide, i, devices, frames, burst, limits, dam)
                undecided = False
            row[i] = r
        if r >= 0 and skip[i] == 0:
            dirty_count = touch(rows, r, step, clean_step, dirty, dirty_count)
            sequence, epoch = frames.sequence[i], frames.epoch[i]
            hashed, time_ns = frames.frame_hash[i], frames.time_ns[i]
            v = take_frame(rows, r, v, undecided, sequence, epoch, hashed, time_ns, rate, burst, blocked, limits, dam)
            if v != _REPLAYED and v != _UNSIGNED:
                note_source(rows, r, frames.source[i])
        verdict[i] = np.uint8(v)
        if v == _PASSED:
            dam[TOKENS] -= 1.0
        elif v == _QUEUED:
            dam[DEPTH] += 1.0
    return dirty_count
