"""Fencing and the lane's sender against a real Apache Kafka: zombies, repeats, gaps, lost answers, the wrap."""

import asyncio
import socket
import time
import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, LaneFailed, LaneFenced
from klais.kafka.fenced import FencedSender, ProducerIdentity, ReadyBatch, abandon, fence, make_producer
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from tests.support.process import PATIENCE
from tests.support.topics import create_topics


@pytest.fixture
def settings(kafka):
    return Settings(kafka_bootstrap=kafka)


@pytest.fixture
def topic(kafka):
    """Name of a new topic with two partitions; ``name-b`` is another one."""
    name = f"fenced-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": kafka})
    create_topics(admin, NewTopic(name, 2, 1), NewTopic(name + "-b", 2, 1))
    return name


@pytest.fixture
async def producer(settings):
    made = await make_producer(settings, timeout_s=20 * PATIENCE)
    yield made
    await abandon(made)


@pytest.fixture
async def reader(settings):
    async with PartitionReader(settings, timeout_s=20 * PATIENCE) as opened:
        yield opened


def batch(*values):
    writer = RecordBatchWriter()
    for value in values:
        assert writer.append_one(b"key", value, timestamp_ms=time.time_ns() // 1_000_000)
    return writer


async def values(reader, topic, partition=0):
    return [record.value async for record in reader.read(topic, partition, 0)]


async def test_each_fence_gives_a_newer_epoch_and_a_marker_in_each_partition(settings, topic, reader):
    mine = [(topic, 0), (topic + "-b", 0)]
    first = await fence(settings, topic, mine)
    assert (await reader.offsets(*mine[0]))[1] > 0 and (await reader.offsets(*mine[1]))[1] > 0
    before = [await reader.offsets(*where) for where in mine]
    second = await fence(settings, topic, mine)
    after = [await reader.offsets(*where) for where in mine]
    assert second.producer_id == first.producer_id and second.epoch > first.epoch
    assert all(later[1] > earlier[1] for later, earlier in zip(after, before, strict=True))
    assert await reader.offsets(topic, 1) == (0, 0)


async def test_a_fence_waits_until_the_coordinator_is_done_with_its_markers(settings, topic, monkeypatch):
    """EndTxn is answered before the markers are written; only that a next transaction may begin proves them."""
    asked, send = [], AIOKafkaClient.send

    async def listen(self, node_id, request, **kwargs):
        answer = await send(self, node_id, request, **kwargs)
        kind = type(request).__name__
        if kind == "AddPartitionsToTxnRequest":
            asked.append((kind, {code for _, partitions in answer.errors for _, code in partitions}))
        elif kind == "EndTxnRequest":
            asked.append((kind, {answer.error_code}))
        return answer

    monkeypatch.setattr(AIOKafkaClient, "send", listen)
    await fence(settings, topic, [(topic, 0), (topic, 1), (topic + "-b", 0)])
    done = [kind for kind, codes in asked if codes == {0}]
    assert done == ["AddPartitionsToTxnRequest", "EndTxnRequest"] * 2
    busy = kafka_errors.ConcurrentTransactions.errno
    assert all(codes <= {0, busy} for _, codes in asked)


async def test_a_zombie_is_refused_before_its_successor_has_written_anything(settings, topic, producer, reader):
    mine = [(topic, 0), (topic + "-b", 0)]
    zombie = await fence(settings, topic, mine)
    old = [FencedSender(producer, zombie, *where) for where in mine]
    for sender in old:
        await sender.send(batch(b"old"))
    successor = await fence(settings, topic, mine)
    for sender in old:
        with pytest.raises(LaneFenced, match="newer owner"):
            await sender.send(batch(b"zombie"))
    fresh_zombie = FencedSender(producer, zombie, topic, 0)
    with pytest.raises(LaneFenced):
        await fresh_zombie.send(batch(b"zombie"))
    for where in mine:
        await FencedSender(producer, successor, *where).send(batch(b"new"))
        assert await values(reader, where[0]) == [b"old", b"new"]


async def test_a_successor_need_not_have_known_the_zombie(settings, topic, producer, reader):
    """Also an owner that never wrote to the partition before is refused after the fence."""
    zombie = await fence(settings, topic, [(topic, 0)])
    await fence(settings, topic, [(topic, 0)])
    with pytest.raises(LaneFenced):
        await FencedSender(producer, zombie, topic, 0).send(batch(b"zombie"))
    assert await values(reader, topic) == []


async def test_two_fences_at_once_leave_one_owner(settings, topic, producer, reader):
    both = await asyncio.gather(*[fence(settings, topic, [(topic, 0)]) for _ in range(2)], return_exceptions=True)
    assert all(isinstance(one, ProducerIdentity | LaneFenced) for one in both), both
    owners = sorted((one for one in both if isinstance(one, ProducerIdentity)), key=lambda one: one.epoch)
    for loser in owners[:-1]:
        with pytest.raises(LaneFenced):
            await FencedSender(producer, loser, topic, 0).send(batch(b"loser"))
    await FencedSender(producer, owners[-1], topic, 0).send(batch(b"winner"))
    assert await values(reader, topic) == [b"winner"]


async def test_a_fence_that_died_half_way_does_not_block_the_next(settings, topic, producer, reader):
    dead = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=topic, transaction_timeout_ms=60_000)
    await dead.start()
    await dead.begin_transaction()
    where = TopicPartition(topic, 0)
    dead._txn_manager.maybe_add_partition_to_txn(where)
    async with asyncio.timeout(20 * PATIENCE):
        while where not in dead._txn_manager.txn_partitions:  # noqa: ASYNC110 (aiokafka has no event for it)
            await asyncio.sleep(0.01)
    await dead.stop()
    identity = await fence(settings, topic, [(topic, 0)], timeout_s=20 * PATIENCE)
    await FencedSender(producer, identity, topic, 0).send(batch(b"alive"))
    assert await values(reader, topic) == [b"alive"]


async def test_a_batch_sent_again_is_kept_once(settings, topic, producer, reader):
    identity = await fence(settings, topic, [(topic, 0)])
    sender = FencedSender(producer, identity, topic, 0)
    await sender.send(batch(b"zero"))
    built = sender.build(batch(b"a", b"b"))
    first = await sender.send(built)
    again = await (await producer.send_batch(ReadyBatch(built), topic, partition=0))
    assert again.offset == first
    for n in range(8):
        await sender.send(batch(b"%d" % n))
    assert await values(reader, topic) == [b"zero", b"a", b"b", *[b"%d" % n for n in range(8)]]


@pytest.mark.parametrize("ahead", [1, 5])
async def test_a_gap_is_refused_and_ends_the_sender(settings, topic, producer, reader, ahead):
    identity = await fence(settings, topic, [(topic, 0)])
    sender = FencedSender(producer, identity, topic, 0)
    await sender.send(batch(b"a"))
    sender.next_sequence += ahead
    for _ in range(2):
        with pytest.raises(LaneFailed, match="failed for good"):
            await sender.send(batch(b"gap"))
    assert await values(reader, topic) == [b"a"]


async def test_a_new_epoch_must_begin_with_zero(settings, topic, producer):
    first = await fence(settings, topic, [(topic, 0)])
    await FencedSender(producer, first, topic, 0).send(batch(b"a"))
    second = await fence(settings, topic, [(topic, 0)])
    with pytest.raises(LaneFailed):
        await FencedSender(producer, second, topic, 0, base_sequence=1).send(batch(b"b"))


async def test_lost_answers_leave_one_copy_each(settings, topic, producer, reader, monkeypatch):
    """The request arrives, its answer does not: aiokafka and the sender try again with the same bytes."""
    identity = await fence(settings, topic, [(topic, 0)])
    sender = FencedSender(producer, identity, topic, 0)
    send, lost = producer.client.send, []

    async def lose_answers(node_id, request, **kwargs):
        answer = await send(node_id, request, **kwargs)
        if type(request).__name__ == "ProduceRequest" and len(lost) < 6 and len(lost) % 3 < 2:
            lost.append(answer)
            raise kafka_errors.RequestTimedOutError()
        lost.append(None)
        return answer

    monkeypatch.setattr(producer.client, "send", lose_answers)
    offsets = [await sender.send(batch(b"%d" % n, b"x")) for n in range(3)]
    assert len([answer for answer in lost if answer]) >= 2
    written = {record.value: record.offset async for record in reader.read(topic, 0, 0) if record.value != b"x"}
    assert await values(reader, topic) == [b"0", b"x", b"1", b"x", b"2", b"x"]
    assert offsets == [written[b"0"], written[b"1"], written[b"2"]]


async def test_a_batch_whose_request_failed_is_sent_again_by_the_sender(settings, topic, reader, monkeypatch):
    """The producer tries nothing twice; the sender hands the same bytes in again."""
    producer = await make_producer(settings, timeout_s=20 * PATIENCE)
    identity = await fence(settings, topic, [(topic, 0)])
    sender = FencedSender(producer, identity, topic, 0)
    await sender.send(batch(b"first"))
    send, tried = producer.client.send, []

    async def fail_for_a_while(node_id, request, **kwargs):
        if type(request).__name__ == "ProduceRequest":
            tried.append(request)
            if handed_in[0] < 3:
                raise kafka_errors.KafkaConnectionError("cut")
        return await send(node_id, request, **kwargs)

    send_batch, handed_in = producer.send_batch, [0]

    async def count(*args, **kwargs):
        handed_in[0] += 1
        return await send_batch(*args, **kwargs)

    monkeypatch.setattr(producer.client, "send", fail_for_a_while)
    monkeypatch.setattr(producer, "send_batch", count)
    await sender.send(batch(b"second"))
    assert handed_in[0] == 3 and len(tried) == 3
    assert await values(reader, topic) == [b"first", b"second"]
    await abandon(producer)


async def test_sequences_wrap_on_the_broker_as_here(settings, topic, producer, reader):
    """A producer that the partition does not know may start anywhere: so the end of the numbers is near."""
    identity = await fence(settings, topic, [(topic + "-b", 1)])
    sender = FencedSender(producer, identity, topic, 0, base_sequence=2**31 - 3)
    await sender.send(batch(b"a", b"b"))
    assert sender.next_sequence == 2**31 - 1
    await sender.send(batch(b"c"))
    assert sender.next_sequence == 0
    await sender.send(batch(b"d", b"e"))
    assert await values(reader, topic) == [b"a", b"b", b"c", b"d", b"e"]
    across = FencedSender(producer, identity, topic, 1, base_sequence=2**31 - 2)
    await across.send(batch(b"a", b"b", b"c", b"d"))
    assert across.next_sequence == 2
    await across.send(batch(b"e"))
    assert len(await values(reader, topic, 1)) == 5
    across.next_sequence += 1
    with pytest.raises(LaneFailed):
        await across.send(batch(b"gap"))


async def test_after_a_cancelled_send_the_next_owner_goes_on_cleanly(settings, topic, producer, reader):
    identity = await fence(settings, topic, [(topic, 0)])
    sender = FencedSender(producer, identity, topic, 0)
    await sender.send(batch(b"a"))
    sending = asyncio.create_task(sender.send(batch(b"maybe")))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(LaneFailed, match="cancelled"):
        await sender.send(batch(b"never"))
    successor = await fence(settings, topic, [(topic, 0)])
    await FencedSender(producer, successor, topic, 0).send(batch(b"b"))
    written = await values(reader, topic)
    assert written in ([b"a", b"b"], [b"a", b"maybe", b"b"])


async def test_abandon_does_not_flush(settings, topic, reader):
    """What waits behind a request in flight is dropped, and nothing hangs."""
    producer = await make_producer(settings, timeout_s=20 * PATIENCE)
    identity = await fence(settings, topic, [(topic, 0), (topic + "-b", 0)])
    senders = [FencedSender(producer, identity, name, 0) for name in (topic, topic + "-b")]
    await asyncio.gather(*[sender.send(batch(b"first")) for sender in senders])
    send, started = producer.client.send, asyncio.Event()

    async def stall(node_id, request, **kwargs):
        if type(request).__name__ == "ProduceRequest":
            started.set()
            await asyncio.sleep(0.3)
            raise kafka_errors.KafkaConnectionError("cut")
        return await send(node_id, request, **kwargs)

    producer.client.send = stall
    first = asyncio.create_task(senders[0].send(batch(b"in flight")))
    await started.wait()
    second = asyncio.create_task(senders[1].send(batch(b"waiting")))
    await asyncio.sleep(0)
    for sender in senders:
        sender.close()
    producer.client.send = send
    await asyncio.wait_for(abandon(producer), 5 * PATIENCE)
    for result in await asyncio.gather(first, second, return_exceptions=True):
        assert isinstance(result, LaneFailed)
    assert await values(reader, topic) == [b"first"] and await values(reader, topic + "-b") == [b"first"]


async def test_large_batches_of_many_partitions_pass_side_by_side(settings, topic, producer, reader):
    """One request carries a batch of each partition; each keeps its own sequence."""
    where = [(name, p) for name in (topic, topic + "-b") for p in (0, 1)]
    identity = await fence(settings, topic, where)

    async def run(name, partition):
        sender = FencedSender(producer, identity, name, partition)
        writer = RecordBatchWriter()
        for n in range(6):
            for i in range(200):
                writer.append_one(b"k", b"%d-%d" % (n, i) + b"x" * 500, timestamp_ms=1)
            await sender.send(writer)

    await asyncio.gather(*[run(*one) for one in where])
    for name, partition in where:
        got = [value.rstrip(b"x") for value in await values(reader, name, partition)]
        assert got == [b"%d-%d" % (n, i) for n in range(6) for i in range(200)]


async def test_a_batch_too_large_for_the_topic_ends_the_sender(settings, producer):
    name = f"narrow-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    create_topics(admin, NewTopic(name, 1, 1, config={"max.message.bytes": "1000"}))
    sender = FencedSender(producer, await fence(settings, name, [(name, 0)]), name, 0)
    await sender.send(batch(b"small"))
    writer = RecordBatchWriter(compression="none")
    writer.append_one(None, bytes(2000), timestamp_ms=1)
    with pytest.raises(LaneFailed, match=r"as too large.*klais topics create --fix"):
        await sender.send(writer)


async def test_a_topic_that_is_not_there_is_named_in_time(settings, topic):
    with pytest.raises(KafkaUnavailable, match=rf"{topic}-missing/0 within 2 s"):
        await fence(settings, topic, [(topic + "-missing", 0)], timeout_s=2)


async def test_a_partition_that_is_not_there_ends_the_sender(settings, topic, producer):
    with pytest.raises(LaneFailed, match="there is no"):
        await FencedSender(producer, ProducerIdentity(1, 0), topic, 7).send(batch(b"x"))


async def test_no_broker_is_said_in_time():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses at once
        nowhere = Settings(kafka_bootstrap=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(KafkaUnavailable, match="no answer"):
            await make_producer(nowhere, timeout_s=0.7)
        with pytest.raises(KafkaUnavailable, match="no answer"):
            await fence(nowhere, "nobody", [("nothing", 0)], timeout_s=0.7)
        with pytest.raises(KafkaUnavailable, match="no answer"):
            await PartitionReader(nowhere, timeout_s=0.7).start()
