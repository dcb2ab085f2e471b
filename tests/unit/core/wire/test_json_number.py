"""Numbers as doubles: rounding, range, digits beyond the nineteenth; ``float()`` is the judge."""

import math
import random
import struct

import numpy as np
import pytest

from klais.core.wire.json_number import read_number


def read(text: str, tail: bytes = b"") -> float:
    buf = np.frombuffer(text.encode() + tail, np.uint8)
    after, value = read_number(buf, 0, len(buf), 1)
    assert after == len(text)
    return float(value)


HARD = [
    "0", "-0", "0.0", "0e999999999999", "1", "9007199254740992", "9007199254740993", "9007199254740995", "1e22",
    "1e23", "1e-22", "1e-23", "8.5e-22", "123456789012345678", "9999999999999999999", "18446744073709551615",
    "18446744073709551616", "0.1", "0.3", "2.2250738585072011e-308", "2.2250738585072012e-308",
    "2.2250738585072014e-308", "4.9e-324", "4.940656458412465e-324", "2.4703282292062327e-324",
    "2.4703282292062328e-324", "1e-323", "1e-324", "1e-342", "1e-343", "1e-400", "3e-320", "1.7976931348623157e308",
    "1.7976931348623158e308", "17976931348623157e292", "0.000000000000000000000000000000000000001e339",
    "6.0221407e23", "1.6e-35", "9007199254740993e-1", "45035996273704985e-1", "7.2057594037927933e16", "5e-324",
    "1e308", "1448997445238699", "6.631236846766476e-316", "3.237883913302901e-319", "8.589934594e9", "1" + "0" * 300,
    "0." + "0" * 300 + "1", "1" + "0" * 400 + "e-400", "0." + "0" * 65000 + "5e65001",
    "1e+0000000000000000000000000000000000005",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD)
def test_hard_numbers_are_rounded_correctly(text: str) -> None:
    value = read(text)
    assert (value, math.copysign(1, value)) == (float(text), math.copysign(1, float(text)))
    assert read("-" + text.lstrip("-")) == -abs(float(text))


BEYOND = ["1e309", "1.7976931348623159e308", "1e999999999999999999999", "1" + "0" * 309, "9" * 400, "-1e310"]


@pytest.mark.parametrize("text", BEYOND)
def test_beyond_the_range_is_infinite(text: str) -> None:
    assert read(text) == float(text)
    assert math.isinf(read(text))


def test_half_way_goes_to_even_and_powers_of_ten_are_exact() -> None:
    for bits in (54, 55, 60, 63):
        for odd in (1, 3, 5):
            text = str((1 << bits) + odd * (1 << (bits - 53)))
            assert read(text) == float(text)
    for power in range(1, 5):  # (2**53 + odd) / 2**power in decimal
        for odd in (1, 3, 5, 7):
            text = f"{((1 << 53) + odd) * 5**power}e-{power}"
            assert read(text) == float(text)
    for power in range(-345, 310):
        for digits in ("1", "9007199254740993", "9999999999999999999"):
            assert read(f"{digits}e{power}") == float(f"{digits}e{power}")


def test_up_to_19_digits_are_rounded_correctly() -> None:
    rng = random.Random(20)
    for _ in range(20_000):
        digits = rng.randrange(10 ** rng.randrange(1, 20))
        texts = [
            repr(struct.unpack("<d", struct.pack("<Q", rng.randrange(0x7FF0 << 48)))[0]),
            f"{digits}e{rng.randrange(-360, 310)}",
            f"{rng.randrange(10_000)}.{rng.randrange(10**12):012}",
        ]
        for text in texts:
            assert read(text) == float(text), text


def test_more_than_19_digits_are_off_by_one_unit_at_most() -> None:
    rng = random.Random(21)
    for _ in range(5_000):
        whole, part = rng.randrange(10 ** rng.randrange(1, 40)), rng.randrange(10 ** rng.randrange(20, 60))
        text = f"{whole}.{part}e{rng.randrange(-300, 250)}"
        true = float(text)
        assert abs(read(text) - true) <= math.ulp(true), text


@pytest.mark.parametrize("text", ["-", "01", "-01", "00", "1.", "1.e5", "1e", "1e+", "1e-", "-a", "0.e1", "1.-1"])
def test_texts_that_are_no_numbers(text: str) -> None:
    buf = np.frombuffer(text.encode(), np.uint8)
    assert read_number(buf, 0, len(buf), 1)[0] == -1


@pytest.mark.parametrize("tail", [b"}", b" ", b",", b".", b"e", b"x", b"\xff"])
def test_reading_stops_at_the_end_given(tail: bytes) -> None:
    buf = np.frombuffer(b"123" + tail, np.uint8)
    assert read_number(buf, 0, 3, 1) == (3, 123.0)
    assert read_number(buf, 0, 2, 1) == (2, 12.0)


@pytest.mark.parametrize("text", ["5e-324", "-1.5", "0", "9" * 400, "1e999", "1.", "01", "-", "1e"])
def test_a_number_whose_value_nobody_wants_ends_where_it_ends(text: str) -> None:
    buf = np.frombuffer(text.encode() + b",", np.uint8)
    assert read_number(buf, 0, len(buf), 0) == (read_number(buf, 0, len(buf), 1)[0], 0.0)
