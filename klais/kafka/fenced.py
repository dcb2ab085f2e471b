"""Write as the single owner of a partition: the broker's producer epochs fence earlier owners.

A lane acquires an epoch with :func:`fence`, then writes ordinary batches stamped with it, each partition through a
:class:`FencedSender` with its own sequence numbers. The broker drops repeats, and refuses gaps and older epochs.
This module uses internals of aiokafka 0.14; ``tests/broker/test_fenced.py`` checks them.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, LaneFailed, LaneFenced, OutputRefused
from klais.kafka.clients import aiokafka_config
from klais.kafka.closing import start_producer, stop_producer
from klais.kafka.log_filter import filter_aiokafka
from klais.kafka.producer import BatchProducer, BatchRefused
from klais.kafka.record_batch import BuiltBatch, RecordBatchWriter
from klais.kafka.topics import MAX_RECORD_BYTES
from klais.telemetry.log import Throttle, get

log = get("klais.kafka.fenced")

LOG_EVERY_S = 5.0  # between two log lines about the same failure
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
LAST_EPOCH = 2**15 - 2  # of a producer id; epochs are int16, and Kafka reserves the highest one
_Producer = TypeVar("_Producer", bound=AIOKafkaProducer)
_REFUSALS = {
    10: f"as too large (its max.message.bytes must be at least {MAX_RECORD_BYTES})",
    32: "because of a record's time (its message.timestamp.type must be LogAppendTime)",
    87: "because of an invalid record (its cleanup.policy must be the one that KLAIS gives it)",
}
_FENCED = (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class ProducerIdentity:
    """Producer id and epoch that the broker assigned to a lane's newest owner."""

    producer_id: int
    epoch: int


class ReadyBatch:
    """A built batch for :class:`~klais.kafka.producer.BatchProducer`.

    A retry sends the same bytes. :meth:`drop` withdraws it: the producer never sends a batch without records.
    It also has every method that ``AIOKafkaProducer.send_batch`` needs of a ``BatchBuilder``.
    """

    def __init__(self, built: BuiltBatch) -> None:
        self._built = built
        self._dropped = False

    def drop(self) -> None:
        """Do not send this batch again."""
        self._dropped = True

    def record_count(self) -> int:
        """Records in the batch."""
        return 0 if self._dropped else self._built.count

    def size(self) -> int:
        """Bytes on the wire."""
        return len(self._built.data)

    def closed(self) -> bool:
        """Always true: records cannot be appended."""
        return True

    def close(self) -> None:
        """Do nothing: the batch is already closed."""

    def append(self, **record: Any) -> None:
        """Return None, which means "full" to aiokafka."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Do nothing: the batch has its own producer id, epoch and sequence, which its CRC covers."""

    def _build(self) -> bytes:
        return self._built.data


class FencedSender:
    """Sends the batches of one partition in order, one at a time, as the owner ``identity``.

    Parameters
    ----------
    producer : AIOKafkaProducer
        From :func:`make_producer`; may be shared by the senders of a lane. A producer has one request in flight for
        each broker, with one batch of each partition in it: lanes that share one wait for each other's batches.
    identity : ProducerIdentity
        From :func:`fence` for this partition, among others.
    topic, partition : str, int
        The partition to write to.
    base_sequence : int
        Sequence number of the first record; a new epoch must start at 0.

    Attributes
    ----------
    restarts : int
        How often a batch got a lower offset than an earlier one: the log was cut or recreated.
    end : int
        The offset after the newest batch of this sender; 0 = unknown.
    since_s, why : float, str
        When the batch in flight was first sent (monotonic; 0 = none is in flight), and its newest error.
    """

    def __init__(
        self, producer: AIOKafkaProducer, identity: ProducerIdentity, topic: str, partition: int, base_sequence: int = 0
    ) -> None:
        self.identity = identity
        self.topic = topic
        self.partition = partition
        self.next_sequence = base_sequence
        self.restarts, self.end = 0, 0
        self.since_s, self.why = 0.0, "no answer"
        self._producer = producer
        self._failure: Exception | None = None
        self._in_flight: ReadyBatch | None = None
        self._throttle = Throttle(LOG_EVERY_S)

    def build(self, writer: RecordBatchWriter) -> BuiltBatch:
        """Close the writer's batch as the next one of this sender; the writer is empty afterwards."""
        built = writer.close(self.identity.producer_id, self.identity.epoch, self.next_sequence)
        writer.reset()
        return built

    async def send(self, batch: RecordBatchWriter | BuiltBatch) -> int:
        """Send one batch and wait until the broker has it; returns its base offset, -1 if the broker did not report it.

        A writer is closed and reset before the first wait, so the next batch can grow in it during the send. Transient
        errors (no broker, no leader, too few replicas, time-outs) are retried without limit, with the same bytes.

        Raises
        ------
        LaneFenced
            If the broker knows a newer epoch: this owner is a zombie and must stop.
        OutputRefused
            If the broker refuses the batch because of its content and has appended nothing: send other content.
        LaneFailed
            If this batch or an earlier one cannot be sent, or was cancelled: this sender is closed.
        """
        if self._failure is not None:
            raise self._failure
        if self._in_flight is not None:
            raise RuntimeError(f"two sends at once to {self.topic}/{self.partition}: their order would be lost")
        built = self.build(batch) if isinstance(batch, RecordBatchWriter) else batch
        stamp = (built.producer_id, built.epoch, built.base_sequence)
        expected = (self.identity.producer_id, self.identity.epoch, self.next_sequence)
        if stamp != expected:
            raise ValueError(f"batch for {self.topic}/{self.partition} is stamped {stamp}, not {expected}")
        self._in_flight = ready = ReadyBatch(built)
        self.since_s, self.why = time.monotonic(), "no answer"
        try:
            offset = await self._deliver(ready)
        except asyncio.CancelledError:
            self._fail(
                LaneFailed(
                    f"send to {self.topic}/{self.partition} was cancelled: whether the broker has the batch is unknown"
                )
            )
            raise
        except OutputRefused:
            raise
        except (LaneFenced, LaneFailed) as error:
            self._fail(error)
            raise
        finally:
            self._in_flight, self.since_s = None, 0.0
        self.next_sequence = built.next_sequence
        if offset >= 0:
            self.restarts += offset < self.end
            self.end = offset + built.count
        return offset

    def close(self) -> None:
        """Close the sender: a waiting batch is dropped, not flushed. A request in flight may still arrive."""
        if self._failure is None:
            self._fail(LaneFailed(f"sender of {self.topic}/{self.partition} is closed"))

    def _fail(self, error: Exception) -> None:
        self._failure = error
        if self._in_flight is not None:
            self._in_flight.drop()

    async def _deliver(self, ready: ReadyBatch) -> int:
        started, pause = time.monotonic(), RETRY_MIN_S
        while True:
            try:
                delivery = await self._producer.send_batch(ready, self.topic, partition=self.partition)
                metadata = await delivery
            except _FENCED as error:
                raise LaneFenced(f"{self.topic}/{self.partition} has a newer owner than {self.identity}") from error
            except BatchRefused as error:
                raise OutputRefused(self._refusal(error.code, ready), ready.record_count()) from error
            except (kafka_errors.KafkaError, TimeoutError) as error:
                if not _may_pass(error):
                    raise LaneFailed(f"send to {self.topic}/{self.partition} failed for good: {error!r}") from error
                self.why = repr(error)
                self._log_retry(time.monotonic() - started)
            except (AssertionError, TypeError) as error:  # aiokafka's errors for an unknown partition
                raise LaneFailed(f"there is no {self.topic}/{self.partition}: see `klais topics check`") from error
            else:
                if self._failure is not None:
                    raise self._failure
                return int(metadata.offset)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX_S)
            if self._failure is not None:
                raise self._failure

    def _refusal(self, code: int, ready: ReadyBatch) -> str:
        """The refusal and how to fix it: the settings that Kafka checks a batch against are those that KLAIS sets."""
        what = f"{self.topic}/{self.partition} refuses a batch of {ready.record_count()} records, {ready.size()} bytes"
        why = _REFUSALS.get(code)
        return f"{what}, {why}: `klais topics create --fix` sets it" if why else f"{what}, with error code {code}"

    def _log_retry(self, since_s: float) -> None:
        if self._throttle.calls():
            where = {"topic": self.topic, "partition": self.partition}
            log.warning("send_retried", **where, since_s=round(since_s), error=self.why)


async def make_producer(settings: Settings, timeout_s: float | None = None, **overrides: Any) -> BatchProducer:
    """A started producer for :class:`FencedSender`: acks=all; not idempotent and without compression, because the
    batches already have both.

    Waits for a broker without limit, or for ``timeout_s``.

    Raises
    ------
    KafkaUnavailable
        If no broker answered within ``timeout_s``.
    """
    options: dict[str, Any] = {
        "acks": "all",
        "enable_idempotence": False,
        "compression_type": None,
        "linger_ms": 0,
        "max_request_size": MAX_RECORD_BYTES,
        "request_timeout_ms": 30_000,
        "retry_backoff_ms": 250,
        "metadata_max_age_ms": 60_000,
        **aiokafka_config(settings),
        **overrides,
    }
    return await _start(BatchProducer, options, timeout_s)


async def abandon(producer: BatchProducer, timeout_s: float = 5.0) -> None:
    """Stop a producer with closed senders without flushing: closes the connections first.

    A request in flight may still reach the broker, which then decides by its epoch.
    """
    for connection in list(producer.client._conns.values()):
        connection.close()
    try:
        async with asyncio.timeout(timeout_s):
            await producer.stop()
    except TimeoutError:  # it goes on in the background
        log.warning("producer_abandoned", timeout_s=timeout_s)


async def _start(kind: type[_Producer], options: dict[str, Any], timeout_s: float | None) -> _Producer:
    """Start a producer once a broker answers."""
    filter_aiokafka()
    started, throttle = time.monotonic(), Throttle(LOG_EVERY_S)
    while True:
        producer: _Producer = kind(**options)
        left_s = None if timeout_s is None else max(0.0, started + timeout_s - time.monotonic())
        try:
            await start_producer(producer, left_s)
            return producer
        except (kafka_errors.KafkaError, TimeoutError) as error:
            waited_s = time.monotonic() - started
            if isinstance(error, _FENCED) or not _may_pass(error):
                raise
            if timeout_s is not None and waited_s >= timeout_s:
                servers = options["bootstrap_servers"]
                raise KafkaUnavailable(f"no answer from {servers} within {timeout_s:g} s: {error!r}") from error
            if throttle.calls():
                servers = options["bootstrap_servers"]
                log.warning("kafka_unavailable", bootstrap=servers, since_s=round(waited_s), error=repr(error))
        await asyncio.sleep(0.5 if left_s is None else min(0.5, left_s))


def _may_pass(error: Exception) -> bool:
    """Whether a retry may succeed; aiokafka marks most such errors, but not its own time-outs."""
    return bool(getattr(error, "retriable", False)) or isinstance(error, kafka_errors.KafkaTimeoutError | TimeoutError)


async def fence(
    settings: Settings, transactional_id: str, partitions: list[tuple[str, int]], timeout_s: float = 60.0
) -> ProducerIdentity:
    """Take over ``partitions``: afterwards the broker refuses every older epoch of this transactional id on them.

    InitProducerId returns the new epoch. An empty transaction writes it to each partition, as commit markers, before
    the new owner writes anything. The markers are written once the coordinator accepts a second transaction; until then
    it answers CONCURRENT_TRANSACTIONS. (Increased end offsets would prove nothing, because a zombie's write increases
    them too.) The marker of the second transaction, in the first partition, may follow a little later, among the
    owner's first batches.

    The transactional id must not expire (``transactional.id.expiration.ms``, 7 days), because the next fence would get
    another producer id, and epochs of different ids do not fence each other. Neither may an idle partition forget the
    epoch (``producer.id.expiration.ms``, 1 day). So a long-lived owner fences again daily.

    After ``LAST_EPOCH`` there is a new producer id, too: that epoch is only used for fencing, never for writing.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    transactional_id : str
        Name of the ownership, such as ``klais-lane-3``.
    partitions : list of (topic, partition)
        The partitions to acquire.
    timeout_s : float
        Time limit of all attempts together.

    Raises
    ------
    LaneFenced
        If another owner acquired the epoch in the meantime.
    KafkaUnavailable
        If it was not done within ``timeout_s``; no partition is owned then.
    LaneFailed
        If the broker refuses (authorization, transaction limits).
    """
    options = _fence_options(settings, transactional_id)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            identity = await _take_over(options, partitions, deadline)
            if identity.epoch < LAST_EPOCH:
                return identity
            continue  # with the first epoch of a new producer id
        except _FENCED as error:
            raise LaneFenced(f"another owner acquired {transactional_id} in the meantime") from error
        except TimeoutError as error:
            wanted = ", ".join(f"{topic}/{partition}" for topic, partition in partitions)
            raise KafkaUnavailable(
                f"{transactional_id} could not acquire {wanted} within {timeout_s:g} s: do the topics exist, and does "
                "the transaction coordinator have enough replicas?"
            ) from error
        except kafka_errors.KafkaError as error:
            if not _is_coordinator_error(error) or time.monotonic() > deadline:
                raise LaneFailed(f"{transactional_id} was refused by the broker: {error!r}") from error
            log.info("fence_retried", transactional_id=transactional_id, error=repr(error.__cause__ or error))
        await asyncio.sleep(RETRY_MIN_S)


def _fence_options(settings: Settings, transactional_id: str) -> dict[str, Any]:
    # An owner that dies between the two requests blocks the next one for at most this long.
    timeouts = {"transaction_timeout_ms": 15_000, "request_timeout_ms": 15_000}
    return {"transactional_id": transactional_id, **timeouts, **aiokafka_config(settings)}


async def _take_over(options: dict[str, Any], partitions: list[tuple[str, int]], deadline: float) -> ProducerIdentity:
    """Acquire one new epoch and write it to the partitions; ``deadline`` on the monotonic clock."""
    producer = await _start(AIOKafkaProducer, options, max(0.0, deadline - time.monotonic()))
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
            await _empty_transaction(producer, partitions)
            await _empty_transaction(producer, partitions[:1])
        manager = producer._txn_manager
        return ProducerIdentity(manager.producer_id, manager.producer_epoch)
    finally:
        await stop_producer(producer)


def _is_coordinator_error(error: BaseException) -> bool:
    """Whether the broker answered UNKNOWN_SERVER_ERROR, as its coordinator does when two owners end a transaction at
    once.

    aiokafka wraps it in a bare KafkaError. A new attempt acquires a new epoch, so it is as safe as the first one.
    """
    return isinstance(error, kafka_errors.UnknownError) or (
        error.__cause__ is not None and _is_coordinator_error(error.__cause__)
    )


async def _empty_transaction(producer: AIOKafkaProducer, partitions: list[tuple[str, int]]) -> None:
    """Send AddPartitionsToTxn, then EndTxn: aiokafka sends both, in this order, when the transaction is committed."""
    await producer.begin_transaction()
    for topic, partition in partitions:
        producer._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, partition))
    await producer.commit_transaction()
