"""Sequence window of a device: the last 32 sequences, each with a 16-bit hash of its frame.

Same number and same hash = duplicate. Same number and other hash, far behind the window, or more than 2^20 ahead = the
device restarted: the window starts anew, so that a rebooted device is never muted. Numbers wrap at 2^32.
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.index import ROWS
from klais.core.devices.layout import Rows
from klais.jit.kernel import BYTES, I64, U16, int64, kernel, uint32, void

IN_ORDER = 0
DUPLICATE = 1
LATE = 2
RESTART = 3
MAX_AHEAD = 1 << 20

_WINDOW = np.uint32(32)
_ONE = np.uint32(1)
_MAX_AHEAD = np.uint32(MAX_AHEAD)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel(void(BYTES, I64, I64, U16), borrows=True)
def hash_frames(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint16],
) -> None:
    """16-bit hash of each of n whole frames (``out`` uint16 [n]): eight bytes a round, multiply-mix.

    It enters the rows, so it is part of the journal's version: changing it makes old windows forget their frames.
    """
    for i in range(starts.shape[0]):
        h = np.uint64(lengths[i]) * _GOLDEN
        p = starts[i]
        end = p + lengths[i]
        while p + 8 <= end:
            word = np.uint64(0)
            for k in range(8):
                word |= np.uint64(buf[p + k]) << np.uint64(8 * k)
            h = (h ^ word) * _GOLDEN
            h ^= h >> np.uint64(29)
            p += 8
        word = np.uint64(0)
        while p < end:
            word = (word << np.uint64(8)) | np.uint64(buf[p])
            p += 1
        h = (h ^ word) * _M1
        out[i] = np.uint16(h >> np.uint64(48))


@kernel(int64(ROWS, int64, uint32, uint32), borrows=True)
def observe(rows: Rows, r: int, sequence: int, frame_hash: int) -> int:
    """Take one frame into the window of row ``r``; IN_ORDER, DUPLICATE, LATE or RESTART.

    A duplicate changes nothing; gaps, late and resets of the row are counted here.
    """
    top = rows["top"]
    seen = rows["seen"]
    gaps = rows["gaps"]
    hashes = rows["hashes"]
    slot = np.int64(sequence & np.uint32(31))
    outcome = IN_ORDER
    ahead = np.uint32(sequence - top[r])
    behind = np.uint32(top[r] - sequence)
    if rows["received"][r] == 0:
        top[r] = sequence
        seen[r] = _ONE
    elif ahead != np.uint32(0) and ahead <= _MAX_AHEAD:
        seen[r] = (seen[r] << ahead) | _ONE if ahead < _WINDOW else _ONE
        gaps[r] += np.uint64(ahead - _ONE)
        top[r] = sequence
    elif behind < _WINDOW and (seen[r] >> behind) & _ONE == np.uint32(0):
        seen[r] |= _ONE << behind
        if gaps[r] > np.uint64(0):
            gaps[r] -= np.uint64(1)
        rows["late"][r] += _ONE
        outcome = LATE
    elif behind < _WINDOW and hashes[r, slot] == np.uint16(frame_hash):
        return DUPLICATE
    else:
        top[r] = sequence
        seen[r] = _ONE
        rows["resets"][r] += _ONE
        outcome = RESTART
    hashes[r, slot] = np.uint16(frame_hash)
    return outcome
