"""Kernels that write Kafka records (record batch format v2) without gaps into one uint8 buffer.

A record is ``length varint | attributes int8 = 0 | timestamp delta varlong | offset delta varint | key length varint,
key | value length varint, value | header count varint | headers``; every varint is zigzag (Kafka protocol guide,
"Record Batch"; ``DefaultRecord.writeTo``). The batch's 61-byte header is added in :mod:`klais.kafka.record_batch`.

The buffer must have ``SLACK`` bytes after ``limit``: short pieces are copied as whole blocks, and the surplus is then
overwritten.
"""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE
from klais.jit.intrinsics import copy_bytes
from klais.jit.kernel import BYTES, I32, I64, U8, U32, int64, kernel

# Entries of the writer's state (int64 [5]).
AT = 0  # where the next record starts
COUNT = 1  # number of records so far
FIRST_TS = 2  # ms, timestamp of record 0: the base of the deltas
MAX_TS = 3  # ms
LAST_AT = 4  # where the last record starts

SLACK = 128  # bytes after the limit that block copies may overwrite
MAX_TIMESTAMP_MS = 1 << 53  # zigzag arithmetic stays far inside int64
BAD_FRAME = -1  # the caller passed a frame that is not inside its buffer


_PREFIX = np.frombuffer(b'{"device_id":"'.ljust(16), np.uint8).copy()
_SEQ = np.frombuffer(b'","seq":', np.uint8).copy()
_TS = np.frombuffer(b',"ts":'.ljust(8), np.uint8).copy()
_DATA = np.frombuffer(b',"data":', np.uint8).copy()
_PAIRS = np.frombuffer(b"".join(b"%02d" % i for i in range(100)), np.uint8).copy()
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
STAMP_FIXED = 6 + 8
VALUE_FIXED = 14 + 8 + STAMP_FIXED + 1  # bytes of the value's fixed text around id, seq, ts and payload
STAMP_BLOCK = 40  # `,"ts":` + at most 19 digits + `,"data":` = 33 bytes, copied as one block
_SHORT = 64  # payloads up to this size are copied as one block


@kernel()
def varint_size(value: int) -> int:
    """Bytes of ``value`` as a zigzag varint; |value| < 2^61."""
    rest = 2 * value if value >= 0 else -2 * value - 1
    size = 1
    while rest >= 128:
        rest >>= 7
        size += 1
    return size


@kernel()
def put_varint(out: npt.NDArray[np.uint8], at: int, value: int) -> int:
    """Write ``value`` (|value| < 2^61) as a zigzag varint at ``out[at]``; returns the end."""
    rest = 2 * value if value >= 0 else -2 * value - 1
    while rest >= 128:
        out[at] = (rest & 127) | 128
        at += 1
        rest >>= 7
    out[at] = rest
    return at + 1


@kernel()
def digits_size(value: int) -> int:
    """Number of decimal digits of ``value`` >= 0."""
    rest = np.uint64(value)
    size = 1
    while rest >= np.uint64(10_000):
        rest //= np.uint64(10_000)
        size += 4
    if rest >= np.uint64(1000):
        return size + 3
    if rest >= np.uint64(100):
        return size + 2
    return size + 1 if rest >= np.uint64(10) else size


@kernel()
def put_digits(out: npt.NDArray[np.uint8], at: int, value: int, size: int) -> int:
    """Write ``value`` >= 0, which has ``size`` decimal digits, at ``out[at]``; two digits per step, from the end."""
    rest = np.uint64(value)
    p = at + size
    while rest >= np.uint64(100):
        quotient = rest // np.uint64(100)
        pair = np.int64(rest - quotient * np.uint64(100))
        p -= 2
        out[p] = _PAIRS[2 * pair]
        out[p + 1] = _PAIRS[2 * pair + 1]
        rest = quotient
    last = np.int64(rest)
    if last >= 10:
        out[p - 2] = _PAIRS[2 * last]
    out[p - 1] = _PAIRS[2 * last + 1]
    return at + size


@kernel()
def escaped_size(buf: npt.NDArray[np.uint8], at: int, size: int) -> int:
    """Bytes of the device_id ``buf[at : at + size]`` as JSON text; 16 bytes are readable at ``at``."""
    special = np.uint8(0)
    for k in range(16):  # fixed length and no branch: compiles to one vector comparison
        c = buf[at + k]
        special |= np.uint8(((c < 0x20) | (c == 0x22) | (c == 0x5C)) & (k < size))
    if special == 0:
        return size
    total = 0
    for k in range(size):
        c = buf[at + k]
        total += 6 if c < 0x20 else 2 if (c == 0x22 or c == 0x5C) else 1
    return total


@kernel()
def put_escaped(out: npt.NDArray[np.uint8], at: int, buf: npt.NDArray[np.uint8], start: int, size: int) -> int:
    """Write a device_id as JSON text: quotes and backslash escaped, below 0x20 as ``\\u00XX``, the rest as is."""
    for k in range(size):
        c = buf[start + k]
        if c < 0x20:
            out[at] = 0x5C
            out[at + 1] = 0x75
            out[at + 2] = 0x30
            out[at + 3] = 0x30
            out[at + 4] = _HEX[c >> 4]
            out[at + 5] = _HEX[c & 15]
            at += 6
            continue
        if c == 0x22 or c == 0x5C:
            out[at] = 0x5C
            at += 1
        out[at] = c
        at += 1
    return at


@kernel()
def put_stamp(out: npt.NDArray[np.uint8], at: int, ts: int, ts_size: int) -> None:
    """Write ``,"ts":N,"data":`` at ``out[at]``."""
    copy_bytes(out, at, _TS, 0, 8)
    end = put_digits(out, at + 6, ts, ts_size)
    copy_bytes(out, end, _DATA, 0, 8)


@kernel()
def put_payload(out: npt.NDArray[np.uint8], at: int, buf: npt.NDArray[np.uint8], start: int, size: int) -> int:
    """Copy a payload; a short one as one block of constant size, if ``buf`` has that many bytes."""
    if size <= _SHORT and start + _SHORT <= buf.shape[0]:
        copy_bytes(out, at, buf, start, _SHORT)
    else:
        copy_bytes(out, at, buf, start, size)
    return at + size


@kernel()
def frame_is_sound(start: int, size: int, payload: int, ts: int, bytes_in_buf: int) -> bool:
    """Whether a frame is inside its buffer and its id, payload and time are within the range of this arithmetic."""
    inside = (start >= 0) & (payload >= 0) & (payload <= bytes_in_buf - HEADER_SIZE - start)
    return bool(inside & (size >= 1) & (size <= 16) & (ts >= 0) & (ts <= MAX_TIMESTAMP_MS))


@kernel()
def put_key(
    out: npt.NDArray[np.uint8],
    at: int,
    body: int,
    delta: int,
    count: int,
    buf: npt.NDArray[np.uint8],
    start: int,
    size: int,
) -> int:
    """Write a record up to its key: ``size`` <= 16 bytes at ``buf[start]``, 16 of them readable; returns the end."""
    at = put_varint(out, at, body)
    out[at] = 0
    at = put_varint(out, at + 1, delta)
    at = put_varint(out, at, count)
    out[at] = 2 * size
    copy_bytes(out, at + 1, buf, start, 16)
    return at + 1 + size


@kernel()
def put_id(
    out: npt.NDArray[np.uint8], at: int, value: int, buf: npt.NDArray[np.uint8], start: int, size: int, text: int
) -> int:
    """Write the value's size and its text up to ``"seq":``; ``text`` is the size of the device_id as JSON."""
    at = put_varint(out, at, value)
    copy_bytes(out, at, _PREFIX, 0, 16)
    at += 14
    if text == size:
        copy_bytes(out, at, buf, start, 16)
        at += size
    else:
        at = put_escaped(out, at, buf, start, size)
    copy_bytes(out, at, _SEQ, 0, 8)
    return at + 8


@kernel(int64(U8, I64, BYTES, I64, I64, U8, U32, I64, I32, int64, int64))
def append_frames(
    out: npt.NDArray[np.uint8],
    state: npt.NDArray[np.int64],
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    id_size: npt.NDArray[np.uint8],
    sequence: npt.NDArray[np.uint32],
    ts_ms: npt.NDArray[np.int64],
    index: npt.NDArray[np.int32],
    begin: int,
    limit: int,
) -> int:
    """Write one record for each of the frames ``index[begin:]`` until ``limit``; returns their number.

    Key: the device_id. Value: ``{"device_id":"...","seq":N,"ts":N,"data":<payload>}``. The columns are those of
    :class:`klais.kafka.record_batch.RecordBatchWriter`; an empty batch takes one record of any size.
    For a frame that is not inside ``buf`` it returns BAD_FRAME, and ``state`` is unchanged.
    """
    at, count, first_ts, max_ts, last_at = state[AT], state[COUNT], state[FIRST_TS], state[MAX_TS], state[LAST_AT]
    stamp_at = stamp_ts = -1  # the newest timestamp text: most frames of a batch share their millisecond
    ts_size = 0
    taken = 0
    for j in range(begin, index.shape[0]):
        i = int(index[j])
        if i < 0 or i >= starts.shape[0]:
            return BAD_FRAME
        start, size, payload, ts = starts[i], int(id_size[i]), lengths[i] - HEADER_SIZE, ts_ms[i]
        if not frame_is_sound(start, size, payload, ts, buf.shape[0]):
            return BAD_FRAME
        if count == 0:
            first_ts = max_ts = ts
        if ts != stamp_ts:
            ts_size = digits_size(ts)
        seq_size = digits_size(sequence[i])
        text = escaped_size(buf, start + 2, size)
        value = VALUE_FIXED + text + seq_size + ts_size + payload
        body = 3 + varint_size(ts - first_ts) + varint_size(count) + size + varint_size(value) + value
        end = at + varint_size(body) + body
        if (end > limit and count > 0) or end + SLACK > out.shape[0]:
            break
        last_at = at
        at = put_key(out, at, body, ts - first_ts, count, buf, start + 2, size)
        at = put_id(out, at, value, buf, start + 2, size, text)
        at = put_digits(out, at, sequence[i], seq_size)
        if ts == stamp_ts:
            copy_bytes(out, at, out, stamp_at, STAMP_BLOCK)
        else:
            put_stamp(out, at, ts, ts_size)
        stamp_at, stamp_ts = at, ts
        at = put_payload(out, at + STAMP_FIXED + ts_size, buf, start + HEADER_SIZE, payload)
        out[at] = 0x7D  # the closing brace; the count of record headers follows: none
        out[at + 1] = 0
        at += 2
        max_ts = max(max_ts, ts)
        count += 1
        taken += 1
    state[AT], state[COUNT], state[FIRST_TS], state[MAX_TS], state[LAST_AT] = at, count, first_ts, max_ts, last_at
    return taken


@kernel(int64(U8, I64, BYTES, U8, BYTES, I64, I64, int64, int64, int64))
def append_pairs(
    out: npt.NDArray[np.uint8],
    state: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint8],
    key_sizes: npt.NDArray[np.uint8],
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    begin: int,
    ts: int,
    limit: int,
) -> int:
    """Write one record for each pair starting at ``begin``, until ``limit``; returns their number, or BAD_FRAME.

    Key: the first ``key_sizes[i]`` of 16 bytes of ``keys`` (uint8 [16 n]); value: ``buf[starts[i] : starts[i] +
    lengths[i]]``; time: ``ts`` ms.
    """
    at, count, last_at = state[AT], state[COUNT], state[LAST_AT]
    taken = 0
    for i in range(begin, key_sizes.shape[0]):
        size, start, length = int(key_sizes[i]), starts[i], lengths[i]
        if size < 1 or size > 16 or start < 0 or length < 0 or length > buf.shape[0] - start:
            return BAD_FRAME
        if count == 0:
            state[FIRST_TS] = state[MAX_TS] = ts
        delta = ts - state[FIRST_TS]
        body = 3 + varint_size(delta) + varint_size(count) + size + varint_size(length) + length
        end = at + varint_size(body) + body
        if (end > limit and count > 0) or end + SLACK > out.shape[0]:
            break
        last_at = at
        at = put_key(out, at, body, delta, count, keys, 16 * i, size)
        at = put_varint(out, at, length)
        copy_bytes(out, at, buf, start, length)
        out[at + length] = 0
        at += length + 1
        count += 1
        taken += 1
    if taken > 0:
        state[MAX_TS] = max(state[MAX_TS], ts)
    state[AT], state[COUNT], state[LAST_AT] = at, count, last_at
    return taken
