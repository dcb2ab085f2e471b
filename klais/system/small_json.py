"""JSON for short commands: as :mod:`klais.system.shallow_json`, without orjson, whose import takes longer than to parse
what a server answers."""

import json
from typing import Any

MAX_LEVELS = 64  # payloads of devices have up to 32, and lie in records


def loads(data: bytes) -> Any:
    """The value that ``data`` is.

    Raises
    ------
    ValueError
        It is no JSON in UTF-8, or nested deeper than ``MAX_LEVELS``.

    Examples
    --------
    >>> loads(b'{"a":[1]}')
    {'a': [1]}
    >>> loads(b"[NaN]")
    Traceback (most recent call last):
    ...
    ValueError: NaN is no JSON
    """
    try:
        found = json.loads(data.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"JSON of more than {MAX_LEVELS} levels") from None
    if data.count(b"[") + data.count(b"{") > MAX_LEVELS and is_deep(found):
        raise ValueError(f"JSON of more than {MAX_LEVELS} levels")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def is_deep(value: Any) -> bool:
    """Whether a parsed value is nested deeper than ``MAX_LEVELS``; looks at each part once."""
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return False
        level = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
    return True
