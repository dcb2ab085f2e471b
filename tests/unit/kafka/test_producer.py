"""What the producer of whole batches makes of them: requests, answers, errors; aiokafka's client is played."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.kafka import producer as producer_module
from klais.kafka.producer import BatchProducer, BatchRefused
from tests.support.turns import turns

LEADERS = {("out", 0): 1, ("out", 1): 1, ("out", 2): 2, ("journal", 0): 1}


class Batch:
    def __init__(self, data: bytes) -> None:
        self.data, self.count = data, 1

    def record_count(self) -> int:
        return self.count

    def size(self) -> int:
        return len(self.data)

    def _build(self) -> bytes:
        return self.data


class Client:
    """Answers each request with the next of ``codes``, an error code for each batch or an exception, once ``gate`` is
    open.
    """

    _sync_task = None

    def __init__(self) -> None:
        self.requests: list[tuple[int, dict[tuple[str, int], bytes]]] = []
        self.codes: list[int | Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refreshed = 0
        self.cluster = SimpleNamespace(leader_for_partition=lambda tp: LEADERS.get(tuple(tp)))

    async def send(self, node: int, request: Any) -> Any:
        sent = {(topic, p): data for topic, parts in request._topics for p, data in parts}
        self.requests.append((node, sent))
        await self.gate.wait()
        code = self.codes.pop(0) if self.codes else 0
        if isinstance(code, Exception):
            raise code
        topics = [(topic, [(p, code, 100 + p, -1, 0) for p, _ in parts]) for topic, parts in request._topics]
        return SimpleNamespace(topics=topics)

    async def _wait_on_metadata(self, topic: str) -> set[int]:
        return {p for name, p in LEADERS if name == topic}

    def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def close(self) -> None:
        pass


@pytest.fixture
async def producer() -> AsyncIterator[BatchProducer]:
    made = BatchProducer(bootstrap_servers="nowhere:1", acks="all", request_timeout_ms=1000)
    made.client = Client()
    made._closed = True  # never started: there is nothing to warn of
    yield made


async def send(producer: BatchProducer, data: bytes, topic: str = "out", partition: int = 0) -> Any:
    return await (await producer.send_batch(Batch(data), topic, partition=partition))


async def test_what_comes_in_one_turn_goes_in_one_request_to_each_broker(producer: BatchProducer) -> None:
    where = [("out", 0), ("out", 1), ("out", 2), ("journal", 0)]
    done = await asyncio.gather(*[send(producer, b"%d" % n, *to) for n, to in enumerate(where)])
    assert [metadata.offset for metadata in done] == [100, 101, 102, 100]
    assert sorted(producer.client.requests) == [
        (1, {("out", 0): b"0", ("out", 1): b"1", ("journal", 0): b"3"}),
        (2, {("out", 2): b"2"}),
    ]


async def test_a_request_waits_for_what_lanes_decide_one_after_the_other(producer: BatchProducer) -> None:
    first = asyncio.create_task(send(producer, b"first"))
    for _ in range(4):  # of the loop: the next lane is at work
        await asyncio.sleep(0)
    await asyncio.gather(first, send(producer, b"second", "out", 1))
    assert producer.client.requests == [(1, {("out", 0): b"first", ("out", 1): b"second"})]


async def test_one_request_in_flight_and_the_rest_goes_behind_it_together(producer: BatchProducer) -> None:
    client = producer.client
    client.gate.clear()
    first = asyncio.create_task(send(producer, b"first"))
    await turns()
    rest = [
        asyncio.create_task(send(producer, b"rest", "out", 1)),
        asyncio.create_task(send(producer, b"rest", "journal")),
    ]
    await turns()
    assert len(client.requests) == 1
    client.gate.set()
    await asyncio.gather(first, *rest)
    assert client.requests[1:] == [(1, {("out", 1): b"rest", ("journal", 0): b"rest"})]


async def test_a_batch_taken_back_while_it_waits_is_not_sent_and_its_owner_is_told(producer: BatchProducer) -> None:
    client = producer.client
    client.gate.clear()
    first = asyncio.create_task(send(producer, b"first"))
    await turns()
    batch = Batch(b"taken back")
    delivery = await producer.send_batch(batch, "out", partition=1)
    batch.count = 0
    client.gate.set()
    await first
    with pytest.raises(kafka_errors.ProducerClosed):
        await delivery
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    ("code", "error", "refreshed"),
    [
        (47, kafka_errors.ProducerFenced, 0),
        (6, kafka_errors.NotLeaderForPartitionError, 1),
        (10, BatchRefused, 0),
        (87, BatchRefused, 0),
        (kafka_errors.KafkaConnectionError("cut"), kafka_errors.KafkaConnectionError, 1),
        (kafka_errors.RequestTimedOutError(), kafka_errors.RequestTimedOutError, 0),
        (RuntimeError("what nobody foresaw"), RuntimeError, 0),
    ],
)
async def test_each_error_reaches_who_waits_and_the_next_batch_passes(
    producer: BatchProducer, code: Any, error: type[Exception], refreshed: int
) -> None:
    producer.client.codes = [code]
    with pytest.raises(error):
        await send(producer, b"fails")
    assert producer.client.refreshed == refreshed
    assert (await send(producer, b"passes")).offset == 100


async def test_a_request_is_bounded_and_what_is_left_goes_in_the_next_ones(
    producer: BatchProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "REQUEST_BYTES", 10)
    where = [("out", 0), ("out", 1), ("journal", 0)]
    await asyncio.gather(*[send(producer, size * b"x", *to) for size, to in zip((4, 4, 40), where, strict=True)])
    assert [sorted(map(len, sent.values())) for _, sent in producer.client.requests] == [[4, 4], [40]]


async def test_a_repeat_counts_as_written(producer: BatchProducer) -> None:
    producer.client.codes = [46]
    assert (await send(producer, b"again")).topic_partition == TopicPartition("out", 0)


async def test_what_is_not_there_is_said(producer: BatchProducer) -> None:
    with pytest.raises(AssertionError):
        await send(producer, b"x", "out", 7)
    LEADERS["out", 3] = -1
    try:
        with pytest.raises(kafka_errors.LeaderNotAvailableError):
            await send(producer, b"x", "out", 3)
    finally:
        del LEADERS["out", 3]


async def test_stop_tells_all_who_wait_and_takes_nothing_more(producer: BatchProducer) -> None:
    producer.client.gate.clear()
    waits = [asyncio.create_task(send(producer, b"in flight")), asyncio.create_task(send(producer, b"later", "out", 2))]
    await turns()
    waits.append(asyncio.create_task(send(producer, b"waits", "out", 1)))
    await turns()
    await producer.stop()
    for outcome in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(outcome, kafka_errors.ProducerClosed)
    with pytest.raises(kafka_errors.ProducerClosed):
        await send(producer, b"too late")


async def test_a_batch_whose_leader_is_found_after_the_stop_is_refused(producer: BatchProducer, monkeypatch) -> None:
    """Otherwise it would open a connection that nobody closes, and its sender would wait."""
    asked, known = asyncio.Event(), asyncio.Event()

    async def wait_on_metadata(topic: str) -> set[int]:
        asked.set()
        await known.wait()
        return {0}

    leaders = iter([None, 1])
    producer.client.cluster = SimpleNamespace(leader_for_partition=lambda tp: next(leaders))
    monkeypatch.setattr(producer.client, "_wait_on_metadata", wait_on_metadata)
    sending = asyncio.create_task(producer.send_batch(Batch(b"late"), "out", partition=0))
    await asked.wait()
    await producer.stop()
    known.set()
    with pytest.raises(kafka_errors.ProducerClosed):
        await sending
    assert producer.client.requests == [] and producer._exchanges == {}


async def test_an_answer_that_cannot_be_read_fails_the_batches_and_the_next_ones_go_on(producer: BatchProducer) -> None:
    answer = producer.client.send

    async def unreadable(node: int, request: Any) -> Any:
        await answer(node, request)
        return SimpleNamespace(topics=[("out",)])

    producer.client.send = unreadable
    with pytest.raises(ValueError, match="not enough values"):
        await asyncio.wait_for(send(producer, b"one"), 60)
    producer.client.send = answer
    assert (await asyncio.wait_for(send(producer, b"two"), 60)).offset == 100
