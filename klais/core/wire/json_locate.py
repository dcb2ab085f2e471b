"""The position of the keys of one numeric field in its payload, and its name: for the few fields that are new or
flagged.
"""

import numpy as np
import numpy.typing as npt

from klais.core.wire.json_number import read_number
from klais.core.wire.json_path import MAX_DEPTH, PRIME, RAW_NAME_BYTES, ROOT_HASH, SEPARATOR, path_name
from klais.jit.kernel import BYTES, U8, int64, kernel, uint64

__all__ = ["copy_keys", "field_name", "locate_field"]

SPANS = int64[:, ::1]
_ROOT, _PRIME, _SEPARATOR = np.uint64(ROOT_HASH), np.uint64(PRIME), np.uint64(SEPARATOR)
_LOW, _U0, _U1 = np.uint64(0xFFFFFFFF), np.uint64(0), np.uint64(1)
_QUOTE, _BACKSLASH, _COMMA, _MINUS, _ZERO, _NINE = (ord(c) for c in '"\\,-09')
_DOT = np.uint8(ord("."))
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(c) for c in "{}[]")


@kernel((BYTES, int64, int64), borrows=True)
def _string_close(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """Position of the closing quote of the valid string whose first byte is at ``p``."""
    while p < end and buf[p] != _QUOTE:
        p += 2 if buf[p] == _BACKSLASH else 1
    return p


@kernel(uint64(BYTES, SPANS, int64), borrows=True)
def _hash_spans(buf: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64], depth: int) -> np.uint64:
    """Hash of the path whose keys are in ``spans[:depth]``."""
    path = _ROOT
    for k in range(depth):
        path = (path ^ _SEPARATOR) * _PRIME
        for p in range(spans[k, 0], spans[k, 1]):
            path = (path ^ np.uint64(buf[p])) * _PRIME
        if path & _LOW == _U0:
            path |= _U1
    return path


@kernel(int64(BYTES, int64, int64, int64, uint64, SPANS), borrows=True)
def locate_field(
    buf: npt.NDArray[np.uint8], start: int, end: int, nth: int, path: np.uint64, spans: npt.NDArray[np.int64]
) -> int:
    """Walk a payload up to one field: returns the number of its keys; ``spans`` gets their positions.

    Each byte is visited once, except those of numbers and of the path's keys, which are visited twice.

    Parameters
    ----------
    buf : uint8 [b]
        The payload is ``buf[start:end]`` (must be inside ``buf``) and has passed ``scan_payloads``.
    nth, path : int, uint64
        Index, from 0, among the fields that ``scan_payloads`` emits for this payload, and the field's path hash.
    spans : int64 [MAX_DEPTH, 2], out
        Start and end of each key's bytes (between the quotes), outermost first.

    Returns
    -------
    int
        Number of keys of the path; 0 if that field does not exist, or has another hash.
    """
    depth, arrays, found = -1, 0, 0
    objects = 0  # one bit for each open container, the innermost lowest: 1 for an object
    key_due = False
    p = start
    while p < end:
        c = buf[p]
        p += 1
        if c == _QUOTE:
            first = p
            p = _string_close(buf, p, end) + 1
            if key_due:
                spans[depth, 0] = first
                spans[depth, 1] = p - 1
                key_due = False
        elif c in (_OPEN_OBJECT, _OPEN_ARRAY):
            if depth + 1 == MAX_DEPTH:
                return 0
            depth += 1
            key_due = c == _OPEN_OBJECT
            objects = objects << 1 | (1 if key_due else 0)
            arrays += 0 if key_due else 1
        elif c in (_CLOSE_OBJECT, _CLOSE_ARRAY):
            depth -= 1
            objects >>= 1
            arrays -= 0 if c == _CLOSE_OBJECT else 1
            key_due = False
        elif c == _COMMA:
            key_due = objects & 1 == 1
        elif c == _MINUS or _ZERO <= c <= _NINE:
            p, value = read_number(buf, p - 1, end, 1)
            if p < 0:
                return 0
            if arrays == 0 and depth >= 0 and np.isfinite(value):
                if found == nth:
                    return depth + 1 if _hash_spans(buf, spans, depth + 1) == path else 0
                found += 1
    return 0


@kernel(int64(BYTES, int64, int64, int64, uint64, SPANS, U8), borrows=True)
def copy_keys(
    buf: npt.NDArray[np.uint8],
    start: int,
    end: int,
    nth: int,
    path: np.uint64,
    spans: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> int:
    """Copy a field's keys, joined by dots, to ``out`` as far as they fit; returns the number of bytes, -1 if not found.

    The other parameters are those of :func:`locate_field`.
    """
    depth = locate_field(buf, start, end, nth, path, spans)
    at = 0
    for k in range(depth):
        if k > 0 and at < out.shape[0]:
            out[at] = _DOT
            at += 1
        size = min(spans[k, 1] - spans[k, 0], out.shape[0] - at)
        for i in range(size):
            out[at + i] = buf[spans[k, 0] + i]
        at += size
    return at if depth > 0 else -1


def field_name(buf: npt.NDArray[np.uint8], start: int, end: int, nth: int, path: int) -> str | None:
    """Readable name of a field (see :func:`path_name`); None if there is no such field.

    The parameters are those of :func:`locate_field`.

    Examples
    --------
    >>> from klais.core.wire.json_path import hash_path
    >>> payload = np.frombuffer(b'{"t":1,"pos":{"x":2}}', np.uint8)
    >>> field_name(payload, 0, len(payload), 1, hash_path([b"pos", b"x"]))
    'pos.x'
    """
    spans, out = np.empty((MAX_DEPTH, 2), np.int64), np.empty(RAW_NAME_BYTES, np.uint8)
    size = copy_keys(buf, start, end, nth, np.uint64(path), spans, out)
    return None if size < 0 else path_name(out[:size].tobytes())
