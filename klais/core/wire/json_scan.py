"""The payload as columns: a strict JSON check of every frame that also emits its numeric fields.

The grammar is RFC 8259, and the payload must be exactly one object, optionally surrounded by white space. Where the RFC
leaves a choice: the text is UTF-8 without a byte order mark; at most 32 levels of objects and arrays; duplicate keys
are allowed, and each is emitted; an unpaired escape ``\\ud800`` is allowed (the grammar and Python's ``json`` allow it,
orjson does not); a number beyond the range of doubles is valid but not emitted.

Verdicts: BAD_UTF8 if the payload as a whole is not UTF-8, else TOO_DEEP or BAD_JSON, whichever comes first from the
left, else NOT_OBJECT if the text is valid JSON of another type. An empty payload is BAD_JSON.

A number is a field if it is not inside an array (elements have no stable name): its path is the chain of its keys, see
:mod:`klais.core.wire.json_path`. The first 16 of a frame are emitted. A refused frame emits none. Names are rarely
needed, so the scan keeps no key positions: :mod:`klais.core.wire.json_locate` finds them for one field.
"""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE, Reason
from klais.core.wire.frame import is_utf8
from klais.core.wire.json_number import read_number
from klais.core.wire.json_path import MAX_DEPTH, MAX_FIELDS_PER_FRAME, PRIME, ROOT_HASH, SEPARATOR
from klais.jit.kernel import BYTES, F64, I32, I64, U8, U64, int64, kernel, uint64

__all__ = ["MAX_DEPTH", "MAX_FIELDS_PER_FRAME", "check_payloads", "scan_payloads"]

_BAD_UTF8, _BAD_JSON = np.uint8(Reason.BAD_UTF8), np.uint8(Reason.BAD_JSON)
_NOT_OBJECT, _TOO_DEEP = np.uint8(Reason.NOT_OBJECT), np.uint8(Reason.TOO_DEEP)
_ROOT, _PRIME, _SEPARATOR = np.uint64(ROOT_HASH), np.uint64(PRIME), np.uint64(SEPARATOR)
_MUTED, _LOW, _U1 = np.uint64(0), np.uint64(0xFFFFFFFF), np.uint64(1)
_QUOTE, _BACKSLASH, _COLON, _COMMA, _MINUS, _ZERO, _NINE = (ord(c) for c in '"\\:,-09')
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(c) for c in "{}[]")
_T, _F, _N, _U = (ord(c) for c in "tfnu")
_SPACE = 0x20
_SIMPLE_ESCAPES = tuple(b'"\\/bfnrt')


@kernel((BYTES, int64, int64), borrows=True)
def _skip_space(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """First position from ``p`` that is not white space, or ``end``."""
    while p < end and (buf[p] == _SPACE or buf[p] == 0x0A or buf[p] == 0x0D or buf[p] == 0x09):
        p += 1
    return p


@kernel((BYTES, int64, int64), borrows=True)
def _escape_end(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """Position after the escape whose backslash is before ``p``, or -1."""
    if p >= end:
        return -1
    c = buf[p]
    if c == _U:
        if p + 5 > end:
            return -1
        for k in range(p + 1, p + 5):
            h = buf[k] | 0x20
            if not (_ZERO <= buf[k] <= _NINE or 0x61 <= h <= 0x66):
                return -1
        return p + 5
    return p + 1 if c in _SIMPLE_ESCAPES else -1


@kernel((BYTES, int64, int64), borrows=True)
def _beyond_ascii_end(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """Position after the run of bytes above 0x7F that starts at ``p``; -1 if there is none or it is not UTF-8."""
    first = p
    while p < end and buf[p] >= 0x80:
        p += 1
    return p if p > first and is_utf8(buf, first, p) else -1


@kernel((BYTES, int64, int64), borrows=True)
def _string_end(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """Position after the closing quote of the string whose first byte is at ``p``, or -1."""
    while p < end:
        c = buf[p]
        p += 1
        if c == _QUOTE:
            return p
        if c == _BACKSLASH:
            p = _escape_end(buf, p, end)
        elif np.int8(c) < _SPACE:  # a control character, or 0x80 and above
            p = _beyond_ascii_end(buf, p - 1, end)
        if p < 0:
            return -1
    return -1


@kernel((BYTES, int64, int64, uint64), borrows=True)
def _read_key(buf: npt.NDArray[np.uint8], p: int, end: int, prefix: np.uint64) -> tuple[int, np.uint64]:
    """The key and colon expected at ``p``: (position after them or -1, path hash, which is muted if ``prefix`` is)."""
    p = _skip_space(buf, p, end)
    if p >= end or buf[p] != _QUOTE:
        return -1, _MUTED
    first = p + 1
    p = _string_end(buf, first, end)
    if p < 0:
        return -1, _MUTED
    path = prefix
    if prefix != _MUTED:
        for k in range(first, p - 1):
            path = (path ^ np.uint64(buf[k])) * _PRIME
        if path & _LOW == _MUTED:
            path |= _U1
    p = _skip_space(buf, p, end)
    if p >= end or buf[p] != _COLON:
        return -1, _MUTED
    return p + 1, path


@kernel((BYTES, int64, int64), borrows=True)
def _literal_end(buf: npt.NDArray[np.uint8], p: int, end: int) -> int:
    """Position after the true, false or null at ``p``, or -1."""
    if p + 4 > end:
        return -1
    a, b, c, d = buf[p], buf[p + 1], buf[p + 2], buf[p + 3]
    if (a == _T and b == 0x72 and c == _U and d == 0x65) or (a == _N and b == _U and c == 0x6C and d == 0x6C):
        return p + 4
    if a == _F and b == 0x61 and c == 0x6C and d == 0x73 and p + 5 <= end and buf[p + 4] == 0x65:
        return p + 5
    return -1


@kernel((BYTES, int64, int64, int64, int64), borrows=True, inlined=True)
def _close(buf: npt.NDArray[np.uint8], p: int, end: int, depth: int, objects: int) -> tuple[int, int, int]:
    """After a value: close containers until one has a next member. Position after its comma, depth and ``objects``.

    The position is -1 for an unexpected character. At depth 0 it is that of the first byte after the text.
    """
    while True:
        p = _skip_space(buf, p, end)
        if depth == 0:
            return p, depth, objects
        if p >= end:
            return -1, depth, objects
        c = buf[p]
        p += 1
        if c == _COMMA:
            return p, depth, objects
        if c != (_CLOSE_OBJECT if objects & 1 else _CLOSE_ARRAY):
            return -1, depth, objects
        depth -= 1
        objects >>= 1


@kernel((BYTES, int64, int64, U64, int64, U64, F64), borrows=True)
def _scan_text(
    buf: npt.NDArray[np.uint8],
    p: int,
    end: int,
    prefix: npt.NDArray[np.uint64],
    at: int,
    field_path: npt.NDArray[np.uint64],
    field_value: npt.NDArray[np.float64],
) -> tuple[np.uint8, int]:
    """Check one JSON text ``buf[p:end]``: returns (0, BAD_JSON or TOO_DEEP; number of fields so far).

    ``objects`` has one bit for each open container, the innermost lowest: 1 for an object, 0 for an array.
    ``prefix[depth]`` is the hash that keys at that depth extend; ``path`` that of the value being read, muted in
    arrays.
    """
    limit = at + MAX_FIELDS_PER_FRAME
    depth = 0
    objects = 0
    path = _ROOT
    while True:  # one value, with its key if the innermost container is an object
        if objects & 1:
            p, path = _read_key(buf, p, end, prefix[depth])
            if p < 0:
                return _BAD_JSON, at
        p = _skip_space(buf, p, end)
        if p >= end:
            return _BAD_JSON, at
        c = buf[p]
        if c == _MINUS or _ZERO <= c <= _NINE:
            wanted = at < limit and path != _MUTED
            p, value = read_number(buf, p, end, 1 if wanted else 0)
            if wanted and np.isfinite(value):
                field_path[at] = path
                field_value[at] = value
                at += 1
        elif c == _QUOTE:
            p = _string_end(buf, p + 1, end)
        elif c in (_OPEN_OBJECT, _OPEN_ARRAY):
            if depth == MAX_DEPTH:
                return _TOO_DEEP, at
            depth += 1
            is_object = c == _OPEN_OBJECT
            objects = objects << 1 | (1 if is_object else 0)
            path = (path ^ _SEPARATOR) * _PRIME if is_object and path != _MUTED else _MUTED
            prefix[depth] = path
            p = _skip_space(buf, p + 1, end)
            if p >= end or buf[p] != c + 2:  # in ASCII the closing bracket is the opening one + 2
                continue
        else:
            p = _literal_end(buf, p, end)
        if p < 0:
            return _BAD_JSON, at
        p, depth, objects = _close(buf, p, end, depth, objects)
        if p < 0:
            return _BAD_JSON, at
        if depth == 0:
            return (np.uint8(0) if p == end else _BAD_JSON), at


@kernel(int64(BYTES, I64, I64, U8, I32, U64, F64))
def scan_payloads(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    reason: npt.NDArray[np.uint8],
    field_frame: npt.NDArray[np.int32],
    field_path: npt.NDArray[np.uint64],
    field_value: npt.NDArray[np.float64],
) -> int:
    """Check the payloads of n frames and emit their numeric fields.

    Parameters
    ----------
    buf : uint8 [b]
        The buffer that contains the frames.
    starts, lengths : int64 [n]
        Position of frame i (inside ``buf``): its payload is
        ``buf[starts[i] + HEADER_SIZE : starts[i] + lengths[i]]``.
    reason : uint8 [n], in and out
        Frames whose reason is not 0 are skipped; the others get 0, BAD_UTF8, BAD_JSON, NOT_OBJECT or TOO_DEEP.
    field_frame, field_path, field_value : int32, uint64, float64 [cap], out
        Frame index, path hash and value of each field, in the order of the frames. ``cap >= n * MAX_FIELDS_PER_FRAME``.

    Returns
    -------
    int
        Number of fields emitted.
    """
    prefix = np.zeros(MAX_DEPTH + 1, np.uint64)
    count = 0
    for i in range(starts.shape[0]):
        if reason[i] != 0:
            continue
        start = starts[i] + HEADER_SIZE
        end = starts[i] + lengths[i]
        verdict, at = _scan_text(buf, start, end, prefix, count, field_path, field_value)
        if verdict != 0 and not is_utf8(buf, start, end):
            verdict = _BAD_UTF8  # takes precedence over other errors: the payload may not be text
        elif verdict == 0 and buf[_skip_space(buf, start, end)] != _OPEN_OBJECT:
            verdict = _NOT_OBJECT
        reason[i] = verdict
        if verdict == 0:
            for k in range(count, at):
                field_frame[k] = i
            count = at
    return count


def check_payloads(payloads: list[bytes]) -> list[tuple[Reason, list[tuple[int, float]]]]:
    """Verdict and fields (path hash, value) of each payload, for tools and tests that have no batch.

    Examples
    --------
    >>> check_payloads([b'{"t":21.5}', b"[]"])[1]
    (<Reason.NOT_OBJECT: 12>, [])
    """
    count = len(payloads)
    buf = np.frombuffer(b"".join(bytes(HEADER_SIZE) + payload for payload in payloads), np.uint8)
    lengths = np.array([HEADER_SIZE + len(payload) for payload in payloads], np.int64)
    cap = count * MAX_FIELDS_PER_FRAME
    frame, path, value = np.zeros(cap, np.int32), np.zeros(cap, np.uint64), np.zeros(cap)
    reason = np.zeros(count, np.uint8)
    fields = scan_payloads(buf, np.cumsum(lengths) - lengths, lengths, reason, frame, path, value)
    found: list[tuple[Reason, list[tuple[int, float]]]] = [(Reason(int(code)), []) for code in reason]
    for i in range(fields):
        found[frame[i]][1].append((int(path[i]), float(value[i])))
    return found
