"""JSON that somebody else wrote: parsed, and not nested deeper than what walks it can go.

orjson parses 1,024 levels. Python's ``repr``, ``==`` and ``json.dumps`` give up at fewer with a RecursionError, which
no reader of records expects, and ``orjson.dumps`` gives up at 254.
"""

from typing import Any

import orjson

MOST_LEVELS = 64  # payloads of devices have up to 32, and lie in records


def loads(data: bytes | str) -> Any:
    """The value that ``data`` is.

    Raises
    ------
    ValueError
        It is no JSON, or nested deeper than ``MOST_LEVELS``.

    Examples
    --------
    >>> loads(b'{"a":[1]}')
    {'a': [1]}
    >>> loads("[" * 65 + "]" * 65)
    Traceback (most recent call last):
    ...
    ValueError: JSON of more than 64 levels
    """
    found = orjson.loads(data)
    opened = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    if opened > MOST_LEVELS and is_deep(found):
        raise ValueError(f"JSON of more than {MOST_LEVELS} levels")
    return found


def is_deep(value: Any) -> bool:
    """Whether a parsed value is nested deeper than ``MOST_LEVELS``; looks at each part once."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return False
        level = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
    return True
