"""Names of numeric fields by the definition, in plain Python: the naive twin of the kernels, deliberately slow."""

import json
import re
from collections.abc import Iterator

from klais.core.wire.json_path import hash_path

_TOKEN = re.compile(rb'[ \t\n\r]*(?:"((?:[^"\\]|\\.)*)"|([{}\[\],:])|([^ \t\n\r{}\[\],:"]+))', re.DOTALL)


def numeric_paths(payload: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Keys (raw bytes) and text of each number of a valid payload that is not inside an array, in order."""
    keys: list[bytes] = []
    containers: list[bytes] = []
    key: bytes | None = None  # the member being read; None if a key is expected
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
    """Name of the path with this hash in one valid payload, such as ``pos.x``; "?" if the payload has no such path."""
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
