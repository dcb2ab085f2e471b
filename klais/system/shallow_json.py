"""JSON that somebody else wrote: parsed, and not nested deeper than what walks it can go.

orjson parses 1,024 levels. Python's ``repr``, ``==`` and ``json.dumps`` give up at fewer with a RecursionError, which
no reader of records expects, and ``orjson.dumps`` gives up at 254.
"""

from typing import Any

import orjson

from klais.system.small_json import MOST_LEVELS, is_deep


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
