"""The sender of a lane against a producer that fails on purpose: what is tried again, what ends it, in which order."""

import asyncio
import inspect
import logging

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.structs import RecordMetadata, TopicPartition

from klais.errors import LaneFailed, LaneFenced
from klais.kafka import fenced
from klais.kafka.fenced import FencedSender, ProducerIdentity
from klais.kafka.log_filter import RepeatFilter
from klais.kafka.record_batch import RecordBatchWriter

ME = ProducerIdentity(1001, 7)
WHERE = TopicPartition("out", 2)


class Broker:
    """Stands for the producer: plays one outcome a send (an error, "hold", or an offset), keeps what it was handed."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.got = []
        self.batches = []
        self.held = None
        self.asked = asyncio.Event()

    async def has_got(self, count):
        while len(self.got) < count:
            self.asked.clear()
            await self.asked.wait()

    async def send_batch(self, batch, topic, *, partition):
        assert (topic, partition) == WHERE
        self.batches.append(batch)
        self.got.append(batch._build())
        self.asked.set()
        future = asyncio.get_running_loop().create_future()
        outcome = self.outcomes.pop(0) if self.outcomes else 0
        if outcome == "hold":
            self.held = future
        elif isinstance(outcome, Exception):
            if getattr(outcome, "at_once", False):
                raise outcome
            future.set_exception(outcome)
        else:
            future.set_result(RecordMetadata(*WHERE, WHERE, outcome, -1, 0, 0))
        return future


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(fenced, "RETRY_MIN_S", 0.0)
    monkeypatch.setattr(fenced, "RETRY_MAX_S", 0.0)


def writer_with(n=3):
    writer = RecordBatchWriter()
    for i in range(n):
        writer.append_one(b"k", b"%d" % i, timestamp_ms=1)
    return writer


async def test_sequences_follow_each_other_and_the_writer_is_ready_at_once():
    broker = Broker("hold", 103)
    sender = FencedSender(broker, ME, *WHERE)
    writer = writer_with(3)
    sending = asyncio.create_task(sender.send(writer))
    await broker.has_got(1)
    assert writer.empty
    writer.append_one(None, b"next", timestamp_ms=1)
    broker.held.set_result(RecordMetadata(*WHERE, WHERE, 100, -1, 0, 0))
    assert await sending == 100
    assert await sender.send(writer) == 103
    assert sender.next_sequence == 4


async def test_a_log_that_was_cut_or_recreated_shows_in_the_offsets():
    sender, restarts = FencedSender(Broker(100, 103, -1, 110, 0, 3, 2), ME, *WHERE), []
    for _ in range(7):
        await sender.send(writer_with(3))
        restarts.append(sender.restarts)
    assert restarts == [0, 0, 0, 0, 1, 1, 2], "an unknown offset (-1) and a gap show nothing"


async def test_what_a_batch_in_flight_waits_for_can_be_asked():
    broker = Broker(kafka_errors.NotEnoughReplicasError(), "hold")
    sender = FencedSender(broker, ME, *WHERE)
    assert sender.since_s == 0.0
    sending = asyncio.create_task(sender.send(writer_with()))
    await broker.has_got(2)
    assert sender.since_s > 0.0 and "NotEnoughReplicas" in sender.why
    broker.held.set_result(RecordMetadata(*WHERE, WHERE, 100, -1, 0, 0))
    await sending
    assert sender.since_s == 0.0


async def test_a_sequence_wraps_to_zero():
    sender = FencedSender(Broker(), ME, *WHERE, base_sequence=2**31 - 2)
    await sender.send(writer_with(3))
    assert sender.next_sequence == 1


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.RequestTimedOutError,
        kafka_errors.NotLeaderForPartitionError,
        kafka_errors.LeaderNotAvailableError,
        kafka_errors.NotEnoughReplicasError,
        kafka_errors.NotEnoughReplicasAfterAppendError,
        kafka_errors.KafkaConnectionError,
        kafka_errors.NodeNotReadyError,
        kafka_errors.UnknownTopicOrPartitionError,
        kafka_errors.KafkaStorageError,
        kafka_errors.KafkaTimeoutError,
        TimeoutError,
    ],
)
async def test_what_time_may_heal_is_tried_again_with_the_same_bytes(error):
    at_once = error()
    at_once.at_once = True
    broker = Broker(error(), at_once, error(), 55)
    sender = FencedSender(broker, ME, *WHERE)
    assert await sender.send(writer_with()) == 55
    assert len(broker.got) == 4 and len(set(broker.got)) == 1


@pytest.mark.parametrize("error", [kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch])
async def test_a_newer_epoch_fences(error):
    broker = Broker(error())
    sender = FencedSender(broker, ME, *WHERE)
    for _ in range(2):
        with pytest.raises(LaneFenced, match="newer owner"):
            await sender.send(writer_with())
    assert len(broker.got) == 1


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.OutOfOrderSequenceNumber(),
        kafka_errors.UnknownProducerId(),
        kafka_errors.MessageSizeTooLargeError(),
        kafka_errors.RecordListTooLargeError(),
        kafka_errors.CorruptRecordException(),
        kafka_errors.TopicAuthorizationFailedError(),
        kafka_errors.ProducerClosed(),
        kafka_errors.KafkaError("Unexpected error during batch delivery"),
        kafka_errors.UnknownError(),
        AssertionError("Unrecognized partition"),
    ],
)
async def test_what_time_cannot_heal_ends_the_sender(error):
    broker = Broker(error)
    sender = FencedSender(broker, ME, *WHERE)
    for _ in range(2):
        with pytest.raises(LaneFailed, match="out/2"):
            await sender.send(writer_with())
    assert len(broker.got) == 1


async def test_a_cancelled_send_ends_the_sender_and_takes_the_batch_back():
    broker = Broker("hold")
    sender = FencedSender(broker, ME, *WHERE)
    sending = asyncio.create_task(sender.send(writer_with()))
    await broker.has_got(1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert broker.batches[0].record_count() == 0
    with pytest.raises(LaneFailed, match="cancelled"):
        await sender.send(writer_with())


async def test_close_drops_what_waits():
    broker = Broker("hold")
    sender = FencedSender(broker, ME, *WHERE)
    sending = asyncio.create_task(sender.send(writer_with()))
    await broker.has_got(1)
    sender.close()
    assert broker.batches[0].record_count() == 0
    broker.held.set_result(None)  # how aiokafka resolves a batch without records
    with pytest.raises(LaneFailed, match="closed"):
        await sending
    with pytest.raises(LaneFailed, match="closed"):
        await sender.send(writer_with())


async def test_close_ends_the_retries():
    broker = Broker(*[kafka_errors.KafkaConnectionError() for _ in range(100_000)])
    sender = FencedSender(broker, ME, *WHERE)
    sending = asyncio.create_task(sender.send(writer_with()))
    await broker.has_got(5)
    sender.close()
    with pytest.raises(LaneFailed, match="closed"):
        await sending


async def test_two_sends_at_once_are_a_mistake():
    broker = Broker("hold")
    sender = FencedSender(broker, ME, *WHERE)
    sending = asyncio.create_task(sender.send(writer_with()))
    await broker.has_got(1)
    with pytest.raises(RuntimeError, match="two sends"):
        await sender.send(writer_with())
    broker.held.set_result(RecordMetadata(*WHERE, WHERE, 5, -1, 0, 0))
    assert await sending == 5


async def test_a_batch_with_another_stamp_is_refused_and_changes_nothing():
    sender = FencedSender(Broker(), ME, *WHERE)
    for stamp in [(1001, 6, 0), (1002, 7, 0), (1001, 7, 1)]:
        with pytest.raises(ValueError, match="stamped"):
            await sender.send(writer_with().close(*stamp))
    assert await sender.send(writer_with().close(1001, 7, 0)) == 0
    assert await sender.send(sender.build(writer_with())) == 0


async def test_a_lasting_failure_is_logged_once_in_a_while(caplog):
    broker = Broker(*[kafka_errors.KafkaConnectionError() for _ in range(200)])
    await FencedSender(broker, ME, *WHERE).send(writer_with())
    assert len([r for r in caplog.records if "send_retried" in r.getMessage()]) == 1


def test_aiokafka_still_has_the_parts_that_are_leaned_on():
    assert "batch.is_empty()" in inspect.getsource(MessageAccumulator.drain_by_nodes)
    assert "set_producer_state" in inspect.getsource(MessageAccumulator._pop_batch)
    assert list(inspect.signature(AIOKafkaProducer.send_batch).parameters) == ["self", "batch", "topic", "partition"]


def test_a_repeated_message_of_aiokafka_is_filtered():
    repeats = RepeatFilter(every_s=3600)

    def passes(text, *values, level=logging.ERROR):
        return repeats.filter(logging.LogRecord("aiokafka", level, "", 0, text, values, None))

    assert passes("Unable connect to node with id %s", 1)
    assert not passes("Unable connect to node with id %s", 2)
    assert passes("Unable connect to node with id %s", 2, level=logging.WARNING)
    assert passes("Topic %s not found", "x")
    assert RepeatFilter(every_s=0).filter(logging.LogRecord("aiokafka", 40, "", 0, "a", (), None))
