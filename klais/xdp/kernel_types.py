"""Layouts of the running kernel's own structures, from its type information (BTF, ``Documentation/bpf/btf.rst``)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BTF = Path("/sys/kernel/btf/vmlinux")
_MAGIC, _STRUCT, _UNION = 0xEB9F, 4, 5
_TYPE_BYTES, _MEMBER_BYTES = 12, 12
# Bytes after a type of each kind: a fixed number, and for each of its `vlen` parts.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_PART = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
# Fields that bpf/xdp_filter.c reads, and their expected offsets.
_EXPECTED = {
    "xdp_buff": {"data_hard_start": 24, "frame_sz": 48},
    "skb_shared_info": {"gso_size": 4, "gso_segs": 6},
}
_CACHE_LINE = 64  # SMP_CACHE_BYTES on x86-64, arm64 and riscv64


@dataclass(frozen=True, slots=True)
class Struct:
    """Size of a structure and the offsets of its members, in bytes."""

    size: int
    offsets: dict[str, int]


def skb_tail(btf: Path = BTF) -> int | None:
    """Bytes from the end of a packet's buffer (``xdp_buff.frame_sz``) back to its ``skb_shared_info``.

    None if the kernel does not describe its types, or they differ from those that the filter expects.
    """
    try:
        found = structs(btf.read_bytes(), set(_EXPECTED))
    except (OSError, struct.error, ValueError):
        return None
    for name, expected in _EXPECTED.items():
        if name not in found or any(found[name].offsets.get(member) != at for member, at in expected.items()):
            return None
    return -(-found["skb_shared_info"].size // _CACHE_LINE) * _CACHE_LINE


def structs(raw: bytes, names: set[str]) -> dict[str, Struct]:
    """The structures called ``names`` in a BTF file.

    Raises
    ------
    ValueError, struct.error
        If it is not BTF, or cut off.
    """
    magic, _, _, header_bytes, type_at, type_bytes, text_at, text_bytes = struct.unpack_from("<HBBIIIII", raw)
    if magic != _MAGIC:
        raise ValueError(f"not BTF: it begins with {magic:#06x}")
    text, types = raw[header_bytes + text_at :][:text_bytes], raw[header_bytes + type_at :][:type_bytes]
    wanted = {text.find(b"\0" + name.encode() + b"\0") + 1: name for name in names}
    places = list(_places(types))
    found = {}
    for at in places:
        name_at, info, size = struct.unpack_from("<III", types, at)
        if info >> 24 & 31 == _STRUCT and name_at in wanted:
            found[wanted[name_at]] = Struct(size, dict(_members(types, places, text, at)))
    return found


def _places(types: bytes) -> Iterator[int]:
    """The start of each type; the first has number 1."""
    at = 0
    while at < len(types):
        yield at
        info = int.from_bytes(types[at + 4 : at + 8], "little")
        kind = info >> 24 & 31
        at += _TYPE_BYTES + _FIXED.get(kind, 0) + _PER_PART.get(kind, 0) * (info & 0xFFFF)


def _members(types: bytes, places: list[int], text: bytes, at: int) -> Iterator[tuple[str, int]]:
    """Names and offsets of the members of a structure, including those of anonymous ones in it."""
    info = int.from_bytes(types[at + 4 : at + 8], "little")
    parts = types[at + _TYPE_BYTES :][: (info & 0xFFFF) * _MEMBER_BYTES]
    for name_at, kind, bits in struct.iter_unpack("<III", parts):
        offset = (bits & 0xFFFFFF if info >> 31 else bits) // 8
        name = text[name_at : text.index(b"\0", name_at)].decode()
        inner = places[kind - 1]
        if name:
            yield name, offset
        elif types[inner + 7] & 31 in (_STRUCT, _UNION):
            yield from ((below, offset + more) for below, more in _members(types, places, text, inner))
