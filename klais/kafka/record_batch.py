"""One Kafka record batch (magic 2), grown as a column and closed once: a lane's unit of writing.

Kernels write the records into a reusable buffer; :meth:`RecordBatchWriter.close` compresses them once and adds the
61-byte header with producer id, epoch and base sequence (Kafka protocol guide, "Record Batch"). The last record of each
output carries the record header ``klais``, the progress of a step's output (:func:`mark`).
"""

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import google_crc32c
import lz4.frame
import numpy as np
import numpy.typing as npt

from klais.kafka import record_kernels as k

HEADER = struct.Struct(">qiibIhiqqqhii")  # base offset .. records count, 61 bytes
AFTER_LENGTH = 12  # the batch's length field counts from here
CRC_FROM = 21  # the CRC covers everything from the attributes on
_CRC_PART = struct.Struct(">hiqqqhii")
_CODECS = {"none": 0, "lz4": 3}
COMPRESS_FROM_BYTES = 200  # below, compression saves nothing
MAX_RECORDS_BYTES = (4 << 20) - 4096  # the broker's message.max.bytes, minus the header and room for the mark
MARK_KEY = "klais"
_MARK = struct.Struct("<QIQI")
_MARK_FIELD = bytes([2 * len(MARK_KEY)]) + MARK_KEY.encode() + bytes([2 * _MARK.size])
MARK_BYTES = len(_MARK_FIELD) + _MARK.size + 1  # including a longer length varint
SEQUENCE_MASK = 0x7FFF_FFFF


class Mark(NamedTuple):
    """Progress of a lane's output when it wrote a record: ``done`` records of ``step`` are written, including this one.

    ``next_raw`` is the lane's next raw offset after that step. ``lineage`` distinguishes the marks of a lane from those
    of another system that wrote to the topic before: a lane draws it once, and keeps it in journal and checkpoint.
    """

    step: int
    done: int
    next_raw: int = 0
    lineage: int = 0


def mark(step: int, done: int, next_raw: int = 0, lineage: int = 0) -> bytes:
    """Value of the record header ``klais``, little-endian: u64 step, u32 done, u64 next raw offset, u32 lineage.

    Examples
    --------
    >>> read_mark([("klais", mark(7, 3, 20, 5))])
    Mark(step=7, done=3, next_raw=20, lineage=5)
    """
    return _MARK.pack(step, done, next_raw, lineage)


def read_mark(headers: Sequence[tuple[str, bytes | None]]) -> Mark | None:
    """The mark in a record's headers; None if there is none of ours."""
    for key, value in headers:
        if key == MARK_KEY and value is not None and len(value) == _MARK.size:
            return Mark(*_MARK.unpack(value))
    return None


def next_sequence(base: int, count: int) -> int:
    """Base sequence of the batch after one of ``count`` records from ``base``: Kafka wraps to 0 after 2^31 - 1.

    Examples
    --------
    >>> next_sequence(2**31 - 1, 1)
    0
    """
    return (base + count) & SEQUENCE_MASK


@dataclass(frozen=True, slots=True)
class BuiltBatch:
    """A closed batch: ``data`` are the bytes to send, which stay the same when a send is repeated."""

    data: bytes
    count: int
    producer_id: int
    epoch: int
    base_sequence: int
    first_timestamp: int
    max_timestamp: int
    records_bytes: int

    @property
    def next_sequence(self) -> int:
        """Base sequence of the next batch."""
        return next_sequence(self.base_sequence, self.count)


class RecordBatchWriter:
    """Builds one record batch at a time in its own buffer.

    Parameters
    ----------
    limit_bytes : int
        Bytes of records, before compression, at which the batch is full. A larger single record goes alone into an
        empty batch, up to ``MAX_RECORDS_BYTES``.
    compression : {"lz4", "none"}
        Codec of the records; small batches are not compressed.
    lineage : int
        The lineage of the lane, for the marks.
    """

    def __init__(self, limit_bytes: int = 1_000_000, compression: str = "lz4", lineage: int = 0) -> None:
        if compression not in _CODECS:
            raise ValueError(f"compression {compression!r} is none of {', '.join(_CODECS)}")
        if not 1 <= limit_bytes <= MAX_RECORDS_BYTES:
            raise ValueError(f"limit_bytes {limit_bytes} is not within 1 to {MAX_RECORDS_BYTES}")
        self._limit = self._most = limit_bytes
        self._closed = 0  # bytes of records of the last batch
        self._lineage = lineage
        self._codec = _CODECS[compression]
        self._out = np.zeros(max(limit_bytes, 1 << 17) + MARK_BYTES + k.SLACK, np.uint8)
        self._state = np.zeros(5, np.int64)

    @property
    def count(self) -> int:
        """Number of records in the batch."""
        return int(self._state[k.COUNT])

    @property
    def size(self) -> int:
        """Bytes of records, before compression."""
        return int(self._state[k.AT])

    @property
    def empty(self) -> bool:
        """Whether no record was appended since the last reset."""
        return self.count == 0

    def reset(self) -> None:
        """Start the next batch in the same buffer."""
        self._state[:] = 0

    def refused(self) -> None:
        """The broker refused the last batch as too large: halve the next ones, down to a single record."""
        self._limit = max(1, min(self._limit, self._closed) // 2)

    def accepted(self) -> None:
        """The broker accepted the last batch: let the next ones grow again, up to the configured size."""
        self._limit = min(self._most, self._limit + max(64, self._limit // 8))

    def append_telemetry(
        self,
        buf: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        id_size: npt.NDArray[np.uint8],
        sequence: npt.NDArray[np.uint32],
        ts_ms: npt.NDArray[np.int64],
        index: npt.NDArray[np.int32],
        begin: int,
        step: int,
        done: int,
        next_raw: int = 0,
    ) -> int:
        """Write one clean record for each frame of ``index[begin:]``, as many as fit; the last one carries the mark.

        Parameters
        ----------
        buf : uint8 [b]
            The buffer of the frames; frame i is ``buf[starts[i] : starts[i] + lengths[i]]``.
        starts, lengths : int64 [n]
        id_size : uint8 [n]
            Bytes of device_id, 1 to 16.
        sequence : uint32 [n]
        ts_ms : int64 [n]
            Receive time, ms since the epoch: the record's timestamp.
        index : int32 [m]
            The frames to write, in this order.
        begin : int
            Where in ``index`` to start.
        step, done, next_raw : int
            The step that these frames are the output of, how many frames of that output were written before this call,
            and the lane's next raw offset after that step.

        Returns
        -------
        int
            Number of records written; fewer than ``m - begin`` if the batch is full.

        Raises
        ------
        ValueError
            If a frame of ``index`` is not inside ``buf``, has no id, or is larger than a batch may be.
        """
        columns = (buf, starts, lengths, id_size, sequence, ts_ms, index, begin)
        n = len(starts)
        if min(len(lengths), len(id_size), len(sequence), len(ts_ms)) < n or begin < 0:
            raise ValueError(f"columns of different length, or begin {begin} below 0")
        taken = int(k.append_frames(self._out, self._state, *columns, self._limit - MARK_BYTES))
        if taken == 0 and self.empty and begin < len(index):
            self._grow(int(lengths[index[begin]]) + 1024)
            taken = int(k.append_frames(self._out, self._state, *columns, self._limit - MARK_BYTES))
        if taken < 0:
            raise ValueError("a frame does not lie in its buffer, or its id size or time is out of range")
        if taken:
            self._mark_last(mark(step, done + taken, next_raw, self._lineage))
        return taken

    def append_rows(
        self,
        keys: npt.NDArray[np.uint8],
        key_sizes: npt.NDArray[np.uint8],
        values: npt.NDArray[np.uint8],
        begin: int,
        timestamp_ms: int | None = None,
    ) -> int:
        """Like :meth:`append_pairs`, for values of one size: ``values`` uint8 [n, stride]."""
        if values.ndim != 2:
            raise ValueError(f"values {values.shape} are not rows")
        stride = values.shape[1]
        starts = np.arange(len(values), dtype=np.int64) * stride
        lengths = np.full(len(values), stride, np.int64)
        return self.append_pairs(keys, key_sizes, values.reshape(-1), starts, lengths, begin, timestamp_ms)

    def append_pairs(
        self,
        keys: npt.NDArray[np.uint8],
        key_sizes: npt.NDArray[np.uint8],
        buf: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        begin: int,
        timestamp_ms: int | None = None,
    ) -> int:
        """Write one record for each pair starting at ``begin``, as many as fit; returns their number.

        Parameters
        ----------
        keys : uint8 [n, 16]
            Key i is its first ``key_sizes[i]`` bytes.
        key_sizes : uint8 [n]
            1 to 16.
        buf, starts, lengths : uint8 [b], int64 [n], int64 [n]
            Value i is ``buf[starts[i] : starts[i] + lengths[i]]``.
        begin : int
            First pair to write.
        timestamp_ms : int, optional
            Timestamp of all records, ms since the epoch; default now.

        Raises
        ------
        ValueError
            If shapes do not match, a key size is out of range, or a value is outside of ``buf`` or larger than a batch
            may be.
        """
        sizes = len(key_sizes), len(starts), len(lengths)
        if keys.ndim != 2 or keys.shape[1] != 16 or set(sizes) != {len(keys)}:
            raise ValueError(f"keys {keys.shape}, sizes, starts and lengths {sizes} are not pairs")
        ts = _timestamp(timestamp_ms)
        if begin < 0:
            raise ValueError(f"begin {begin} is below 0")
        pairs = (keys.reshape(-1), key_sizes, buf, starts, lengths, begin, ts)
        taken = int(k.append_pairs(self._out, self._state, *pairs, self._limit - MARK_BYTES))
        if taken == 0 and self.empty and begin < len(keys):
            self._grow(int(lengths[begin]) + 1024)
            taken = int(k.append_pairs(self._out, self._state, *pairs, self._limit - MARK_BYTES))
        if taken < 0:
            raise ValueError("a key size is not within 1 to 16, or a value does not lie in its buffer")
        return taken

    def append_one(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
        step: int | None = None,
        done: int | None = None,
        next_raw: int = 0,
    ) -> bool:
        """Write one record; with ``step`` and ``done`` it carries the mark. False if it no longer fits.

        Raises
        ------
        ValueError
            If the record is larger than a batch may be.
        """
        ts = _timestamp(timestamp_ms)
        marks = () if step is None else ((MARK_KEY, mark(step, done or 0, next_raw, self._lineage)),)
        state = self._state
        first = ts if self.empty else int(state[k.FIRST_TS])
        record = encode_record(ts - first, self.count, key, value, (*headers, *marks))
        if not self.empty and self.size + len(record) > self._limit:
            return False
        self._grow(len(record))
        at = self.size
        self._out[at : at + len(record)] = np.frombuffer(record, np.uint8)
        state[k.MAX_TS] = ts if self.empty else max(int(state[k.MAX_TS]), ts)
        state[k.FIRST_TS] = first
        state[k.LAST_AT], state[k.AT] = at, at + len(record)
        state[k.COUNT] += 1
        return True

    def close(self, producer_id: int, epoch: int, base_sequence: int) -> BuiltBatch:
        """Compress the records and add the header; the writer keeps its records until :meth:`reset`.

        Raises
        ------
        ValueError
            If the batch is empty (Kafka accepts no empty batches from producers).
        """
        if self.empty:
            raise ValueError("a batch without records cannot be sent")
        self._closed = self.size
        records: Any = self._out[: self.size]
        codec = 0
        if self._codec and self.size >= COMPRESS_FROM_BYTES:
            packed = lz4.frame.compress(records, compression_level=0, block_linked=False)
            if len(packed) < self.size:
                records, codec = packed, self._codec
        records = bytes(records)
        first, newest = int(self._state[k.FIRST_TS]), int(self._state[k.MAX_TS])
        n = self.count
        fields = (codec, n - 1, first, newest, producer_id, epoch, base_sequence & SEQUENCE_MASK, n)
        crc = google_crc32c.extend(google_crc32c.value(_CRC_PART.pack(*fields)), records)
        length = HEADER.size - AFTER_LENGTH + len(records)
        data = HEADER.pack(0, length, -1, 2, crc, *fields) + records
        return BuiltBatch(data, n, producer_id, epoch, base_sequence & SEQUENCE_MASK, first, newest, self.size)

    def _grow(self, record_bytes: int) -> None:
        """Make room for another record of this size; the only case in which the buffer is replaced."""
        need = self.size + record_bytes + MARK_BYTES + k.SLACK
        if self.size + record_bytes > MAX_RECORDS_BYTES:
            raise ValueError(f"a record of {record_bytes} bytes exceeds a batch ({MAX_RECORDS_BYTES} bytes)")
        if need > len(self._out):
            grown = np.zeros(need, np.uint8)
            grown[: self.size] = self._out[: self.size]
            self._out = grown

    def _mark_last(self, value: bytes) -> None:
        """Add the mark to the last record, which has no headers; its length field may need another byte."""
        at, last = self.size, int(self._state[k.LAST_AT])
        body_at, length = _read_varint(self._out, last)
        body = self._out[body_at : at - 1].tobytes()  # the last byte is the header count 0
        field = b"\x02" + _MARK_FIELD + value
        record = _varint(length - 1 + len(field)) + body + field
        self._out[last : last + len(record)] = np.frombuffer(record, np.uint8)
        self._state[k.AT] = last + len(record)


def encode_record(
    delta_ms: int, offset: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> bytes:
    """Encode one record in plain Python, for the few that are not columns."""
    parts = [b"\0", _varint(delta_ms), _varint(offset), _nullable(key), _nullable(value), _varint(len(headers))]
    for name, content in headers:
        parts += [_nullable(name.encode()), _nullable(content)]
    body = b"".join(parts)
    return _varint(len(body)) + body


def _nullable(field: bytes | None) -> bytes:
    return _varint(-1) if field is None else _varint(len(field)) + field


def _varint(value: int) -> bytes:
    rest = 2 * value if value >= 0 else -2 * value - 1
    out = bytearray()
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _read_varint(buf: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """(end, value) of the varint at ``buf[at]``, which is not negative."""
    value = shift = 0
    while True:
        byte = int(buf[at])
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return at, value >> 1


def _timestamp(given_ms: int | None) -> int:
    ts = time.time_ns() // 1_000_000 if given_ms is None else given_ms
    if not 0 <= ts <= k.MAX_TIMESTAMP_MS:
        raise ValueError(f"timestamp {ts} ms is not within 0 to {k.MAX_TIMESTAMP_MS}")
    return ts
