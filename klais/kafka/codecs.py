"""Limit of the memory that decompressing one record batch takes.

A broker decompresses a batch piece by piece and accepts it whatever its records need: one megabyte of zstd may hold
thirty gigabytes of zeros. aiokafka decompresses it as a whole, which would end the worker, and the next one as well.
Here a batch above :data:`LIMIT_BYTES` raises an error instead, as one that cannot be read.
"""

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import cramjam
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch

LIMIT_BYTES = 16 << 20  # four times the largest batch that KLAIS writes
_XERIAL_HEADER = 16  # bytes before the first block of Java's snappy framing
_local = threading.local()


class BatchTooLarge(ValueError):
    """The records of a compressed batch need more than :data:`LIMIT_BYTES`, or their length is wrong."""


def limit_decompression() -> None:
    """Give aiokafka the limited functions. It may be called more than once; all clients of the process have them."""
    module: Any = sys.modules[DefaultRecordBatch.__module__]  # compiled, or in Python where there is no wheel
    module.gzip_decode = partial(_decode, cramjam.gzip.decompress_into)
    module.lz4_decode = partial(_decode, cramjam.lz4.decompress_into)
    module.zstd_decode = partial(_decode, cramjam.zstd.decompress_into)
    module.snappy_decode = _decode_snappy


def _decode(decompress_into: Callable[[Any, bytearray], int], payload: Any) -> bytes:
    room: bytearray | None = getattr(_local, "room", None)
    if room is None or len(room) != LIMIT_BYTES:
        room = _local.room = bytearray(LIMIT_BYTES)  # the kernel gives pages only where data are written
    try:
        size = decompress_into(bytes(payload), room)
    except cramjam.DecompressionError as error:
        _local.room = None  # its pages would stay in memory
        raise BatchTooLarge(f"damaged, or more than {LIMIT_BYTES} bytes: {error}") from error
    return bytes(memoryview(room)[:size])


def _decode_snappy(payload: bytes) -> bytes:
    total = sum(map(cramjam.snappy.decompress_raw_len, _snappy_blocks(payload)))
    if total > LIMIT_BYTES:
        raise BatchTooLarge(f"{total} bytes, more than {LIMIT_BYTES}")
    decoded: bytes = codec.snappy_decode(payload)
    return decoded


def _snappy_blocks(payload: bytes) -> list[bytes]:
    """The blocks of a batch: one, or several in Java's framing, each after its length (int32)."""
    if not codec._detect_xerial_stream(payload):
        return [payload]
    at, out = _XERIAL_HEADER, []
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 4], "big", signed=True)
        if size <= 0 or at + 4 + size > len(payload):
            raise BatchTooLarge(f"a block of {size} bytes")
        out.append(payload[at + 4 : at + 4 + size])
        at += 4 + size
    return out
