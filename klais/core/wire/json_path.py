"""Paths of numeric payload fields: their hash, and the text for people (plain Python, no numba).

The hash of a path is FNV-1a (64 bits) over its keys' raw bytes, as they stand between the quotes, each preceded by the byte
0x1F, which no JSON string may hold: ``{"a":{"b":1}}`` and ``{"a.b":1}`` differ. The kernels of
:mod:`klais.core.wire.json_scan` compute the same numbers.
"""

import json
import re
from collections.abc import Iterator

ROOT_HASH = 0xCBF29CE484222325  # FNV-1a 64: offset basis and prime (Fowler, Noll, Vo)
PRIME = 0x100000001B3
SEPARATOR = 0x1F
MAX_DEPTH = 32  # of objects and arrays; the payload itself counts as 1
MAX_FIELDS_PER_FRAME = 16

_MASK = 0xFFFFFFFFFFFFFFFF
_TOKEN = re.compile(rb'[ \t\n\r]*(?:"((?:[^"\\]|\\.)*)"|([{}\[\],:])|([^ \t\n\r{}\[\],:"]+))', re.DOTALL)


def extend_hash(path: int, key: bytes) -> int:
    """Hash of ``path`` (a hash) extended by one more key. Neither it nor its lower 32 bits are ever 0."""
    path = (path ^ SEPARATOR) * PRIME & _MASK
    for byte in key:
        path = (path ^ byte) * PRIME & _MASK
    return path if path & 0xFFFFFFFF else path | 1


def hash_path(keys: list[bytes]) -> int:
    """Hash of the path that these keys make, outermost first.

    Examples
    --------
    >>> hash_path([b"t"]) == extend_hash(ROOT_HASH, b"t")
    True
    """
    path = ROOT_HASH
    for key in keys:
        path = extend_hash(path, key)
    return path


def numeric_paths(payload: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Keys (raw bytes) and text of each number of a valid payload that is not inside an array, in order."""
    keys: list[bytes] = []
    containers: list[bytes] = []
    key: bytes | None = None  # the member being read; None where a key is due
    for match in _TOKEN.finditer(payload):
        string, mark, scalar = match.groups()
        in_object = bool(containers) and containers[-1] == b"{"
        if mark in (b"{", b"["):
            containers.append(mark)
            keys.append(key or b"")
            key = None
        elif mark in (b"}", b"]"):
            containers.pop()
            keys.pop()
        elif mark == b",":
            key = None
        elif string is not None and in_object and key is None:
            key = string
        elif scalar is not None and scalar[0] in b"-0123456789" and b"[" not in containers and key is not None:
            yield [*keys[1:], key], scalar


def path_text(payload: bytes, path_hash: int) -> str:
    """Name of the path with this hash in one valid payload, such as ``pos.x``; "?" where the payload has no such path.

    Examples
    --------
    >>> path_text(b'{"pos":{"x":1}}', hash_path([b"pos", b"x"]))
    'pos.x'
    """
    for keys, _ in numeric_paths(payload):
        if hash_path(keys) == path_hash:
            return ".".join(_key_text(key) for key in keys)
    return "?"


def _key_text(key: bytes) -> str:
    try:
        text = str(json.loads(b'"' + key + b'"'))
    except ValueError:
        return key.decode(errors="replace")
    return text.encode(errors="replace").decode()  # a lone surrogate has no UTF-8 form
