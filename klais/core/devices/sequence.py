"""Sequence window of a device: which numbers were received, so that frames duplicated by the network are dropped.

A *duplicate* has a number in the window (32 numbers) and the same keyed 32-bit hash over the whole frame, and the first
copy came within the last half to whole ``KLAIS_SEQUENCE_WINDOW_S``. Memory is divided into two eras, halves of that
time: numbers of the newest era and of the one before are remembered. So a device that restarts with the same bytes is
accepted again after that time at the latest.

Two *streams* of numbers are tracked concurrently, because a backlog may come between live frames: from an edge that
replays its spool while the device already sends to another one, or from the device itself. The main stream has the
highest numbers. All numbers wrap at 2^32.

- The next numbers of a stream, up to 32 ahead, are in order; skipped numbers are gaps. A larger step of the main stream
  is in order too if the elapsed time explains it: twice the frames that the device's mean interval gives.
- A number in the window that was not received yet, and a frame of the older stream, are late, and fill a gap.
- A number in the window that was received with other bytes, or too long ago, and a number far behind are restarts.
- A number further ahead is a jump: the counter counts something other than frames.

A number far from both streams starts a stream that replaces the older one. It becomes the main one, unless its frame
was received more than a second before the last one: then it is a backlog, and late. If the numbers from before a
restart continue, it was not a restart and is no longer counted as one.
"""

import numpy as np

from klais.core.devices.index import ROWS
from klais.core.devices.layout import WINDOW, Rows
from klais.jit.kernel import boolean, float64, int64, kernel, uint32, void

IN_ORDER = 0
DUPLICATE = 1
LATE = 2
RESTART = 3
JUMP = 4
REPLAYED = 5  # an outcome of signed frames, and of others with KLAIS_SEQUENCE_STRICT
# What is known about a frame's outcome: nothing (it is decided now), or the entry in the journal.
UNKNOWN, NO_DUPLICATE, IS_DUPLICATE = -1, 0, 1
BACKLOG_S = 1.0  # received this long before the last frame: sent late, not by a device that restarted
MIN_INTERVAL_S = 1e-3

_WINDOW = np.uint32(WINDOW)
_ZERO = np.uint32(0)
_ONE = np.uint32(1)
_HALF = np.uint32(1 << 31)


@kernel(void(ROWS, int64, int64, int64), borrows=True)
def age(rows: Rows, r: int, w: int, era: int) -> None:
    """Advance the memory of stream ``w`` of row ``r`` to ``era``; a clock that is an era behind changes nothing."""
    passed = np.int16(np.uint16(era) - rows["era"][r, w])
    if passed == 0 or passed == -1:
        return
    rows["stale"][r, w] = rows["fresh"][r, w] if passed == 1 else _ZERO
    rows["fresh"][r, w] = _ZERO
    rows["era"][r, w] = np.uint16(era)


@kernel(boolean(ROWS, int64, int64, int64), borrows=True)
def is_current(rows: Rows, r: int, w: int, era: int) -> bool:
    """Whether stream ``w`` of row ``r`` had a frame in ``era``, the one before, or a later one."""
    passed = np.int16(np.uint16(era) - rows["era"][r, w])
    if passed > 1:
        return False
    return bool(rows["fresh"][r, w] != _ZERO or (passed < 1 and rows["stale"][r, w] != _ZERO))


@kernel(void(ROWS, int64, int64, uint32, int64), borrows=True)
def begin(rows: Rows, r: int, w: int, sequence: int, era: int) -> None:
    """Start stream ``w`` with a number."""
    rows["top"][r, w] = sequence
    rows["seen"][r, w] = _ONE
    rows["fresh"][r, w] = _ONE
    rows["stale"][r, w] = _ZERO
    rows["era"][r, w] = np.uint16(era)


@kernel(void(ROWS, int64, int64, uint32), borrows=True)
def advance(rows: Rows, r: int, w: int, sequence: int) -> None:
    """Move the top of stream ``w`` up to ``sequence``; skipped numbers are gaps."""
    ahead = np.uint32(sequence - rows["top"][r, w])
    if ahead != _ONE:
        rows["gaps"][r] += np.uint32(ahead - _ONE)
    if ahead < _WINDOW:
        rows["seen"][r, w] = rows["seen"][r, w] << ahead | _ONE
        rows["fresh"][r, w] = rows["fresh"][r, w] << ahead | _ONE
        rows["stale"][r, w] <<= ahead
    else:
        rows["seen"][r, w] = _ONE
        rows["fresh"][r, w] = _ONE
        rows["stale"][r, w] = _ZERO
    rows["top"][r, w] = sequence


@kernel(void(ROWS, int64), borrows=True)
def count_late(rows: Rows, r: int) -> None:
    """Count a late frame: it fills a gap."""
    rows["late"][r] += _ONE
    if rows["gaps"][r] > _ZERO:
        rows["gaps"][r] -= _ONE


@kernel(boolean(ROWS, int64, int64, uint32), borrows=True)
def near(rows: Rows, r: int, w: int, sequence: int) -> bool:
    """Whether a number belongs to stream ``w``: up to 32 ahead, or in its window."""
    top = rows["top"][r, w]
    ahead = np.uint32(sequence - top)
    return bool(rows["seen"][r, w] != _ZERO and (ahead <= _WINDOW or np.uint32(top - sequence) < _WINDOW))


@kernel(boolean(ROWS, int64, uint32, float64), borrows=True)
def explained(rows: Rows, r: int, ahead: int, elapsed_s: float) -> bool:
    """Whether a device may have sent twice ``ahead`` frames at its mean interval in the elapsed time."""
    if rows["intervals"][r] == np.uint16(0) or elapsed_s <= 0.0:
        return False
    return bool(np.float64(ahead) <= 2.0 * elapsed_s / max(np.float64(rows["interval_s"][r]), MIN_INTERVAL_S) + 1.0)


@kernel(int64(ROWS, int64, int64, uint32, uint32, int64, int64), borrows=True)
def take_near(rows: Rows, r: int, w: int, sequence: int, frame_hash: int, era: int, known: int) -> int:
    """Process a frame that belongs to stream ``w``: IN_ORDER, LATE, DUPLICATE or RESTART (the number again)."""
    ahead = np.uint32(sequence - rows["top"][r, w])
    if ahead != _ZERO and ahead <= _WINDOW:
        advance(rows, r, w, sequence)
        return IN_ORDER
    bit = _ONE << np.uint32(rows["top"][r, w] - sequence)
    if rows["seen"][r, w] & bit == _ZERO:
        rows["seen"][r, w] |= bit
        rows["fresh"][r, w] |= bit
        count_late(rows, r)
        return LATE
    recent = (rows["fresh"][r, w] | rows["stale"][r, w]) & bit != _ZERO
    same = recent and rows["hashes"][r, np.int64(sequence & np.uint32(31))] == frame_hash
    if known == IS_DUPLICATE or (known == UNKNOWN and same):
        return DUPLICATE
    begin(rows, r, w, sequence, era)
    rows["resets"][r] += _ONE
    rows["restarted"][r] = np.uint8(0)
    return RESTART


@kernel(int64(ROWS, int64, uint32, int64, float64), borrows=True)
def take_far(rows: Rows, r: int, sequence: int, era: int, elapsed_s: float) -> int:
    """Process a frame that belongs to no stream: IN_ORDER (a large gap), LATE, JUMP or RESTART."""
    main = np.int64(rows["main"][r])
    ahead = np.uint32(sequence - rows["top"][r, main])
    if ahead < _HALF and explained(rows, r, ahead, elapsed_s):
        advance(rows, r, main, sequence)
        return IN_ORDER
    begin(rows, r, 1 - main, sequence, era)
    if elapsed_s < -BACKLOG_S:
        count_late(rows, r)
        return LATE
    rows["main"][r] = np.uint8(1 - main)
    if ahead < _HALF:
        rows["jumps"][r] += _ONE
        rows["restarted"][r] = np.uint8(0)
        return JUMP
    rows["resets"][r] += _ONE
    rows["restarted"][r] = np.uint8(1)
    return RESTART


@kernel(int64(ROWS, int64, uint32, uint32, int64, int64), borrows=True)
def take_other(rows: Rows, r: int, sequence: int, frame_hash: int, era: int, known: int) -> int:
    """Process a frame of the older stream: late while the main one continues, else it becomes the main one again."""
    main = np.int64(rows["main"][r])
    other = 1 - main
    age(rows, r, other, era)
    lower = np.uint32(rows["top"][r, main] - sequence) < _HALF
    if lower and is_current(rows, r, main, era):
        outcome = take_near(rows, r, other, sequence, frame_hash, era, known)
        if outcome == IN_ORDER:
            count_late(rows, r)
            outcome = LATE
        return int(outcome)
    rows["main"][r] = np.uint8(other)
    if rows["restarted"][r]:
        rows["restarted"][r] = np.uint8(0)
        rows["resets"][r] -= _ONE
    return int(take_near(rows, r, other, sequence, frame_hash, era, known))


@kernel(int64(ROWS, int64, uint32, uint32, float64), borrows=True)
def judge_without_restarts(rows: Rows, r: int, sequence: int, frame_hash: int, elapsed_s: float) -> int:
    """The outcome for a device that never restarts: DUPLICATE (a number in a window again, with the same bytes),
    REPLAYED (with other bytes, or a number far behind); else IN_ORDER. Read-only; eras are ignored."""
    main = np.int64(rows["main"][r])
    if rows["seen"][r, main] == _ZERO:
        return IN_ORDER
    for k in range(2):
        w = main if k == 0 else 1 - main
        if near(rows, r, w, sequence):
            behind = np.uint32(rows["top"][r, w] - sequence)
            if behind >= _WINDOW or rows["seen"][r, w] & (_ONE << behind) == _ZERO:
                return IN_ORDER
            same = rows["hashes"][r, np.int64(sequence & np.uint32(31))] == frame_hash
            return DUPLICATE if same else REPLAYED
    if np.uint32(sequence - rows["top"][r, main]) < _HALF or elapsed_s < -BACKLOG_S:
        return IN_ORDER
    return REPLAYED


@kernel(boolean(ROWS, int64, uint32, int64), borrows=True, inlined=True)
def take_next(rows: Rows, r: int, sequence: int, era: int) -> bool:
    """Process the very next number of the main stream in the same era, the usual case; False: it is another one."""
    main = np.int64(rows["main"][r])
    if sequence != np.uint32(rows["top"][r, main] + _ONE) or np.uint16(era) != rows["era"][r, main]:
        return False
    if rows["seen"][r, main] == _ZERO:
        return False
    rows["top"][r, main] = sequence
    rows["seen"][r, main] = rows["seen"][r, main] << _ONE | _ONE
    rows["fresh"][r, main] = rows["fresh"][r, main] << _ONE | _ONE
    rows["stale"][r, main] <<= _ONE
    return True


@kernel(int64(ROWS, int64, uint32, uint32, int64, float64, int64), borrows=True)
def take_any(rows: Rows, r: int, sequence: int, frame_hash: int, era: int, elapsed_s: float, known: int) -> int:
    """Like :func:`observe`, without storing the frame's hash."""
    main = np.int64(rows["main"][r])
    if rows["seen"][r, main] == _ZERO:
        begin(rows, r, main, sequence, era)
        return IN_ORDER
    if near(rows, r, main, sequence):
        age(rows, r, main, era)
        return int(take_near(rows, r, main, sequence, frame_hash, era, known))
    if near(rows, r, 1 - main, sequence):
        return int(take_other(rows, r, sequence, frame_hash, era, known))
    return int(take_far(rows, r, sequence, era, elapsed_s))


@kernel(int64(ROWS, int64, uint32, uint32, int64, float64, int64), borrows=True, inlined=True)
def observe(rows: Rows, r: int, sequence: int, frame_hash: int, era: int, elapsed_s: float, known: int) -> int:
    """Enter one frame in the window of row ``r``: IN_ORDER, DUPLICATE, LATE, RESTART or JUMP.

    ``era``: receive time in halves of the window's time, modulo 2^16. ``elapsed_s``: receive time since that of the
    last frame, below 0 if this one was received earlier. ``known``: in a replay, whether it is a duplicate according to
    the journal.
    """
    outcome = IN_ORDER
    if not take_next(rows, r, sequence, era):
        outcome = take_any(rows, r, sequence, frame_hash, era, elapsed_s, known)
    if outcome != DUPLICATE:
        rows["hashes"][r, np.int64(sequence & np.uint32(31))] = frame_hash
    return int(outcome)
