"""Reads topics as frame columns, for tests and checks, with a simple loop over records (about 150,000/s)."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from klais.config.load import Settings
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import ID_SIZE, MAGIC_BYTES, Reason
from klais.errors import BatchFormatError, KafkaUnavailable
from klais.kafka.clients import confluent_config, headers_of
from klais.kafka.topics import Topics
from klais.sim.columns import FrameColumns, columns_of, joined

Offsets = dict[int, int]
PIECE_FRAMES = 500_000
TIMEOUT_S = 30.0
MAX_TS_MS = 2**63 - 1
MAX_TS_DIGITS = 19
_DATA = b',"data":'
_REASONS = {reason.label.encode(): int(reason) for reason in Reason}


def read_topic_columns(settings: Settings, topic: str, from_offsets: Offsets, to_offsets: Offsets) -> FrameColumns:
    """Frames of a topic between offsets, partition by partition, in order.

    Parameters
    ----------
    topic : str
        ``klais_raw`` (every frame of every batch; a batch that an edge sent twice counts once), the clean records'
        topic (the frame is rebuilt: its payload is the record's ``data``, byte for byte), or the dead letters.
    from_offsets, to_offsets : dict
        Partition to first offset, and to the one after the last (``klais.kafka.offsets``).

    Notes
    -----
        A clean record with another format, or whose key is not its device_id, gives a frame that was never sent, so the
        judge reports it as invented.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no record arrived for 30 s.
    """
    topics = Topics.of(settings)
    reader = _Reader()
    add = {topics.raw: reader.add_batch, topics.dead_letter: reader.add_dead_letter}.get(topic, reader.add_clean)
    _consume(settings, topic, from_offsets, to_offsets, add)
    return reader.columns()


class _Reader:
    """Collects frames and converts them to columns in portions."""

    def __init__(self) -> None:
        self._pieces: list[FrameColumns] = []
        self._batches: set[tuple[int, int, int, int]] = set()
        self._clear()

    def _clear(self) -> None:
        self._parts: list[bytes] = []
        self._lengths: list[int] = []
        self._ts_ms: list[int] = []
        self._partition: list[int] = []
        self._reason: list[int] = []
        self._lane: list[bool] = []

    def _add(self, partition: int, frame: bytes, ts_ms: int, reason: int = 0, lane: bool = True) -> None:
        self._parts.append(frame)
        self._lengths.append(len(frame))
        self._ts_ms.append(ts_ms)
        self._partition.append(partition)
        self._reason.append(reason)
        self._lane.append(lane)
        if len(self._lengths) >= PIECE_FRAMES:
            self._flush()

    def add_clean(self, message: Any) -> None:
        value = message.value() or b""
        at = value.find(_DATA)  # a quote inside the device_id is escaped, so the first match is the member
        try:
            head = orjson.loads(value[:at] + b"}")
            device_id = head["device_id"].encode()
            ts_ms = head["ts"]
            if at < 0 or message.key() != device_id or len(device_id) > ID_SIZE or value[-1:] != b"}":
                raise ValueError
            if type(ts_ms) is not int or not 0 <= ts_ms <= MAX_TS_MS:
                raise ValueError
            frame = MAGIC_BYTES + device_id.ljust(ID_SIZE, b"\0") + head["seq"].to_bytes(4, "big") + value[at + 8 : -1]
            self._add(message.partition(), frame, ts_ms)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
            self._add(message.partition(), b"not a clean record: " + value, 0)

    def add_dead_letter(self, message: Any) -> None:
        headers = dict(headers_of(message))
        reason = _REASONS.get(headers.get("reason") or b"", 0)
        text = headers.get("ts") or b""  # another program may have written the record
        ts_ms = int(text) if text.isdigit() and len(text) < MAX_TS_DIGITS else 0
        self._add(message.partition(), message.value() or b"", ts_ms, reason, headers.get("stage") == b"lane")

    def add_batch(self, message: Any) -> None:
        try:
            batch = decode_batch(message.value() or b"")
        except BatchFormatError:
            return  # it has no frames: a lane sends the whole record to the dead letters
        partition = message.partition()
        name = (partition, batch.edge, batch.boot, batch.number)
        if name in self._batches:
            return
        self._batches.add(name)
        n = batch.count
        at_ns = np.full(n, batch.received_at, np.int64)
        if batch.offsets is not None:
            at_ns += batch.offsets
        columns = columns_of(
            batch.buf, batch.starts, batch.lengths, at_ns // 1_000_000, np.full(n, partition, np.int32)
        )
        self._pieces.append(columns)

    def _flush(self) -> None:
        lengths = np.array(self._lengths, np.int64)
        buf = np.frombuffer(b"".join(self._parts), np.uint8)
        starts = np.cumsum(lengths) - lengths
        partition = np.array(self._partition, np.int32)
        columns = columns_of(buf, starts, lengths, np.array(self._ts_ms, np.int64), partition)
        columns.reason[:] = self._reason
        columns.lane[:] = self._lane
        self._pieces.append(columns)
        self._clear()

    def columns(self) -> FrameColumns:
        self._flush()
        columns = joined(self._pieces)
        return columns.take(np.argsort(columns.partition, kind="stable"))


def _consume(
    settings: Settings, topic: str, from_offsets: Offsets, to_offsets: Offsets, add: Callable[[Any], None]
) -> None:
    left = {p: to for p, to in to_offsets.items() if from_offsets.get(p, 0) < to}
    if not left:
        return
    consumer = _consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, p, from_offsets.get(p, 0)) for p in left])
        heard_at = time.monotonic()
        while left:
            messages = consumer.consume(10_000, timeout=0.5)
            heard_at = time.monotonic() if messages else heard_at
            if time.monotonic() - heard_at > TIMEOUT_S:
                raise KafkaUnavailable(
                    f"{topic}: no record for {TIMEOUT_S:g} s; partitions not read to the end: {left}"
                )
            for message in messages:
                partition, error = message.partition(), message.error()
                if error is not None:
                    # Only control records remain at the end of a partition.
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaUnavailable(f"reading {topic}: {error}")
                    if message.offset() >= left.get(partition, 0):
                        left.pop(partition, None)
                elif partition in left and message.offset() < left[partition]:
                    add(message)
                    if message.offset() + 1 == left[partition]:
                        del left[partition]
                else:
                    left.pop(partition, None)
    finally:
        consumer.close()


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        {
            **confluent_config(settings),
            "group.id": f"klais-readback-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 8 << 20,
            "queued.min.messages": 100_000,
        }
    )
