"""Safe text for one line of a terminal or a log, for any input from a device or a broker."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any


def escape(text: str) -> str:
    """``text`` with all control and other unprintable characters as backslash escapes, for one line of a terminal.

    Examples
    --------
    >>> escape("a" + chr(10) + "b")
    'a\\\\nb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def escape_lines(text: str) -> str:
    """Every line of ``text`` escaped; line breaks are kept."""
    return "\n".join(escape(line) for line in text.split("\n"))


def quote(value: Any) -> str:
    """A field's value as text without unquoted spaces; quoted as in JSON where it has spaces, quotes or ``=``.

    Examples
    --------
    >>> quote(0.25), quote("a b"), quote(b"dev-1"), quote(None)
    ('0.25', '"a b"', 'dev-1', 'none')
    """
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=plain, separators=(",", ":"))
    text = str(plain(value))
    if not text.isprintable():
        return json.dumps(text)
    if text == "" or any(c in ' "=\\' for c in text):
        return json.dumps(text, ensure_ascii=False)
    return text


def plain(value: Any) -> Any:
    """Bytes as text, numpy scalars as Python numbers, other values by ``str``: for ``json.dumps(default=)``."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # a numpy scalar
        return value.item()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return str(value)


def numbers_of(text: str) -> list[int]:
    """The numbers of a list such as ``0-3,8``, in order, each once.

    Examples
    --------
    >>> numbers_of("0-3,8")
    [0, 1, 2, 3, 8]

    Raises
    ------
    ValueError
        If a part is not a number, or its last number is below its first.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (some := range(int(first), int(last or first) + 1)):
            raise ValueError(f"{part!r} ends before it begins: write {last}-{first}")
        found |= set(some)
    return sorted(found)


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: ``1 frame``, ``2 frames``."""
    return f"{number} {one if number == 1 else many}"


def iso_seconds(ms: int) -> str:
    """A time (ms since the epoch) in UTC; raises the errors of ``datetime`` if it is out of range.

    Examples
    --------
    >>> iso_seconds(1_700_000_000_123)
    '2023-11-14T22:13:20Z'
    """
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def near_names(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names that may have been meant by ``name``, the nearest first."""
    import difflib

    return difflib.get_close_matches(name, list(known), n, cutoff)
