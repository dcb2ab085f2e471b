"""Checks beyond RFC 8259 for readers of the clean topic: duplicate keys, lone surrogates, long numbers.

The check is a second walk over payloads that have passed :mod:`klais.core.wire.json_scan`, only done on request
(``KLAIS_JSON_STRICT``). Parsers differ in which of two equal keys they take, some refuse an unpaired ``\\ud800``, and
numbers of thousands of digits take them long.

Equal keys are found with a hash table of (object, key), with the key as text: ``"a"`` and ``"\\u0061"`` are equal. Its
hash is a polynomial modulo 2^61 - 1 at a random, secret point (Carter and Wegman, "Universal classes of hash
functions", 1979), so that an attacker cannot choose keys that collide: two different keys of n characters have the same
hash with a probability of n / 2^61, and then count as equal. The table has room for twice the members that a payload
can have. A walk that probes it more often than the payload has bytes ends as if it had found a duplicate, so the cost
is linear in any case.
"""

import secrets
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE, Reason
from klais.core.wire.json_number import multiply_128
from klais.core.wire.json_path import MAX_DEPTH
from klais.jit.kernel import BYTES, I64, U8, U64, int64, kernel, uint64, void

__all__ = ["MAX_NUMBER_BYTES", "Problem", "check_strict", "problem_of"]

MAX_NUMBER_BYTES = 40


class Problem(IntEnum):
    """Why a payload is not strict; the first problem from the left counts."""

    NONE = 0
    DUPLICATE_KEY = 1
    LONE_SURROGATE = 2
    LONG_NUMBER = 3

    @property
    def label(self) -> str:
        """Lower-case name, the ``detail`` of a dead letter."""
        return self.name.lower()


_NOT_STRICT = np.uint8(Reason.NOT_STRICT)
_DUPLICATE_KEY, _LONE_SURROGATE, _LONG_NUMBER = (int(problem) for problem in list(Problem)[1:])
_QUOTE, _BACKSLASH, _COMMA, _MINUS, _PLUS, _POINT, _ZERO, _NINE = (ord(c) for c in '"\\,-+.09')
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = (ord(c) for c in "{}[]")
_SMALL_E, _U = ord("e"), ord("u")
_P = np.uint64((1 << 61) - 1)
_U0, _U1, _U3, _U33, _U61 = (np.uint64(x) for x in (0, 1, 3, 33, 61))
_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SECRET = np.uint64((1 << 32) + secrets.randbelow((1 << 61) - (1 << 33)))


@kernel(uint64(uint64, uint64, int64), borrows=True)
def _extend(value: np.uint64, point: np.uint64, character: int) -> np.uint64:
    """``value * point + character + 1`` modulo 2^61 - 1."""
    high, low = multiply_128(value, point)
    value = (low & _P) + (high << _U3 | low >> _U61)
    value = (value & _P) + (value >> _U61) + np.uint64(character + 1)
    return value - _P if value >= _P else value


@kernel(int64(BYTES, int64), borrows=True)
def _hex_4(buf: npt.NDArray[np.uint8], p: int) -> int:
    """Value of the four hex digits at ``p``."""
    value = 0
    for k in range(p, p + 4):
        digit = int(buf[k])
        value = value << 4 | (digit - _ZERO if digit <= _NINE else (digit | 0x20) - 0x57)
    return value


@kernel((BYTES, int64), borrows=True)
def _escaped(buf: npt.NDArray[np.uint8], p: int) -> tuple[int, int]:
    """The escape whose backslash is before ``p``: (position after it, its character; -1 for a lone surrogate)."""
    c = np.int64(buf[p])
    if c != _U:
        if c == 0x62:
            return p + 1, 8
        if c == 0x66:
            return p + 1, 12
        if c == 0x6E:
            return p + 1, 10
        if c == 0x72:
            return p + 1, 13
        return p + 1, 9 if c == 0x74 else int(c)
    unit = _hex_4(buf, p + 1)
    p += 5
    if not 0xD800 <= unit <= 0xDFFF:
        return p, unit
    # A string ends with a quote, so the bytes after an escape or a backslash may be read.
    if unit >= 0xDC00 or buf[p] != _BACKSLASH or buf[p + 1] != _U:
        return p, -1
    low = _hex_4(buf, p + 2)
    if not 0xDC00 <= low <= 0xDFFF:
        return p, -1
    return p + 6, 0x10000 + ((unit - 0xD800) << 10) + low - 0xDC00


@kernel((BYTES, int64, int64, uint64, uint64), borrows=True)
def _read_text(
    buf: npt.NDArray[np.uint8], p: int, end: int, value: np.uint64, point: np.uint64
) -> tuple[int, np.uint64]:
    """The valid string whose first byte is at ``p``: (position after its quote; -1: lone surrogate, ``value``
    extended).
    """
    while p < end and buf[p] != _QUOTE:
        c = np.int64(buf[p])
        p += 1
        if c == _BACKSLASH:
            p, c = _escaped(buf, p)
            if c < 0:
                return -1, value
        elif c >= 0xC0:  # UTF-8, already checked
            more = 1 if c < 0xE0 else (2 if c < 0xF0 else 3)
            c &= 0x3F >> more
            for k in range(p, p + more):
                c = c << 6 | (np.int64(buf[k]) & 0x3F)
            p += more
        if value != _U0:
            value = _extend(value, point, c)
    return p + 1, value


@kernel(int64(U64, I64, int64, uint64), borrows=True)
def _insert(keys: npt.NDArray[np.uint64], owner: npt.NDArray[np.int64], frame: int, key: np.uint64) -> int:
    """Insert ``key`` into the table of this frame: returns the number of probes, negative if it was present."""
    mask = keys.shape[0] - 1
    mixed = (key ^ (key >> _U33)) * _M1
    mixed = (mixed ^ (mixed >> _U33)) * _M2
    slot = np.int64(mixed >> _U33) & mask
    probes = 1
    while owner[slot] == frame and probes <= mask:
        if keys[slot] == key:
            return -probes
        slot = (slot + 1) & mask
        probes += 1
    owner[slot] = frame
    keys[slot] = key
    return probes


@kernel(int64(BYTES, int64, int64, int64, uint64, U64, I64, I64), borrows=True)
def _first_problem(
    buf: npt.NDArray[np.uint8],
    start: int,
    end: int,
    frame: int,
    point: np.uint64,
    keys: npt.NDArray[np.uint64],
    owner: npt.NDArray[np.int64],
    serial: npt.NDArray[np.int64],
) -> int:
    """First problem of one valid payload, 0 if none. ``serial`` [MAX_DEPTH + 1] numbers the open objects."""
    depth, objects, made = 0, 0, 0
    probes = end - start
    key_due = False
    p = start
    while p < end:
        c = buf[p]
        p += 1
        if c == _QUOTE:
            p, key = _read_text(buf, p, end, np.uint64(serial[depth]) if key_due else _U0, point)
            if p < 0:
                return _LONE_SURROGATE
            if key_due:
                found = _insert(keys, owner, frame, key)
                probes -= abs(found)
                if found < 0 or probes < 0:
                    return _DUPLICATE_KEY
                key_due = False
        elif c in (_OPEN_OBJECT, _OPEN_ARRAY) and depth < MAX_DEPTH:
            depth += 1
            key_due = c == _OPEN_OBJECT
            objects = objects << 1 | (1 if key_due else 0)
            made += 1
            serial[depth] = made
        elif c in (_CLOSE_OBJECT, _CLOSE_ARRAY):
            depth -= 1
            objects >>= 1
            key_due = False
        elif c == _COMMA:
            key_due = objects & 1 == 1
        elif c == _MINUS or _ZERO <= c <= _NINE:
            first = p - 1
            while p < end and (
                _ZERO <= buf[p] <= _NINE or buf[p] | 0x20 == _SMALL_E or buf[p] in (_PLUS, _MINUS, _POINT)
            ):
                p += 1
            if p - first > MAX_NUMBER_BYTES:
                return _LONG_NUMBER
    return 0


@kernel(void(BYTES, I64, I64, U8, uint64, U64, I64, I64, U8))
def find_problems(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    skip: npt.NDArray[np.uint8],
    point: np.uint64,
    keys: npt.NDArray[np.uint64],
    owner: npt.NDArray[np.int64],
    serial: npt.NDArray[np.int64],
    problem: npt.NDArray[np.uint8],
) -> None:
    """First :class:`Problem` of each payload.

    Parameters
    ----------
    buf, starts, ends : uint8 [b], int64 [n], int64 [n]
        Payload i is ``buf[starts[i] : ends[i]]``.
    skip : uint8 [n]
        0 for payloads to check, which must have passed ``scan_payloads``.
    point : int
        The secret point at which the hash's polynomial is evaluated.
    keys, owner : uint64 [t], int64 [t]
        Hash table; t a power of two, more than half the bytes of the longest payload. ``owner`` is initially 0.
    serial : int64 [MAX_DEPTH + 1]
        Work space.
    problem : uint8 [n], out
        The first problem, 0 if none.
    """
    for i in range(starts.shape[0]):
        problem[i] = 0
        if skip[i] == 0:
            problem[i] = _first_problem(buf, starts[i], ends[i], i + 1, point, keys, owner, serial)


def _problems(
    buf: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], skip: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    problem = np.zeros(len(starts), np.uint8)
    if len(starts):
        size = 1 << (int((ends - starts).max(initial=0)) // 2 + 64).bit_length()
        table = np.empty(size, np.uint64), np.zeros(size, np.int64)
        find_problems(buf, starts, ends, skip, _SECRET, *table, np.zeros(MAX_DEPTH + 1, np.int64), problem)
    return problem


def check_strict(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    reason: npt.NDArray[np.uint8],
) -> int:
    """Set ``reason`` (uint8 [n]) of frames that are not strict from 0 to NOT_STRICT; returns their number.

    Frame i is ``buf[starts[i] : starts[i] + lengths[i]]``; frames whose reason is not 0 are unchanged.
    """
    bad = _problems(buf, starts + HEADER_SIZE, starts + lengths, reason) != 0
    reason[bad] = _NOT_STRICT
    return int(np.count_nonzero(bad))


def problem_of(payload: bytes) -> Problem:
    """First problem of one payload that is a JSON object.

    Examples
    --------
    >>> problem_of(b'{"a":1,"\\\\u0061":2}')
    <Problem.DUPLICATE_KEY: 1>
    """
    buf = np.frombuffer(payload, np.uint8)
    return Problem(int(_problems(buf, np.zeros(1, np.int64), np.array([len(buf)]), np.zeros(1, np.uint8))[0]))
