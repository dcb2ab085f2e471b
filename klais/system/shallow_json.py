"""JSON from outside: parsed, with a limit on the nesting depth for the code that walks it.

orjson parses 1,024 levels. Python's ``repr``, ``==`` and ``json.dumps`` fail at fewer with a RecursionError, which
readers of records do not expect, and ``orjson.dumps`` fails at 254.
"""

from typing import Any

import orjson

from klais.system.small_json import MAX_LEVELS, is_deep


def loads(data: bytes | str) -> Any:
    """Parse ``data``.

    Raises
    ------
    ValueError
        If it is not JSON, or nested deeper than ``MAX_LEVELS``.

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
    if opened > MAX_LEVELS and is_deep(found):
        raise ValueError(f"JSON of more than {MAX_LEVELS} levels")
    return found
