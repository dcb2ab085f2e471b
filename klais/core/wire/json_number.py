"""Reading one JSON number (RFC 8259, section 6) as a double, in a kernel.

Up to 53 bits of digits and a power of ten up to 22 need one exact operation (Clinger, "How to read floating point
numbers accurately", 1990). Everything else uses :func:`scale_decimal`, the method of Eisel and Lemire
("Number parsing at a gigabyte per second", 2021; without a fallback: Mushtak and Lemire, 2022), which rounds
correctly for up to 19 significant digits. From the 20th on, digits are cut off, so the result may be the
neighbouring double (error below one unit in the last place).
"""

import math

import numpy as np
import numpy.typing as npt

from klais.jit.kernel import BYTES, float64, int64, kernel, uint64

_ZERO, _NINE, _MINUS, _PLUS, _POINT = ord("0"), ord("9"), ord("-"), ord("+"), ord(".")
_SMALL_E = ord("e")  # E | 0x20 is e, and nothing else is
_FAST_MANTISSA = np.uint64(1 << 53)
_TEN = np.uint64(10)
_U0, _U1, _U2, _U3, _U32, _LOW = (np.uint64(x) for x in (0, 1, 2, 3, 32, 0xFFFFFFFF))
_LOW_9_BITS = np.uint64((1 << 9) - 1)
_BIT_53 = np.uint64(1 << 53)
_EXPONENT_CAP = 1_000_000  # above the digits of any frame: beyond it the value is 0 or infinite
_POWER_OF_TEN = np.array([10.0**k for k in range(23)])
_MIN_POWER, _MAX_POWER = -342, 308


def _powers_of_five() -> npt.NDArray[np.uint64]:
    """5**q for q from -342 to 308: the leading 128 bits as two words, rounded as the proofs require: up if q < 0."""
    table = np.zeros((_MAX_POWER - _MIN_POWER + 1, 2), np.uint64)
    for q in range(_MIN_POWER, _MAX_POWER + 1):
        power = 5 ** abs(q)
        if q < 0:
            bits = power.bit_length()
            power = (1 << (bits + 127 if q >= -27 else 2 * bits + 128)) // power + 1
        shift = power.bit_length() - 128
        power = power >> shift if shift > 0 else power << -shift
        table[q - _MIN_POWER] = power >> 64, power & 0xFFFFFFFFFFFFFFFF
    return table


_POWER_OF_FIVE = _powers_of_five()


@kernel((uint64, uint64), borrows=True)
def multiply_128(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128-bit product of two words: (high, low)."""
    a0, a1 = a & _LOW, a >> _U32
    b0, b1 = b & _LOW, b >> _U32
    p01, p10 = a0 * b1, a1 * b0
    middle = ((a0 * b0) >> _U32) + (p01 & _LOW) + (p10 & _LOW)
    return a1 * b1 + (p01 >> _U32) + (p10 >> _U32) + (middle >> _U32), a * b


@kernel(float64(uint64, int64), borrows=True)
def scale_decimal(digits: np.uint64, power: int) -> float:
    """``digits * 10**power``, rounded to the nearest double, ties to even; inf above the range of doubles."""
    if digits == _U0 or power < _MIN_POWER:
        return 0.0
    if power > _MAX_POWER:
        return math.inf
    lead = 0
    for step in (32, 16, 8, 4, 2, 1):
        if digits >> np.uint64(64 - step) == _U0:
            digits = digits << np.uint64(step)
            lead += step
    high, low = multiply_128(digits, _POWER_OF_FIVE[power - _MIN_POWER, 0])
    if high & _LOW_9_BITS == _LOW_9_BITS:  # the cut-off words might carry into significant bits
        more, _ = multiply_128(digits, _POWER_OF_FIVE[power - _MIN_POWER, 1])
        low = low + more
        if low < more:
            high = high + _U1
    top = np.int64(high >> np.uint64(63))
    shift = np.uint64(top + 9)
    mantissa = high >> shift  # 54 bits: one more than a double holds
    exponent = ((217706 * power) >> 16) + 63 + top - lead + 1023  # biased; 217706 / 65536 is log2(10)
    if exponent <= 0:  # subnormal
        if exponent < -62:
            return 0.0
        mantissa = mantissa >> np.uint64(1 - exponent)
        return math.ldexp(np.float64(np.int64((mantissa + (mantissa & _U1)) >> _U1)), -1074)
    if low <= _U1 and -4 <= power <= 23 and mantissa & _U3 == _U1 and mantissa << shift == high:
        mantissa = mantissa - _U1  # exactly half way: down to even
    mantissa = (mantissa + (mantissa & _U1)) >> _U1
    if exponent + np.int64(mantissa >= _BIT_53) >= 2047:
        return math.inf
    return math.ldexp(np.float64(np.int64(mantissa)), int(exponent) - 1075)


@kernel((BYTES, int64, int64, int64), borrows=True)
def _read_long(buf: npt.NDArray[np.uint8], p: int, end: int, power: int) -> float:
    """Value of the first 19 significant digits of the number at ``p``; ``power`` belongs to its very last digit."""
    digits = _U0
    kept = 0
    while p < end and buf[p] | 0x20 != _SMALL_E:
        digit = np.int64(buf[p]) - _ZERO
        p += 1
        if digit < 0:  # the decimal point
            continue
        if kept == 19:
            power += 1
        elif kept or digit:
            digits = digits * _TEN + np.uint64(digit)
            kept += 1
    return float(scale_decimal(digits, power))


@kernel((BYTES, int64, int64), borrows=True)
def _read_exponent(buf: npt.NDArray[np.uint8], p: int, end: int) -> tuple[int, int]:
    """The exponent whose text starts at ``p``, after the e: (position after it or -1, its value, capped)."""
    negative = False
    if p < end and (buf[p] == _MINUS or buf[p] == _PLUS):
        negative = buf[p] == _MINUS
        p += 1
    first = p
    value = 0
    while p < end and _ZERO <= buf[p] <= _NINE:
        value = min(value * 10 + np.int64(buf[p]) - _ZERO, _EXPONENT_CAP)  # type: ignore[assignment]
        p += 1
    if p == first:
        return -1, 0
    return p, -value if negative else value


@kernel((BYTES, int64, int64, int64), borrows=True)
def read_number(buf: npt.NDArray[np.uint8], p: int, end: int, wanted: int) -> tuple[int, float]:
    """The JSON number that starts at ``p``, at a digit or minus: (position after it or -1, its value).

    The value is 0 unless ``wanted``, because a value near the smallest double costs several times as much as its
    digits. It is infinite beyond the range of doubles. The caller checks what follows the number.
    """
    negative = buf[p] == _MINUS
    if negative:
        p += 1
    first = p
    digits = _U0  # wraps from the 20th digit on and is then not used
    while p < end and _ZERO <= buf[p] <= _NINE:
        digits = digits * _TEN + np.uint64(buf[p] - _ZERO)
        p += 1
    count = p - first
    if count == 0 or (count > 1 and buf[first] == _ZERO):
        return -1, 0.0
    power = 0
    if p < end and buf[p] == _POINT:
        p += 1
        point = p
        while p < end and _ZERO <= buf[p] <= _NINE:
            digits = digits * _TEN + np.uint64(buf[p] - _ZERO)
            p += 1
        power = point - p
        if power == 0:
            return -1, 0.0
        count -= power
    if p < end and buf[p] | 0x20 == _SMALL_E:
        p, exponent = _read_exponent(buf, p + 1, end)
        if p < 0:
            return -1, 0.0
        power += exponent
    if not wanted:
        return p, 0.0
    if count > 19:
        value = _read_long(buf, first, p, power)
    elif digits > _FAST_MANTISSA or power < -22 or power > 22:
        value = scale_decimal(digits, power)
    elif power < 0:
        value = np.float64(np.int64(digits)) / _POWER_OF_TEN[-power]
    else:
        value = np.float64(np.int64(digits)) * _POWER_OF_TEN[power]
    return p, -value if negative else value
