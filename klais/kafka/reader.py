"""Reading one partition back: the journal and the staging topic in recovery, and how far an output topic got."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.config import Settings
from klais.errors import KafkaUnavailable, OffsetGone, TopicMismatch
from klais.kafka.clients import aiokafka_config
from klais.kafka.record_batch import read_mark
from klais.log import get

log = get("klais.kafka.reader")

FETCH_BYTES = 8 << 20  # at least twice the largest record, or aiokafka would skip it
POLL_MS = 50  # how long a tail of control records alone can hide that the end is reached
RECORDS_A_TURN = 2000
LOG_EVERY_S = 5.0
TAIL_STRIDE = 16


class RawRecord(NamedTuple):
    """One record as it lies in the log."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class PartitionReader:
    """Reads records of any partition between two offsets, with a consumer of its own that is in no group.

    One read at a time; control records (transaction markers) are passed over.

    Parameters
    ----------
    settings : Settings
        Where Kafka is.
    timeout_s : float
        How long a read, or the start, may be without an answer before KafkaUnavailable is raised.
    """

    def __init__(self, settings: Settings, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {
            **aiokafka_config(settings),
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_uncommitted",
            "fetch_max_bytes": FETCH_BYTES,
            "max_partition_fetch_bytes": FETCH_BYTES,
            "fetch_max_wait_ms": 100,
            "request_timeout_ms": 30_000,
            "metadata_max_age_ms": 60_000,
        }
        self._consumer: AIOKafkaConsumer | None = None
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> "PartitionReader":
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect; waits up to ``timeout_s`` for a broker.

        Raises
        ------
        KafkaUnavailable
            No broker answered.
        """
        started, told_at = time.monotonic(), 0.0
        while True:
            consumer = AIOKafkaConsumer(**self._options)
            try:
                await asyncio.wait_for(consumer.start(), self._timeout_s)
            except (kafka_errors.KafkaError, TimeoutError) as error:
                await consumer.stop()
                waited_s = time.monotonic() - started
                if waited_s >= self._timeout_s:
                    raise KafkaUnavailable(f"no answer from {self._options['bootstrap_servers']}: {error!r}") from error
                if time.monotonic() - told_at >= LOG_EVERY_S:
                    told_at = time.monotonic()
                    log.warning("kafka_awaited", since_s=round(waited_s), error=repr(error))
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                await consumer.stop()
                raise
            else:
                self._consumer = consumer
                return

    async def stop(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """(log start offset, end offset) of a partition.

        Raises
        ------
        TopicMismatch
            There is no such partition.
        KafkaUnavailable
            No answer within ``timeout_s``.
        """
        consumer, where = self._started(), TopicPartition(topic, partition)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._check_exists(where)
                    start = (await consumer.beginning_offsets([where]))[where]
                    end = (await consumer.end_offsets([where]))[where]
                return int(start), int(end)
            except (kafka_errors.KafkaError, TimeoutError) as error:
                if time.monotonic() >= deadline:
                    raise KafkaUnavailable(f"no offsets of {topic}/{partition}: {error!r}") from error
                await asyncio.sleep(0.2)

    async def read(self, topic: str, partition: int, start: int, end: int | None = None) -> AsyncIterator[RawRecord]:
        """Records from offset ``start`` up to, not including, ``end`` (default and at most: the end offset now).

        Raises
        ------
        OffsetGone
            ``start`` lies before the log's start (retention) or behind its end; carries both.
        TopicMismatch
            There is no such partition.
        KafkaUnavailable
            No answer within ``timeout_s``.
        """
        log_start, log_end = await self.offsets(topic, partition)
        stop = log_end if end is None else min(end, log_end)
        if start >= stop and start <= log_end:
            return
        if not log_start <= start <= log_end:
            raise _gone(topic, partition, start, log_start, log_end)
        async with self._reading:
            async for batch in self._fetch(TopicPartition(topic, partition), start, stop):
                for record in batch:
                    yield RawRecord(record.offset, record.key, record.value, record.headers)

    async def _fetch(self, where: TopicPartition, start: int, stop: int) -> AsyncIterator[list[Any]]:
        """Lists of records of [start, stop); ends by the position, as the last offsets may all be control records."""
        consumer = self._started()
        consumer.assign([where])
        consumer.seek(where, start)
        position, moved_at = start, time.monotonic()
        while position < stop:
            try:
                got = await consumer.getmany(where, timeout_ms=POLL_MS, max_records=RECORDS_A_TURN)
                now_at = int(await consumer.position(where))
            except kafka_errors.OffsetOutOfRangeError as error:
                log_start, log_end = await self.offsets(where.topic, where.partition)
                raise _gone(where.topic, where.partition, position, log_start, log_end) from error
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise KafkaUnavailable(f"cannot read {where.topic}/{where.partition}: {error!r}") from error
                got, now_at = {}, position
                await asyncio.sleep(0.2)
            if now_at != position:
                position, moved_at = now_at, time.monotonic()
            elif time.monotonic() - moved_at > self._timeout_s:
                raise KafkaUnavailable(f"{where.topic}/{where.partition} gives nothing at offset {position} of {stop}")
            records = got.get(where, [])
            if records and records[-1].offset >= stop:
                records = [record for record in records if record.offset < stop]
            if records:
                yield records

    async def _check_exists(self, where: TopicPartition) -> None:
        known = (await self._started()._client.fetch_all_metadata()).partitions_for_topic(where.topic)
        if not known or where.partition not in known:
            raise TopicMismatch(f"there is no {where.topic}/{where.partition}; partitions known: {sorted(known or ())}")

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the reader is not started")
        return self._consumer


async def last_own_position(
    reader: PartitionReader, topic: str, partition: int, floor_offset: int = 0
) -> tuple[int, int] | None:
    """(step, frames done) of the last record that carries a mark of ours at or after ``floor_offset``; None without one.

    Looks backwards from the end in growing strides; control records and records of others are passed over. No offset is
    read twice.
    """
    log_start, high = await reader.offsets(topic, partition)
    floor = max(floor_offset, log_start)
    stride = 1
    while high > floor:
        low = max(floor, high - stride)
        found = None
        async for record in reader.read(topic, partition, low, high):
            found = read_mark(record.headers) or found
        if found is not None:
            return found
        high, stride = low, stride * TAIL_STRIDE
    return None


def _gone(topic: str, partition: int, wanted: int, log_start: int, log_end: int) -> OffsetGone:
    return OffsetGone(
        f"{topic}/{partition} holds offsets {log_start} to {log_end}, not {wanted}"
        + (": retention has removed it" if wanted < log_start else ""),
        log_start,
        log_end,
    )
