"""Read one partition: the journal and the staging topic in recovery, the records of an output topic.

It sends requests through aiokafka's client and protocol classes. A consumer would wait in long polls at the end of the
log, fetch beyond the last offset needed, and hide control records.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable, OffsetGone, TopicMismatch
from klais.kafka.buffered_records import report_damaged
from klais.kafka.clients import aiokafka_config
from klais.kafka.closing import close_client, start_client
from klais.kafka.codecs import limit_decompression
from klais.kafka.fetched_batches import CorruptRecords, batches_beyond, leader_epoch, records_of
from klais.kafka.log_filter import filter_aiokafka
from klais.system.loop_turn import LoopTurn
from klais.telemetry.log import Throttle, get

log = get("klais.kafka.reader")

NEAR_BYTES = 64 << 10  # in one answer, for records that are close together
FETCH_BYTES = 8 << 20  # in one answer; the broker returns at least one whole batch, however large
RETRY_S = 0.1
LOG_EVERY_S = 5.0
METADATA_GRACE_S = 2.0  # a topic just created may not be in the metadata yet
CORRUPT_GRACE_S = 5.0  # a batch whose CRC is wrong for this long is skipped: repeated requests did not help
_EARLIEST, LATEST = -2, -1
READ_UNCOMMITTED = 0


class RawRecord(NamedTuple):
    """One record as stored in the log; ``control``: a transaction marker, whose content is not used.

    ``producer_id``: of its batch, -1 = it has none or :meth:`PartitionReader.read` did not read it.
    """

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    control: bool = False
    producer_id: int = -1


class PartitionReader:
    """Reads the records of any partition between two offsets; concurrent reads are allowed.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    timeout_s : float
        Time without an answer before KafkaUnavailable is raised.
    """

    def __init__(self, settings: Settings, timeout_s: float = 60.0) -> None:
        limit_decompression()
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {
            "request_timeout_ms": 30_000,
            "retry_backoff_ms": 250,
            "metadata_max_age_ms": 60_000,
            **aiokafka_config(settings),
        }
        self._client: AIOKafkaClient | None = None

    async def __aenter__(self) -> "PartitionReader":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect, with a new client if there was one; waits up to ``timeout_s`` for a broker.

        Raises
        ------
        KafkaUnavailable
            If no broker answered.
        """
        await self.stop()
        filter_aiokafka()
        deadline = _Deadline(self._timeout_s, f"no answer from {self._options['bootstrap_servers']}")
        while True:
            client = AIOKafkaClient(**self._options)
            try:
                await start_client(client, self._timeout_s)
            except (kafka_errors.KafkaError, TimeoutError) as error:
                await deadline.wait(error)
            else:
                self._client = client
                return

    async def stop(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await close_client(client)

    async def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """(log start offset, end offset) of a partition.

        Raises
        ------
        TopicMismatch
            If there is no such partition.
        KafkaUnavailable
            If there was no answer within ``timeout_s``.
        """
        found = []
        for when in (_EARLIEST, LATEST):
            request = OffsetRequest(-1, READ_UNCOMMITTED, [(topic, [(partition, when)])])
            found.append(int((await self._ask(TopicPartition(topic, partition), request))[3]))
        return found[0], found[1]

    async def read(
        self, topic: str, partition: int, start: int, end: int | None = None, controls: bool = False
    ) -> AsyncIterator[RawRecord]:
        """Read records from offset ``start`` up to, not including, ``end`` (default and maximum: the end offset now).

        Control records (transaction markers) are skipped unless ``controls`` is set; reading ends even if only those
        follow. A record batch whose CRC stays wrong is skipped as if it did not exist, and logged.

        Raises
        ------
        OffsetGone
            If ``start`` is before the log's start (retention) or after its end; the exception has both.
        TopicMismatch
            If there is no such partition.
        KafkaUnavailable
            If there was no answer within ``timeout_s``.
        """
        where = TopicPartition(topic, partition)
        position, stop = start, await self._stop(where, start, end)
        turn = LoopTurn()
        deadline = _Deadline(self._timeout_s, f"{topic}/{partition} cannot be read")
        corrupt_since = None
        while position < stop:
            try:
                batches = await self._fetch(where, position)
            except kafka_errors.OffsetOutOfRangeError as error:
                raise _gone(where, position, *await self.offsets(topic, partition)) from error
            except kafka_errors.CorruptRecordException as error:
                corrupt_since = corrupt_since or time.monotonic()
                waits = time.monotonic() - corrupt_since < CORRUPT_GRACE_S
                if waits or not isinstance(error, CorruptRecords):
                    await deadline.wait(error)
                    continue
                position = error.next_offset
                report_damaged(topic, partition, error.start, position - 1)
                deadline.renew()
                continue
            corrupt_since = None
            for batch in batches:
                if not batch.is_control_batch:
                    producer = batch.producer_id
                    try:
                        for record in records_of(where, batch):
                            if position <= record.offset < stop:
                                headers = tuple(record.headers)
                                yield RawRecord(record.offset, record.key, record.value, headers, producer_id=producer)
                                await turn.end()
                    except CorruptRecords as error:
                        start = max(position, error.start)
                        report_damaged(topic, partition, start, error.next_offset - 1, error.why)
                elif controls:
                    for offset in range(max(position, batch.base_offset), min(batch.next_offset, stop)):
                        yield RawRecord(offset, None, None, (), control=True, producer_id=batch.producer_id)
                position = batch.next_offset
            if batches:
                deadline.renew()
            else:
                await deadline.wait(None)

    async def _stop(self, where: TopicPartition, start: int, end: int | None) -> int:
        """The offset before which a read that begins at ``start`` ends."""
        log_start, log_end = await self.offsets(where.topic, where.partition)
        if not log_start <= start <= log_end:
            raise _gone(where, start, log_start, log_end)
        return log_end if end is None else min(end, log_end)

    async def record_at(self, topic: str, partition: int, offset: int) -> RawRecord | None:
        """The record (or transaction marker) at one offset, from a fetch of one batch; None if there is none any more.

        Raises
        ------
        CorruptRecords
            If its batch exists but its CRC is wrong.
        TopicMismatch, KafkaUnavailable
            As in :meth:`read`.
        """
        return (await self.record_and_leader(topic, partition, offset))[0]

    async def record_and_leader(self, topic: str, partition: int, offset: int) -> tuple[RawRecord | None, int]:
        """Like :meth:`record_at`, and the epoch of the leader that appended it, which grows with each leader change."""
        where = TopicPartition(topic, partition)
        try:
            content = await self._fetch_bytes(where, offset, 1)
        except kafka_errors.OffsetOutOfRangeError:
            return None, -1
        leader = int.from_bytes(content[12:16], "big", signed=True)  # of the first batch, which reaches the offset
        for batch in batches_beyond(where, content, offset):
            if batch.is_control_batch:
                if batch.base_offset <= offset < batch.next_offset:
                    return RawRecord(offset, None, None, (), control=True), leader
            else:
                for record in records_of(where, batch):
                    if record.offset == offset:
                        return RawRecord(record.offset, record.key, record.value, tuple(record.headers)), leader
        return None, leader

    async def two_records(
        self, topic: str, partition: int, first: int, last: int
    ) -> tuple[RawRecord, RawRecord, int] | None:
        """The records at two offsets that are close together, and the epoch of the leader that appended the last one.

        From one fetch; None if its answer of at most ``NEAR_BYTES`` lacks one of them, for whatever reason.
        """
        where, found, leader = TopicPartition(topic, partition), dict[int, RawRecord](), -1
        try:
            content = await self._fetch_bytes(where, first, NEAR_BYTES)
            batches = batches_beyond(where, content, first)
            for batch in batches:
                wanted = {offset for offset in (first, last) if batch.base_offset <= offset < batch.next_offset}
                if wanted and not batch.is_control_batch:
                    leader = leader_epoch(content, batch.base_offset)
                    some = (r for r in records_of(where, batch) if r.offset in wanted)
                    found |= {r.offset: RawRecord(r.offset, r.key, r.value, ()) for r in some}
        except (kafka_errors.OffsetOutOfRangeError, kafka_errors.CorruptRecordException):
            return None
        return (found[first], found[last], leader) if first in found and last in found else None

    async def epoch_at(self, topic: str, partition: int, offset: int) -> int:
        """Producer epoch of the batch, or the control record, at an offset; -1 if there is none."""
        try:
            batches = await self._fetch(TopicPartition(topic, partition), offset, 1)
        except kafka_errors.OffsetOutOfRangeError:
            return -1
        return int(batches[0].producer_epoch) if batches else -1

    async def end(self, topic: str, partition: int) -> int:
        """End offset of a partition; raises like :meth:`offsets`."""
        request = OffsetRequest(-1, READ_UNCOMMITTED, [(topic, [(partition, LATEST)])])
        return int((await self._ask(TopicPartition(topic, partition), request))[3])

    async def ends(self, topics: Sequence[str], partition: int) -> list[int]:
        """End offsets of the same partition of several topics; raises like :meth:`offsets`."""
        places = [TopicPartition(topic, partition) for topic in topics]
        with contextlib.suppress(kafka_errors.KafkaError):
            found = await self.ends_now(places)
            if all(place in found for place in places):
                return [found[place] for place in places]
        return [await self.end(topic, partition) for topic in topics]  # retries, and names the topic that has no end

    async def ends_now(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """End offsets of several partitions, in one request for each leader; those without an answer are missing.

        Raises
        ------
        TopicMismatch
            If there is no such partition.
        aiokafka.errors.KafkaError
            If a leader does not answer.
        """
        by_leader: dict[int | None, list[TopicPartition]] = {}
        for place in places:
            by_leader.setdefault(await self._leader(place), []).append(place)
        ends: dict[TopicPartition, int] = {}
        for leader, mine in by_leader.items():
            if leader in (None, -1):
                continue
            by_topic: dict[str, list[tuple[int, int]]] = {}
            for place in mine:
                by_topic.setdefault(place.topic, []).append((place.partition, LATEST))
            response = await self._started().send(leader, OffsetRequest(-1, READ_UNCOMMITTED, [*by_topic.items()]))
            for topic, answers in response.topics:
                ends |= {TopicPartition(topic, answer[0]): int(answer[3]) for answer in answers if answer[1] == 0}
        return ends

    async def _fetch(self, where: TopicPartition, position: int, max_bytes: int = FETCH_BYTES) -> list[Any]:
        """The whole batches of one answer that extend beyond ``position``, in order, with their CRC checked."""
        return batches_beyond(where, await self._fetch_bytes(where, position, max_bytes), position)

    async def _fetch_bytes(self, where: TopicPartition, position: int, max_bytes: int) -> bytes:
        part = (where.partition, position, max_bytes)
        request = FetchRequest(1000, 1, max_bytes, READ_UNCOMMITTED, [(where.topic, [part])])
        return bytes((await self._ask(where, request))[-1] or b"")

    async def _ask(self, where: TopicPartition, request: Any) -> Any:
        """Send to the partition's leader; returns its answer for the partition as (partition, error code, ...)."""
        client = self._started()
        deadline = _Deadline(self._timeout_s, f"{where.topic}/{where.partition} cannot be read")
        while True:
            leader = await self._leader(where)
            try:
                if leader in (None, -1):
                    raise kafka_errors.LeaderNotAvailableError(str(where))
                response = await client.send(leader, request)
                answer = response.topics[0][1][0]
                if answer[1] == 0:
                    return answer
                raise kafka_errors.for_code(answer[1])(str(where))
            except kafka_errors.KafkaError as error:
                if isinstance(error, kafka_errors.OffsetOutOfRangeError):
                    raise
                if not error.retriable:
                    raise KafkaUnavailable(f"{where.topic}/{where.partition} cannot be read: {error!r}") from error
                await deadline.wait(error)
                await asyncio.wait([client.force_metadata_update()], timeout=self._timeout_s)

    async def _leader(self, where: TopicPartition) -> int | None:
        """Node id of the partition's leader; None or -1 while there is none."""
        client = self._started()
        deadline = _Deadline(self._timeout_s, f"the partitions of {where.topic} are unknown")
        answered_s: float | None = None  # since when brokers answer: without an answer nothing is known about the topic
        client.add_topic(where.topic)
        while where.partition not in (client.cluster.partitions_for_topic(where.topic) or ()):
            done, _ = await asyncio.wait([client.force_metadata_update()], timeout=self._timeout_s)
            known = client.cluster.partitions_for_topic(where.topic) or ()
            if where.partition in known:
                break
            if not any(update.result() for update in done):
                await deadline.wait(kafka_errors.KafkaConnectionError("no broker answers"))
                continue
            if where.topic in client.cluster.unauthorized_topics:
                text = f"Kafka refuses access to {where.topic}"
                raise KafkaForbidden(f"{text}: `klais topics rights` prints the rights that each role needs")
            answered_s = answered_s or time.monotonic()
            if time.monotonic() - answered_s > METADATA_GRACE_S:
                raise TopicMismatch(f"there is no {where.topic}/{where.partition}; partitions known: {sorted(known)}")
            await asyncio.sleep(4 * RETRY_S)  # aiokafka logs a line for each call
        leader: int | None = client.cluster.leader_for_partition(where)
        return leader

    def _started(self) -> AIOKafkaClient:
        if self._client is None:
            raise RuntimeError("the reader is not started")
        return self._client


class _Deadline:
    """Waits between retries, logs the wait, and gives up after ``timeout_s`` without :meth:`renew`."""

    def __init__(self, timeout_s: float, problem: str) -> None:
        self._timeout_s = timeout_s
        self._problem = problem
        self._throttle = Throttle(LOG_EVERY_S)
        self.renew()

    def renew(self) -> None:
        """Restart the time limit after progress."""
        self._since = time.monotonic()

    async def wait(self, error: BaseException | None) -> None:
        """Sleep before the next retry, or raise KafkaUnavailable once ``timeout_s`` is over."""
        now = time.monotonic()
        if now - self._since >= self._timeout_s:
            raise KafkaUnavailable(f"{self._problem} for {self._timeout_s:g} s: {error!r}") from error
        if self._throttle.calls():
            log.warning("kafka_unavailable", problem=self._problem, since_s=round(now - self._since), error=repr(error))
        await asyncio.sleep(RETRY_S)


def _gone(where: TopicPartition, wanted: int, log_start: int, log_end: int) -> OffsetGone:
    why = ": retention has removed it" if wanted < log_start else ""
    holds = f"{where.topic}/{where.partition} holds offsets {log_start} to {log_end}"
    return OffsetGone(f"{holds}, not {wanted}{why}", log_start, log_end)
