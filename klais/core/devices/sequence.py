"""Sequence window of a device: which numbers came, so that a frame that the network doubled is dropped once.

A *duplicate* has a number of the window (32 numbers), the same keyed 32-bit hash over the whole frame, and came before
within the last half to whole ``KLAIS_SEQUENCE_WINDOW_S``. Memory is kept in two eras, halves of that time: a number of
the newest era or of the one before is remembered. So a device that starts over with the same bytes is heard again after
that time at the latest.

Two *streams* of numbers are followed side by side, because a backlog may come between live frames: from an edge that
replays its spool while the device already talks to another one, or from the device itself. The main stream has the
highest numbers. All numbers wrap at 2^32.

- The next numbers of a stream, up to 32 ahead, are in order; those left out are gaps. So is a larger step of the main
  stream as far as the time that went by explains it: twice the frames that the device's mean interval gives.
- A number of the window that did not come yet, and a frame of the older stream, are late, and fill a gap.
- A number of the window that came with other bytes, or too long ago, and a number far behind are restarts.
- A number further ahead is a jump: the counter counts something else than frames.

A number far from both streams begins a stream in the place of the older one. It becomes the main one, unless its frame
was received more than a second before the last one: then it is the backlog, and late. When the numbers from before a
restart go on, it was no restart, and is not counted as one any more.
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
# What is known of a frame's outcome before: nothing (it is decided now), or what the journal says.
UNKNOWN, NO_DUPLICATE, IS_DUPLICATE = -1, 0, 1
BACKLOG_S = 1.0  # received so long before the last frame: sent late, not by a device that started over
LEAST_INTERVAL_S = 1e-3

_WINDOW = np.uint32(WINDOW)
_ZERO = np.uint32(0)
_ONE = np.uint32(1)
_HALF = np.uint32(1 << 31)


@kernel(void(ROWS, int64, int64, int64), borrows=True)
def age(rows: Rows, r: int, w: int, era: int) -> None:
    """Bring what stream ``w`` of row ``r`` remembers to ``era``; a clock that is an era behind changes nothing."""
    passed = np.int16(np.uint16(era) - rows["era"][r, w])
    if passed == 0 or passed == -1:
        return
    rows["stale"][r, w] = rows["fresh"][r, w] if passed == 1 else _ZERO
    rows["fresh"][r, w] = _ZERO
    rows["era"][r, w] = np.uint16(era)


@kernel(boolean(ROWS, int64, int64, int64), borrows=True)
def talks(rows: Rows, r: int, w: int, era: int) -> bool:
    """Whether stream ``w`` of row ``r`` had a frame in ``era``, the one before, or a later one."""
    passed = np.int16(np.uint16(era) - rows["era"][r, w])
    if passed > 1:
        return False
    return bool(rows["fresh"][r, w] != _ZERO or (passed < 1 and rows["stale"][r, w] != _ZERO))


@kernel(void(ROWS, int64, int64, uint32, int64), borrows=True)
def begin(rows: Rows, r: int, w: int, sequence: int, era: int) -> None:
    """Begin stream ``w`` with a number."""
    rows["top"][r, w] = sequence
    rows["seen"][r, w] = _ONE
    rows["fresh"][r, w] = _ONE
    rows["stale"][r, w] = _ZERO
    rows["era"][r, w] = np.uint16(era)


@kernel(void(ROWS, int64, int64, uint32), borrows=True)
def advance(rows: Rows, r: int, w: int, sequence: int) -> None:
    """Move the top of stream ``w`` up to ``sequence``; the numbers left out are gaps."""
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
    """Whether a device of its mean interval may have sent so many frames, twice over, in the time that went by."""
    if rows["intervals"][r] == np.uint16(0) or elapsed_s <= 0.0:
        return False
    return bool(np.float64(ahead) <= 2.0 * elapsed_s / max(np.float64(rows["interval_s"][r]), LEAST_INTERVAL_S) + 1.0)


@kernel(int64(ROWS, int64, int64, uint32, uint32, int64, int64), borrows=True)
def take_near(rows: Rows, r: int, w: int, sequence: int, frame_hash: int, era: int, known: int) -> int:
    """Take a frame that belongs to stream ``w``: IN_ORDER, LATE, DUPLICATE or RESTART (the number again)."""
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
    """Take a frame that belongs to no stream: IN_ORDER (a large gap), LATE, JUMP or RESTART."""
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
    """Take a frame of the older stream: late while the main one goes on, else the older one is the main one again."""
    main = np.int64(rows["main"][r])
    other = 1 - main
    age(rows, r, other, era)
    lower = np.uint32(rows["top"][r, main] - sequence) < _HALF
    if lower and talks(rows, r, main, era):
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
def goes_back(rows: Rows, r: int, sequence: int, frame_hash: int, elapsed_s: float) -> int:
    """What a device that never starts over cannot have sent now: DUPLICATE (a number of a window again, with the same
    bytes), REPLAYED (with other bytes, or a number far behind); else IN_ORDER. Only looks, whatever the time."""
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
    """Take the very next number of the main stream, in the same era, as nearly every frame is; False: it is another."""
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
    """As :func:`observe`, without keeping the frame's hash."""
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
    """Take one frame into the window of row ``r``: IN_ORDER, DUPLICATE, LATE, RESTART or JUMP.

    ``era``: receive time in halves of the window's time, modulo 2^16. ``elapsed_s``: receive time since the last
    frame's, below 0 when it was received before that. ``known``: in a replay, whether the journal says that it was a
    duplicate.
    """
    outcome = IN_ORDER
    if not take_next(rows, r, sequence, era):
        outcome = take_any(rows, r, sequence, frame_hash, era, elapsed_s, known)
    if outcome != DUPLICATE:
        rows["hashes"][r, np.int64(sequence & np.uint32(31))] = frame_hash
    return int(outcome)
