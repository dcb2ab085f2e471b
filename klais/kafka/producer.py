"""A Kafka producer for prebuilt record batches: uses aiokafka's client directly, without its accumulator.

aiokafka's own path collects records into batches, numbers them, and scans all of them twice for each request, which is
wasted work for a batch that is already built and numbered. Here a batch waits for the request in flight to its broker,
and until no other batch follows (the lanes process the records of one fetch one after the other). Then all batches for
that broker go in one request. Connections, metadata and protocol stay aiokafka's (0.14: ``AIOKafkaClient.send``,
``cluster``, ``ProduceRequest``). The sender retries; this producer does not.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import RecordMetadata, TopicPartition

from klais.kafka.closing import in_background, stop_producer
from klais.system.tasks import end_task

NO_TIMESTAMP = -1
REQUEST_BYTES = 32 << 20  # of batches in one request: a broker closes the connection above socket.request.max.bytes
# Answers to the batch itself (protocol guide, "Error Codes"): CORRUPT_MESSAGE, MESSAGE_TOO_LARGE,
# RECORD_LIST_TOO_LARGE, INVALID_TIMESTAMP, UNSUPPORTED_FOR_MESSAGE_FORMAT, UNSUPPORTED_COMPRESSION_TYPE,
# INVALID_RECORD.
CONTENT_CODES = frozenset({2, 10, 18, 32, 43, 76, 87})
IDLE_TURNS = 8  # turns of the event loop without another batch before a request is sent; a turn takes some microseconds


class BatchRefused(kafka_errors.KafkaError):  # type: ignore[misc]
    """The broker refuses a batch because of its content; ``code`` is Kafka's error code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the broker refuses the content (error code {code})")
        self.code = code


class Batch(Protocol):
    """A built batch that its owner may withdraw until it is sent."""

    def record_count(self) -> int:
        """Number of records; 0 = withdrawn."""

    def size(self) -> int:
        """Bytes on the wire."""

    def _build(self) -> bytes:
        """Its bytes."""


@dataclass(slots=True)
class Waiting:
    """A batch, its partition, and the future of its sender."""

    to: TopicPartition
    batch: Batch
    done: "asyncio.Future[RecordMetadata]"


class BatchProducer(AIOKafkaProducer):
    """Sends whole batches, with one request in flight for each broker. Send one batch of each partition at a time.

    Parameters as for ``AIOKafkaProducer``; ``acks``, ``request_timeout_ms`` and those of connections are used.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._waiting: dict[int, list[Waiting]] = {}
        self._exchanges: dict[int, asyncio.Task[None]] = {}  # broker -> task that sends to it
        self._stopped = False

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> Awaitable[RecordMetadata]:
        """Queue a batch; the result of the future is its offset, or the error.

        Raises
        ------
        aiokafka.errors.KafkaError
            If the topic does not exist or may not be written, or the partition has no leader now.
        AssertionError
            If the topic has no such partition.
        """
        if self._stopped:
            raise kafka_errors.ProducerClosed()
        to = TopicPartition(topic, partition)
        leader = self.client.cluster.leader_for_partition(to)
        if leader is None or leader < 0:
            leader = await self._find_leader(to)
            if self._stopped:  # meanwhile: nobody would end the exchange
                raise kafka_errors.ProducerClosed()
        done: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(leader, []).append(Waiting(to, batch, done))
        if leader not in self._exchanges:
            self._exchanges[leader] = asyncio.create_task(self._exchange(leader), name=f"produce-{leader}")
        return done

    async def stop(self) -> None:
        """Stop immediately, without flushing; waiting senders get an error. Cancellation as for
        :func:`~klais.kafka.closing.close_client`.
        """
        self._stopped = True
        await in_background(self._stop())

    async def _stop(self) -> None:
        try:
            await asyncio.gather(*map(end_task, list(self._exchanges.values())))
        finally:
            for waiting in self._waiting.values():
                self._fail(waiting, kafka_errors.ProducerClosed())
            self._waiting.clear()
            await stop_producer(self)

    async def _find_leader(self, to: TopicPartition) -> int:
        partitions = await self.client._wait_on_metadata(to.topic)
        if to.partition not in partitions:
            raise AssertionError(f"{to.topic} has no partition {to.partition}")  # like aiokafka's own producer
        leader: int | None = self.client.cluster.leader_for_partition(to)
        if leader is None or leader < 0:
            self.client.force_metadata_update()
            raise kafka_errors.LeaderNotAvailableError(str(to))
        return leader

    async def _exchange(self, leader: int) -> None:
        """Send requests to one broker, one after the other, until no batch waits for it."""
        try:
            while leader in self._waiting:
                await self._until_idle(self._waiting[leader])
                queued = self._next_request(leader)
                waiting = [w for w in queued if w.batch.record_count()]
                self._fail([w for w in queued if not w.batch.record_count()], kafka_errors.ProducerClosed())
                if not waiting:
                    continue
                try:
                    self._answer(waiting, await self.client.send(leader, self._request(waiting)))
                except asyncio.CancelledError:
                    self._fail(waiting, kafka_errors.ProducerClosed())
                    raise
                except Exception as error:  # also of an answer that cannot be read
                    self._fail(waiting, error)
        finally:
            del self._exchanges[leader]

    def _next_request(self, leader: int) -> list[Waiting]:
        """Take the batches that wait for a broker, as many as fit one request; the rest goes with the next one."""
        queued = self._waiting.pop(leader)
        size = 0
        for at, w in enumerate(queued):
            size += w.batch.size()
            if at and size > REQUEST_BYTES:
                self._waiting[leader] = queued[at:]
                return queued[:at]
        return queued

    async def _until_idle(self, waiting: list[Waiting]) -> None:
        """Yield to the event loop until no batch was queued for some turns. It terminates because each partition queues
        one batch."""
        turns, before = 0, len(waiting)
        while turns < IDLE_TURNS:
            await asyncio.sleep(0)
            turns = turns + 1 if len(waiting) == before else 0
            before = len(waiting)

    def _request(self, waiting: list[Waiting]) -> ProduceRequest:
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for w in waiting:
            topics.setdefault(w.to.topic, []).append((w.to.partition, w.batch._build()))
        return ProduceRequest(
            transactional_id=None,
            required_acks=self._sender._acks,
            timeout=self._request_timeout_ms,
            topics=list(topics.items()),
        )

    def _answer(self, waiting: list[Waiting], response: Any) -> None:
        """Complete each future with the broker's result; a duplicate counts as written, with an unknown offset."""
        results = {to: (code, offset) for to, code, offset in _partitions(response)}
        for w in waiting:
            code, offset = results.get(w.to, (kafka_errors.UnknownError.errno, -1))
            error = kafka_errors.for_code(code)
            if error not in (kafka_errors.NoError, kafka_errors.DuplicateSequenceNumber):
                self._fail([w], _exception(code, error))
            elif not w.done.done():
                w.done.set_result(RecordMetadata(*w.to, w.to, offset, NO_TIMESTAMP, NO_TIMESTAMP, None))

    def _fail(self, waiting: list[Waiting], error: Exception) -> None:
        """Fail each future; refresh the metadata if the error means that the leader may have moved."""
        if getattr(error, "invalid_metadata", False):
            self.client.force_metadata_update()
        for w in waiting:
            if not w.done.done():
                w.done.set_exception(error)
                w.done.exception()  # marks it as retrieved: the sender may be gone


def _exception(code: int, error: type[Exception]) -> Exception:
    if code in CONTENT_CODES:
        return BatchRefused(code)
    return kafka_errors.ProducerFenced() if error is kafka_errors.InvalidProducerEpoch else error()


def _partitions(response: Any) -> Iterator[tuple[TopicPartition, int, int]]:
    """(partition, error code, base offset) of a ``ProduceResponse`` of any version, whose first fields are the same."""
    for topic, partitions in response.topics:
        for partition, code, offset, *_ in partitions:
            yield TopicPartition(topic, partition), code, offset
