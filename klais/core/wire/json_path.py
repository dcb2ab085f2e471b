"""Paths of numeric payload fields: their hash, and the text for people (plain Python, no numba).

The hash of a path is FNV-1a (64 bits) over its keys' raw bytes, as they are between the quotes, each preceded by
the byte 0x1F, which is not allowed in a JSON string: ``{"a":{"b":1}}`` and ``{"a.b":1}`` differ. The kernels of
:mod:`klais.core.wire.json_scan` compute the same numbers. :func:`hash_path` is their definition; the data path does not
call it.
"""

import json
import re

ROOT_HASH = 0xCBF29CE484222325  # FNV-1a 64: offset basis and prime (Fowler, Noll, Vo)
PRIME = 0x100000001B3
SEPARATOR = 0x1F
MAX_DEPTH = 32  # of objects and arrays; the payload itself counts as 1
MAX_FIELDS_PER_FRAME = 16

MAX_NAME_BYTES = 120  # of a field's name in UTF-8
RAW_NAME_BYTES = 6 * (MAX_NAME_BYTES + 1)  # of the keys read for a name: an escape takes up to 6 bytes per character

_MASK = 0xFFFFFFFFFFFFFFFF
_WHOLE = re.compile(rb"(?:[^\\]|\\u[0-9A-Fa-f]{4}|\\[^u])*", re.DOTALL)
_ELLIPSIS = "…"


def extend_hash(path: int, key: bytes) -> int:
    """Hash of ``path`` (a hash) extended by one more key. Neither the hash nor its lower 32 bits are ever 0."""
    path = (path ^ SEPARATOR) * PRIME & _MASK
    for byte in key:
        path = (path ^ byte) * PRIME & _MASK
    return path if path & 0xFFFFFFFF else path | 1


def hash_path(keys: list[bytes]) -> int:
    """Hash of the path with these keys, outermost first.

    Examples
    --------
    >>> hash_path([b"t"]) == extend_hash(ROOT_HASH, b"t")
    True
    """
    path = ROOT_HASH
    for key in keys:
        path = extend_hash(path, key)
    return path


def path_name(raw: bytes) -> str:
    """The readable name, such as ``pos.x``, of at most 120 bytes in UTF-8; a longer one is cut and ends in an ellipsis.

    ``raw`` has the raw keys between their quotes, joined by dots; it may be cut anywhere. Characters that are not
    printable (for example lone surrogates) become U+FFFD, so a name takes at most twice its bytes in a JSON record.

    Examples
    --------
    >>> path_name(rb"pos.x\\u00e9"), len(path_name(b"k" * 1000).encode())
    ('pos.xé', 120)
    """
    whole = _WHOLE.match(raw[:RAW_NAME_BYTES])
    shown = whole.group().decode(errors="ignore") if whole else ""
    text: str = json.loads(f'"{shown}"')
    if not text.isprintable():
        text = "".join([c if c.isprintable() else "\ufffd" for c in text])
    data = text.encode()
    if len(data) > MAX_NAME_BYTES:
        return data[: MAX_NAME_BYTES - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS
    return text
