"""Sequence window of a device that signs its frames: each (epoch, number) is accepted once, with no time limit.

It uses the two streams of the row: 0 for the newest numbers and 1 for a hole.

- A higher epoch restarts stream 0: the device has restarted. A lower one is a replay.
- A higher number is in order. If it skips more numbers than the window holds, the numbers between the two windows
  become the *hole*: an edge that replays its spool may deliver them later. Only the newest hole that is larger than
  the remainder of the previous one is remembered.
- A number in a window that was not received yet is late. So is a number in the hole above all received ones: stream 1
  moves up through the hole.
- Any other number was received, or may have been: it is a duplicate in a window, a replay elsewhere.

The windows hold exact bits of numbers that do not overlap (the hole ends where the window of stream 0 began), so
no number is accepted twice. Unsigned frames of such a device do not change the window. No clock is involved.
"""

import numpy as np

from klais.core.devices.index import ROWS
from klais.core.devices.layout import WINDOW, Rows
from klais.core.devices.sequence import DUPLICATE, IN_ORDER, LATE, REPLAYED
from klais.jit.kernel import boolean, int64, kernel, uint32, void

_WINDOW = np.uint32(WINDOW)
_ZERO, _ONE = np.uint32(0), np.uint32(1)
_MAX_GAPS = np.uint32(1 << 20)  # a larger step of the counter counts something other than frames


@kernel(void(ROWS, int64, uint32, uint32), borrows=True)
def begin_epoch(rows: Rows, r: int, epoch: int, sequence: int) -> None:
    """Start a higher epoch with a number; the state of earlier epochs is no longer needed."""
    if rows["epoch"][r] != _ZERO:
        rows["resets"][r] += _ONE
    rows["epoch"][r] = epoch
    rows["hole_end"][r] = _ZERO
    rows["main"][r] = np.uint8(0)
    rows["restarted"][r] = np.uint8(0)
    for w in range(2):
        rows["top"][r, w] = sequence
        rows["seen"][r, w] = _ZERO
        rows["fresh"][r, w] = _ZERO
        rows["stale"][r, w] = _ZERO
    rows["seen"][r, 0] = _ONE


@kernel(void(ROWS, int64, int64, uint32), borrows=True)
def move_up(rows: Rows, r: int, w: int, sequence: int) -> None:
    """Move the top of stream ``w`` up to a higher number."""
    ahead = np.uint32(sequence - rows["top"][r, w])
    rows["seen"][r, w] = (rows["seen"][r, w] << ahead | _ONE) if ahead < _WINDOW else _ONE
    rows["top"][r, w] = sequence


@kernel(void(ROWS, int64, uint32), borrows=True)
def leave_hole(rows: Rows, r: int, sequence: int) -> None:
    """Make the numbers between the window of stream 0 and that of a number far ahead the hole, if that is larger."""
    top, hole_end = rows["top"][r, 0], rows["hole_end"][r]
    left = np.uint32(hole_end - rows["top"][r, 1]) if rows["top"][r, 1] < hole_end else _ZERO
    begins = np.uint32(sequence - _WINDOW + _ONE)  # of the new window
    if np.uint32(begins - top) >= left:
        rows["top"][r, 1] = top
        rows["seen"][r, 1] = rows["seen"][r, 0]
        rows["hole_end"][r] = begins


@kernel(boolean(ROWS, int64, int64, uint32), borrows=True)
def has_seen(rows: Rows, r: int, w: int, sequence: int) -> bool:
    """Whether a number in the window of stream ``w`` was received; marks it as received."""
    bit = _ONE << np.uint32(rows["top"][r, w] - sequence)
    if rows["seen"][r, w] & bit != _ZERO:
        return True
    rows["seen"][r, w] |= bit
    return False


@kernel(int64(ROWS, int64, uint32), borrows=True)
def take_behind(rows: Rows, r: int, sequence: int) -> int:
    """A number of this epoch that is not above all others: LATE, DUPLICATE or REPLAYED."""
    if np.uint32(rows["top"][r, 0] - sequence) < _WINDOW:
        return DUPLICATE if has_seen(rows, r, 0, sequence) else LATE
    if sequence >= rows["hole_end"][r]:
        return REPLAYED
    if sequence > rows["top"][r, 1]:
        move_up(rows, r, 1, sequence)
        return LATE
    if np.uint32(rows["top"][r, 1] - sequence) < _WINDOW:
        return DUPLICATE if has_seen(rows, r, 1, sequence) else LATE
    return REPLAYED


@kernel(int64(ROWS, int64, uint32, uint32), borrows=True)
def observe_signed(rows: Rows, r: int, epoch: int, sequence: int) -> int:
    """Enter a signed frame in the window of row ``r``: IN_ORDER, LATE, DUPLICATE or REPLAYED. ``epoch`` is not 0."""
    if epoch > rows["epoch"][r]:
        begin_epoch(rows, r, epoch, sequence)
        return IN_ORDER
    if epoch < rows["epoch"][r]:
        return REPLAYED
    if sequence <= rows["top"][r, 0]:
        outcome = take_behind(rows, r, sequence)
        if outcome == LATE:
            rows["late"][r] += _ONE
            rows["gaps"][r] -= min(rows["gaps"][r], _ONE)
        return int(outcome)
    ahead = np.uint32(sequence - rows["top"][r, 0])
    if ahead > _MAX_GAPS:
        rows["jumps"][r] += _ONE
    else:
        rows["gaps"][r] += np.uint32(ahead - _ONE)
    if ahead > _WINDOW:
        leave_hole(rows, r, sequence)
    move_up(rows, r, 0, sequence)
    return IN_ORDER
