"""The publisher against a producer that fails on purpose: every frame it took or refused is counted once."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.kafka import KafkaPublisher
from klais.edge.sinks.spool.records import Entry
from klais.kafka.topics import MAX_RECORD_BYTES
from tests.support.forwarder import NoClock

MIB = 1 << 20


class Delivered:
    """A message as a delivery report shows it."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def latency(self) -> float:
        return 0.004

    def value(self) -> bytes:
        return self._value


class FakeProducer:
    """Holds what was produced until told how it went."""

    made: list["FakeProducer"] = []

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.held: list[tuple[str, int, bytes, Any]] = []
        self.full = 0
        self.raises: Exception | None = None
        self.raises_in_poll: Exception | None = None
        self.polls = 0
        FakeProducer.made.append(self)

    def produce(self, topic, value, key, partition, on_delivery, timestamp, headers):
        if self.full:
            self.full -= 1
            raise BufferError("queue full")
        if self.raises:
            raise self.raises
        self.held.append((topic, partition, value, on_delivery))

    def report(self, error: KafkaError | None = None) -> None:
        held, self.held = self.held, []
        for _, _, value, on_delivery in held:
            on_delivery(error, Delivered(value))

    def report_first(self, error: KafkaError | None = None) -> None:
        _, _, value, on_delivery = self.held.pop(0)
        on_delivery(error, Delivered(value))

    def poll(self, _timeout: float) -> int:
        self.polls += 1
        if self.raises_in_poll:
            error, self.raises_in_poll = self.raises_in_poll, None
            raise error
        return 0

    def __len__(self) -> int:
        return len(self.held)

    def purge(self) -> None:
        self.report(KafkaError(KafkaError._PURGE_QUEUE))


def make(
    delivered: list[Any] | None = None, refused: list[Any] | None = None, **settings: Any
) -> tuple[KafkaPublisher, Counts, FakeProducer]:
    FakeProducer.made = []
    counts = Counts()
    told = [[] if found is None else found for found in (delivered, refused)]
    publisher = KafkaPublisher(
        Settings(**settings), counts, NoClock(), told[0].append, told[1].append, make_producer=FakeProducer
    )
    return publisher, counts, FakeProducer.made[0]


def test_a_delivery_moves_frames_from_in_flight_to_published() -> None:
    publisher, counts, producer = make()
    assert publisher.offer(ClosedBatch(b"x" * 100, 2, 7))
    assert (counts.inflight, counts.inflight_bytes, counts.published) == (7, 100, 0)
    assert producer.held[0][:3] == ("klais_raw", 2, b"x" * 100)
    producer.report()
    assert (counts.inflight, counts.inflight_bytes, counts.published, counts.batches) == (0, 0, 7, 1)


def test_the_bound_on_bytes_refuses_what_exceeds_it() -> None:
    publisher, counts, producer = make(publish_max_inflight_bytes=MIB)
    taken = [publisher.offer(ClosedBatch(b"x" * 300_000, 0, 1)) for _ in range(4)]
    assert taken == [True, True, True, False]
    assert publisher.dead_letter(b"y" * 200_000, None, [], 0) is False
    producer.report()
    assert publisher.offer(ClosedBatch(b"x" * 300_000, 0, 1))
    assert counts.inflight_bytes == 300_000


def test_a_full_client_queue_is_tried_again_then_refused() -> None:
    publisher, counts, producer = make()
    producer.full = 1
    assert publisher.offer(ClosedBatch(b"x", 0, 1))
    assert producer.polls == 1
    producer.full = 2
    assert not publisher.offer(ClosedBatch(b"x", 0, 1))
    assert counts.inflight == 1


def test_a_batch_that_is_refused_for_itself_is_counted_and_nothing_else_is_disturbed() -> None:
    refused: list[Any] = []
    publisher, counts, producer = make(refused=refused)
    publisher.offer(ClosedBatch(bytes(MAX_RECORD_BYTES + 1), 0, 5))
    producer.report(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    assert int(counts.by_reason[Reason.DELIVERY_FAILED]) == 5
    assert (counts.inflight, counts.published, counts.batches_failed, refused) == (0, 0, 1, [None])
    assert not publisher.failing and publisher.offer(ClosedBatch(b"x", 0, 1))


@pytest.mark.parametrize(
    "code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.NOT_ENOUGH_REPLICAS]
)
def test_batches_that_only_a_changed_topic_refuses_are_taken_back(code: int) -> None:
    """Somebody lowered ``max.message.bytes`` of klais_raw: the topic can be fixed, lost frames cannot."""
    publisher, counts, producer = make()
    built = [ClosedBatch(bytes([n]) * 5000, 0, 5) for n in range(2)]
    for one in built:
        publisher.offer(one)
    producer.report(KafkaError(code))
    assert publisher.failing and not publisher.offer(ClosedBatch(b"x", 0, 1))
    assert publisher.take_back() == built
    assert (int(counts.by_reason[Reason.DELIVERY_FAILED]), counts.batches_failed) == (0, 0)


@pytest.mark.parametrize("where", ["delivery", "error_cb", "produce", "poll"])
def test_a_fatal_error_stops_the_offers_until_all_is_taken_back_in_order(where: str) -> None:
    publisher, counts, first = make()
    fatal = KafkaError(KafkaError._FATAL, "fenced", fatal=True)
    batches = [ClosedBatch(b"a", 0, 3), ClosedBatch(b"b", 1, 4), ClosedBatch(b"c", 0, 2)]
    for built in batches:
        assert publisher.offer(built)
    if where == "delivery":
        first.report_first(fatal)
    elif where == "error_cb":
        first.config["error_cb"](fatal)
    elif where == "poll":
        first.raises_in_poll = KafkaException(fatal)
        publisher.poll()
    else:
        first.raises = KafkaException(fatal)
        assert not publisher.offer(ClosedBatch(b"x", 0, 9))
    assert publisher.failing and not publisher.offer(ClosedBatch(b"y", 0, 2))
    assert publisher.take_back() == batches
    assert len(FakeProducer.made) == 2
    assert counts.by_reason.sum() == counts.inflight == counts.inflight_bytes == 0
    assert publisher.offer(ClosedBatch(b"x", 0, 2))
    assert len(FakeProducer.made[1].held) == 1


def test_a_batch_overtaken_by_an_acknowledged_one_is_not_sent_again() -> None:
    publisher, counts, producer = make()
    for name in (b"a", b"b", b"c"):
        publisher.offer(ClosedBatch(name, 0, 3))
    publisher.offer(ClosedBatch(b"other partition", 1, 1))
    producer.report_first(KafkaError(KafkaError._MSG_TIMED_OUT))
    producer.report_first()  # a lane would take the first for a repeat now
    assert publisher.take_back() == [ClosedBatch(b"c", 0, 3), ClosedBatch(b"other partition", 1, 1)]
    assert int(counts.by_reason[Reason.DELIVERY_FAILED]) == 3 and counts.published == 3


def test_batches_from_the_spool_count_as_spooled_until_acknowledged() -> None:
    done: list[Any] = []
    publisher, counts, producer = make(delivered=done)
    entry = Entry(b"x", 0, 7, 100)
    publisher.offer(ClosedBatch(b"x", 0, 7), entry)
    assert (counts.inflight, counts.inflight_bytes) == (0, 1)
    assert publisher.take_back() == [] and not done
    publisher.offer(ClosedBatch(b"x", 0, 7), entry)
    FakeProducer.made[1].report()
    assert done == [entry] and counts.published == 7 and counts.inflight_bytes == 0
    assert not producer.held


def test_what_the_client_never_gives_back_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, counts, producer = make()
    monkeypatch.setattr(producer, "purge", lambda: None)
    monkeypatch.setattr("klais.edge.sinks.kafka.PURGE_S", 0.01)
    publisher.offer(ClosedBatch(b"x", 0, 3))
    assert publisher.take_back() == []
    assert int(counts.by_reason[Reason.DELIVERY_FAILED]) == 3
    assert counts.inflight == counts.inflight_bytes == 0


def test_the_producer_is_idempotent_and_never_times_a_batch_out() -> None:
    _, _, producer = make(edge_id=7)
    config = producer.config
    assert (config["enable.idempotence"], config["acks"], config["compression.type"]) == (True, "all", "lz4")
    assert config["message.timeout.ms"] == 0 and config["enable.gapless.guarantee"]
    assert config["queue.buffering.max.kbytes"] * 1024 > Settings().publish_max_inflight_bytes
