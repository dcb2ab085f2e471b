"""The wire frame: offsets, the ``Reason`` of every verdict, and the kernels that read frames as columns.

A frame is ``magic u16 be | device_id 16 bytes NUL-padded UTF-8 | sequence u32 be | payload (one JSON object)``.
:mod:`klais.core.wire.json_scan` checks the payload; this module checks everything before it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import (
    FIRST_MALFORMED,
    HEADER_SIZE,
    ID_OFFSET,
    ID_SIZE,
    LAST_MALFORMED,
    MAGIC,
    MAGIC_BYTES,
    MAX_FRAME_SIZE,
    SEQUENCE_OFFSET,
    VERDICTS,
    Reason,
    encode_frame,
)
from klais.jit.intrinsics import copy_bytes, load_u64
from klais.jit.kernel import BYTES, I64, IDS, U8, U32, boolean, int64, kernel, uint64, void

__all__ = [
    "FIRST_MALFORMED",
    "HEADER_SIZE",
    "ID_OFFSET",
    "ID_SIZE",
    "LAST_MALFORMED",
    "MAGIC",
    "MAGIC_BYTES",
    "MAX_FRAME_SIZE",
    "SEQUENCE_OFFSET",
    "VERDICTS",
    "Reason",
    "check_headers",
    "copy_frame",
    "encode_frame",
    "is_utf8",
    "read_header",
]

_TOO_SHORT = np.uint8(Reason.TOO_SHORT)
_BAD_MAGIC = np.uint8(Reason.BAD_MAGIC)
_BAD_ID = np.uint8(Reason.BAD_DEVICE_ID)
_ONE, _ONES, _HIGH_BITS = np.uint64(1), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@kernel(boolean(BYTES, int64, int64), borrows=True)
def is_utf8(buf: npt.NDArray[np.uint8], start: int, end: int) -> bool:
    """Whether ``buf[start:end]`` is well-formed UTF-8 (RFC 3629: not overlong, no surrogates, up to U+10FFFF)."""
    i = start
    while i < end:
        lead = buf[i]
        if lead < 0x80:
            i += 1
            continue
        if 0xC2 <= lead <= 0xDF:
            need, low, high = 1, 0x80, 0xBF
        elif 0xE0 <= lead <= 0xEF:
            need = 2
            low = 0xA0 if lead == 0xE0 else 0x80
            high = 0x9F if lead == 0xED else 0xBF
        elif 0xF0 <= lead <= 0xF4:
            need = 3
            low = 0x90 if lead == 0xF0 else 0x80
            high = 0x8F if lead == 0xF4 else 0xBF
        else:
            return False
        if i + need >= end:
            return False
        if buf[i + 1] < low or buf[i + 1] > high:
            return False
        for k in range(2, need + 1):
            if buf[i + k] < 0x80 or buf[i + k] > 0xBF:
                return False
        i += need + 1
    return True


@kernel(int64(uint64), borrows=True, inlined=True)
def _size_in_word(word: Any) -> int:
    """Bytes before the first NUL of eight (little-endian), 8 without one; -1 if another byte follows a NUL."""
    nul = (word - _ONES) & ~word & _HIGH_BITS  # exact up to the lowest set bit
    if nul == np.uint64(0):
        return 8
    below = ((nul & (~nul + _ONE)) >> np.uint64(7)) - _ONE  # the bytes before the first NUL
    if word & ~below:
        return -1
    return np.int64(((below & _ONES) * _ONES) >> np.uint64(56))  # type: ignore[return-value]


@kernel(int64(BYTES, int64, uint64, uint64), borrows=True, inlined=True)
def _checked_id_size(buf: npt.NDArray[np.uint8], at: int, low: Any, high: Any) -> int:
    """Bytes of the device_id at ``at``, given as words too, before its padding; 0 if it is empty, not UTF-8 or badly
    padded."""
    size = _size_in_word(low)
    if size == 8:
        more = _size_in_word(high)
        size = 0 if more < 0 else size + more
    elif size < 0 or high:
        return 0
    return 0 if (low | high) & _HIGH_BITS and not is_utf8(buf, at, at + size) else size


@kernel(boolean(BYTES, int64, int64, IDS, U32, U8), borrows=True, inlined=True)
def read_header(
    buf: npt.NDArray[np.uint8],
    s: int,
    i: int,
    ids: npt.NDArray[np.uint64],
    sequence: npt.NDArray[np.uint32],
    id_size: npt.NDArray[np.uint8],
) -> bool:
    """Read device_id and sequence of the frame at ``buf[s]`` into row ``i``; False, and nothing is read, if the id is
    invalid."""
    low = load_u64(buf, s + ID_OFFSET)
    high = load_u64(buf, s + ID_OFFSET + 8)
    size = _checked_id_size(buf, s + ID_OFFSET, low, high)
    if size == 0:
        return False
    ids[i, 0] = low
    ids[i, 1] = high
    id_size[i] = size
    number = np.uint32(0)
    for k in range(4):
        number = number << np.uint32(8) | np.uint32(buf[s + SEQUENCE_OFFSET + k])
    sequence[i] = number
    return True


@kernel(void(BYTES, I64, I64, U8, IDS, U32, U8))
def check_headers(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    reason: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint64],
    sequence: npt.NDArray[np.uint32],
    id_size: npt.NDArray[np.uint8],
) -> None:
    """Read and check the HEADER_SIZE header bytes of n frames.

    Parameters
    ----------
    buf : uint8 [b]
        The buffer that contains the frames.
    starts, lengths : int64 [n]
        Position of frame i: ``buf[starts[i] : starts[i] + lengths[i]]`` (must be inside ``buf``).
    reason : uint8 [n], out
        0, or TOO_SHORT, BAD_MAGIC, BAD_DEVICE_ID. The other outputs are 0 where it is not 0.
    ids : uint64 [n, 2], out
        The 16 bytes of device_id as two little-endian words.
    sequence : uint32 [n], out
        The sequence number.
    id_size : uint8 [n], out
        Bytes of device_id before the padding (1 to 16).
    """
    for i in range(starts.shape[0]):
        reason[i] = 0
        ids[i, 0] = 0
        ids[i, 1] = 0
        sequence[i] = 0
        id_size[i] = 0
        if lengths[i] < HEADER_SIZE:
            reason[i] = _TOO_SHORT
            continue
        s = starts[i]
        if buf[s] != 0xAA or buf[s + 1] != 0x55:
            reason[i] = _BAD_MAGIC
            continue
        if not read_header(buf, s, i, ids, sequence, id_size):
            reason[i] = _BAD_ID


@kernel(void(U8, int64, int64, BYTES, int64, int64, BYTES, int64), borrows=True, inlined=True)
def copy_frame(
    out: npt.NDArray[np.uint8],
    at: int,
    size: int,
    head: npt.NDArray[np.uint8],
    start: int,
    in_head: int,
    tail: npt.NDArray[np.uint8],
    tail_start: int,
) -> None:
    """Copy a frame of ``size`` bytes to ``out[at:]``: the first ``in_head`` from ``head``, the others from ``tail``."""
    copy_bytes(out, at, head, start, in_head)
    if size > in_head:
        copy_bytes(out, at + in_head, tail, tail_start, size - in_head)
