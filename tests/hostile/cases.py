"""How many cases the fuzzers run, from which seed, and the corpus of inputs that every run begins with.

``KLAIS_TEST_HOSTILE_CASES`` (datagrams; other inputs are a share of that) and ``KLAIS_TEST_HOSTILE_SEED`` set both.
With ``KLAIS_TEST_SEARCH=1`` the seed is new in each run. A failure prints the seed and the input: add that as a line to
the corpus.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from klais.errors import KlaisError

CASES = int(os.environ.get("KLAIS_TEST_HOSTILE_CASES", "100000"))
SEED = int(
    os.environ.get("KLAIS_TEST_HOSTILE_SEED")
    or (secrets.randbits(32) if os.environ.get("KLAIS_TEST_SEARCH") == "1" else 1)
)
CORPUS = Path(__file__).parent / "corpus"


def rng(name: str) -> np.random.Generator:
    """Random numbers of one fuzzer; says by what they can be had again."""
    print(f"{name}: KLAIS_TEST_HOSTILE_SEED={SEED} KLAIS_TEST_HOSTILE_CASES={CASES}")
    return np.random.default_rng([SEED, *name.encode()])


def corpus(name: str) -> list[bytes]:
    """The inputs of ``corpus/name.txt``: a line is a word that says what it is, and the bytes as hexadecimal digits."""
    lines = (CORPUS / f"{name}.txt").read_text().splitlines()
    return [bytes.fromhex(line.split()[1]) if " " in line else b"" for line in lines if line and line[0] != "#"]


def shown(value: bytes) -> str:
    """An input for the message of an assertion, as the corpus has it."""
    return f"seed {SEED}: {value.hex()}"


def mutated(random: np.random.Generator, value: bytes, others: list[bytes], max_count: int = 8) -> bytes:
    """One input with a few random changes: bytes, lengths, pieces of itself and of others."""
    out = bytearray(value)
    for _ in range(int(random.integers(1, max_count + 1))):
        at = int(random.integers(0, len(out) + 1))
        kind = int(random.integers(0, 8))
        if kind == 0 and out:
            out[at % len(out)] = int(random.integers(0, 256))
        elif kind == 1 and out:
            out[at % len(out)] ^= 1 << int(random.integers(0, 8))
        elif kind == 2:  # a number where one may be: little-endian, of any width
            width = int(random.choice([1, 2, 4, 8]))
            number = int(random.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, (1 << 31) - 1, (1 << 32) - 1, 1 << 63]))
            out[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 3:
            del out[at : at + int(random.integers(1, 64))]
        elif kind == 4:
            out[at:at] = bytes(out[at : at + int(random.integers(1, 64))])
        elif kind == 5:
            other = others[int(random.integers(len(others)))]
            begin = int(random.integers(0, len(other) + 1))
            out[at:at] = other[begin : begin + int(random.integers(1, 64))]
        elif kind == 6:
            out[at:at] = TOKENS[int(random.integers(len(TOKENS)))]
        else:
            del out[at:]
    return bytes(out)


TOKENS = [
    *(b"{}", b"[]", b'"', b'""', b":", b",", b"\\", b'\\"', b"\\u0000", b"\\ud800", b"\\u00e9", b"null", b"true"),
    *(b"NaN", b"1e999", b"-0", b"1e-999", b"9" * 40, b"0.", b"-", b"{", b"}", b"[", b"]", b"\xff", b"\xed\xa0\x80"),
    *(b"\xf4\x90", b"\xc3\xa9", b"\0", b"\x1b[31m", b'{"a":' * 9, b"[" * 40, b'"a":1,', b'"":1e999,', b"\r\n"),
    *(b"\xef\xbb\xbf", b" " * 30),
]
"""What parsers have to look at twice."""


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(0.5, -0.0, 1e308, -1e308, 5e-324, 1e12, [], {}, [None], [[]], {"a": 1}, {"": None}, _nested(50)),
    *("", "x", "nan", "inf", "1e999", "-1", "²", "９", "9" * 5000, "0", "true", "i-0123456789", "a/b", "\0"),  # noqa: RUF001
    *("\x1b[31m\r\n", "‮‭", "é" * 500, "x" * 3000, "__proto__", "=1+1", "<script>"),
]
"""What stands in records in place of what belongs there."""


def changed(random: np.random.Generator, record: Any, max_count: int = 3) -> Any:
    """A JSON value in which up to ``max_count`` parts are something else, gone, or there under another name."""
    out = _copy(record)
    for _ in range(int(random.integers(1, max_count + 1))):
        places: list[tuple[Any, Any]] = []
        _places(out, places)
        if not places:
            return ODD[int(random.integers(len(ODD)))]
        inside, at = places[int(random.integers(len(places)))]
        kind = int(random.integers(0, 8))
        odd = _copy(ODD[int(random.integers(len(ODD)))])
        if kind == 0 and isinstance(inside, dict):
            del inside[at]
        elif kind == 1 and isinstance(inside, dict):
            inside[str(odd)[:5000] if not isinstance(odd, str) else odd] = inside.pop(at)
        elif kind == 2 and isinstance(inside, list):
            inside.insert(at, odd)
        elif kind == 3:
            _, other = places[int(random.integers(len(places)))], places[int(random.integers(len(places)))]
            inside[at] = _copy(other[0][other[1]])
        else:
            inside[at] = odd
    return out


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(part) for name, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _places(value: Any, out: list[tuple[Any, Any]]) -> None:
    if isinstance(value, dict | list) and len(out) < 2000:
        for at, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
            out.append((value, at))
            _places(part, out)


def read_or_refused(name: str, share: int, made: Callable[[Any, int], Any], read: Callable[[Any], object]) -> None:
    """``read`` what ``made`` gives, the whole one first; it must both happen."""
    random, outcomes = rng(name), [0, 0]
    for turn in range(max(60, CASES // share)):
        value = made(random, turn)
        try:
            read(value)
            outcomes[1] += 1
        except KlaisError as error:
            assert str(error) and turn, error
            outcomes[0] += 1
        except Exception as error:
            raise AssertionError(f"{name} {turn}: {value!r:.2000}") from error
    assert all(outcomes), outcomes
