"""Reading a partition back from a real Apache Kafka: ends among control records, what retention took, how far a lane
got.
"""

import asyncio
import contextlib
import itertools
import time
import uuid
from functools import partial

import psutil
import pytest
from aiokafka import errors as kafka_errors
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, NewTopic

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, OffsetGone, TopicMismatch
from klais.kafka import reader as reader_module
from klais.kafka.closing import wait_closed
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.marks import last_own_mark
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter, mark, read_mark
from klais.kafka.shared_ends import SharedEnds
from klais.system.address import split_address
from klais.system.loop_turn import BUDGET_S
from tests.support.process import PATIENCE
from tests.support.topics import create_topics


@pytest.fixture
def settings(kafka):
    return Settings(kafka_bootstrap=kafka)


def create(kafka):
    name = f"read-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": kafka})
    create_topics(admin, NewTopic(name, 2, 1))
    return name


@pytest.fixture
def topic(kafka):
    return create(kafka)


@pytest.fixture
async def reader(settings):
    async with PartitionReader(settings, timeout_s=20 * PATIENCE) as opened:
        yield opened


@pytest.fixture
async def producer(settings):
    made = await make_producer(settings, timeout_s=20 * PATIENCE)
    yield made
    await abandon(made)


class Log:
    """Writes one partition and knows what must be read from it: offset -> value."""

    def __init__(self, settings, producer, reader, topic):
        self.settings, self.producer, self.reader, self.topic = settings, producer, reader, topic
        self.expected = {}

    async def fence(self, times=1):
        for _ in range(times):
            identity = await fence(self.settings, self.topic, [(self.topic, 0)])
        self.sender = FencedSender(self.producer, identity, self.topic, 0)

    async def write(self, *records):
        """Each record is (value, mark or None)."""
        writer = RecordBatchWriter()
        for value, position in records:
            writer.append_one(b"k", value, timestamp_ms=1, step=position and position[0], done=position and position[1])
        first = await self.sender.send(writer)
        self.expected |= {first + i: value for i, (value, _) in enumerate(records)}

    async def read(self, start, end=None):
        return {record.offset: record.value async for record in self.reader.read(self.topic, 0, start, end)}

    async def last(self, floor=0):
        found = await last_own_mark(self.reader, self.topic, 0, floor)
        return None if found is None else found[:2]


@pytest.fixture
async def log(settings, producer, reader, topic):
    return Log(settings, producer, reader, topic)


async def test_an_empty_partition(log):
    assert await log.reader.offsets(log.topic, 0) == (0, 0)
    assert await log.read(0) == {} and await log.read(0, 100) == {}
    assert await log.last() is None


async def test_the_ends_of_several_topics_take_one_request(log, kafka, monkeypatch):
    await log.fence()
    await log.write((b"a", None), (b"b", None))
    other = create(kafka)
    wanted = [(await log.reader.offsets(name, 0))[1] for name in (other, log.topic)]
    send, requests = log.reader._client.send, []

    async def count(node, request):
        requests.append(request)
        return await send(node, request)

    monkeypatch.setattr(log.reader._client, "send", count)
    assert await log.reader.ends([other, log.topic], 0) == wanted and wanted[0] == 0 < wanted[1]
    assert len(requests) == 1
    with pytest.raises(TopicMismatch, match=f"no {other}-missing/0"):
        await log.reader.ends([log.topic, f"{other}-missing"], 0)


async def test_two_records_take_one_request_and_come_with_the_epoch_of_their_leader(log, kafka, monkeypatch):
    await log.fence()  # writes control records
    for _ in range(3):
        await log.write((b"a", None), (b"b", None))
    first, last = min(log.expected), max(log.expected)
    two = partial(log.reader.two_records, log.topic, 0)
    one, other, leader = await two(first, last)
    assert (one.offset, one.value, other.offset, other.value) == (first, b"a", last, b"b")
    record, epoch = await log.reader.record_and_leader(log.topic, 0, last)
    assert (record.value, epoch) == (b"b", leader) and leader >= 0
    assert (await two(first, first + 1))[1].value == b"b"  # of the same batch
    assert await two(first - 1, last) is None  # a control record
    assert await two(first, last + 1) is None and await two(last + 1, last + 2) is None  # beyond the end
    await log.write((b"x" * reader_module.NEAR_BYTES, None))
    await log.write((b"c", None))
    monkeypatch.setattr(reader_module, "NEAR_BYTES", 200)
    assert await two(last, last + 2) is None  # too far away for one answer
    place = Place(log.topic, 0, first + 1)
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_records([place])[place].result(20 * PATIENCE)
    assert await two(first, last) is None


async def test_the_ends_of_several_lanes_take_one_request(log, kafka, settings):
    await log.fence()
    await log.write((b"a", None))
    other = create(kafka)
    shared = SharedEnds(settings)
    try:
        asked = [shared.ends(None, topics, p) for topics, p in (([log.topic, other], 0), ([other], 1))]
        end = max(log.expected) + 1
        assert await asyncio.gather(*asked) == [[end, 0], [0]]  # without readers of their own
        with pytest.raises(TopicMismatch, match=f"no {other}-missing/0"):
            await shared.ends(log.reader, [other, f"{other}-missing"], 0)
        assert await shared.ends(None, [log.topic], 0) == [end]
    finally:
        await shared.close()


async def test_only_control_records(log):
    await log.fence(3)
    _, end = await log.reader.offsets(log.topic, 0)
    assert end >= 3
    async with asyncio.timeout(5 * PATIENCE):
        assert await log.read(0) == {} and await log.read(end - 1) == {} and await log.read(end) == {}
        assert await log.last() is None


async def test_any_part_of_a_log_with_markers_between(log):
    await log.fence()
    await log.write((b"a", None), (b"b", (1, 1)))
    await log.fence(2)
    await log.write((b"c", None), (b"d", None), (b"e", (2, 2)))
    await log.fence()
    _, end = await log.reader.offsets(log.topic, 0)
    assert sorted(log.expected.values()) == [b"a", b"b", b"c", b"d", b"e"]
    for start in range(end + 1):
        for stop in [*range(start, end + 1), None, end + 50]:
            last = end if stop is None else stop
            assert await log.read(start, stop) == {o: v for o, v in log.expected.items() if start <= o < last}


async def test_control_records_come_where_they_are_asked_for(log):
    """So that an offset at which nothing lies is told from one of theirs."""
    await log.fence()
    await log.write((b"a", None), (b"b", None))
    await log.fence()
    _, end = await log.reader.offsets(log.topic, 0)
    got = [record async for record in log.reader.read(log.topic, 0, 0, controls=True)]
    assert [record.offset for record in got] == list(range(end))
    assert [record.offset for record in got if not record.control] == list(log.expected) != list(range(end))


async def test_headers_and_keys_come_as_written(log):
    await log.fence()
    writer = RecordBatchWriter()
    writer.append_one(None, None, [("a", b"1"), ("a", b"2")], 1)
    writer.append_one(b"k", b"", timestamp_ms=1, step=3, done=4)
    first = await log.sender.send(writer)
    got = [record async for record in log.reader.read(log.topic, 0, 0)]
    assert [record[:4] for record in got] == [
        (first, None, None, (("a", b"1"), ("a", b"2"))),
        (first + 1, b"k", b"", (("klais", mark(3, 4)),)),
    ]
    assert read_mark(got[1].headers)[:2] == (3, 4)


async def test_many_batches_are_read_in_many_answers(log, monkeypatch):
    monkeypatch.setattr(reader_module, "FETCH_BYTES", 2000)
    await log.fence()
    for n in range(20):
        await log.write(*[(b"%d" % n + b"x" * 300, None)] * 5)
    assert await log.read(0) == log.expected


async def test_the_last_mark_is_found_behind_markers_and_foreign_records(log, settings, reader, topic):
    await log.fence()
    await log.write((b"a", None), (b"b", (7, 2)))
    assert await log.last() == (7, 2)
    await log.fence(5)
    assert await log.last() == (7, 2)
    await log.write(*[(b"foreign", None)] * 400)
    await log.fence(2)
    assert await log.last() == (7, 2)
    await log.write((b"c", (8, 1)), (b"d", (8, 2)), (b"e", None))
    assert await log.last() == (8, 2)


async def test_a_floor_hides_what_lies_before_it(log):
    await log.fence()
    await log.write(*[(b"x", (n, 0)) for n in range(50)])
    await log.fence()
    offsets = sorted(log.expected)
    assert await log.last(offsets[-1]) == (49, 0)
    assert await log.last(offsets[-1] + 1) is None
    assert await log.last(10**9) is None


async def test_a_long_tail_without_marks_is_read_once(log, monkeypatch):
    """Strides grow, and no offset is read twice: also where there is nothing to find."""
    await log.fence()
    for _ in range(3):
        await log.write(*[(b"foreign", None)] * 2000)
    asked, read = [], PartitionReader.read

    def count(self, topic, partition, start, end, **options):
        asked.append((start, end))
        return read(self, topic, partition, start, end, **options)

    monkeypatch.setattr(PartitionReader, "read", count)
    assert await log.last() is None
    _, end = await log.reader.offsets(log.topic, 0)
    assert asked[0] == (end - 1, end) and asked[-1][0] == 0 and len(asked) <= 6
    assert all(later[1] == earlier[0] for earlier, later in itertools.pairwise(asked))


async def test_what_retention_took_is_said_with_where_the_log_starts(log, kafka):
    await log.fence()
    await log.write(*[(b"%d" % n, (n, 1)) for n in range(10)])
    cut = sorted(log.expected)[6]
    admin = AdminClient({"bootstrap.servers": kafka})
    for done in admin.delete_records([Place(log.topic, 0, cut)]).values():
        done.result(20 * PATIENCE)
    _, end = await log.reader.offsets(log.topic, 0)
    with pytest.raises(OffsetGone, match="retention") as caught:
        await log.read(cut - 1)
    assert (caught.value.log_start, caught.value.log_end) == (cut, end)
    assert await log.read(cut) == {o: v for o, v in log.expected.items() if o >= cut}
    assert await log.last(0) == (9, 1)
    with pytest.raises(OffsetGone, match=f"not {end + 1}"):
        await log.read(end + 1)


async def test_retention_in_the_middle_of_a_read(log, monkeypatch):
    await log.fence()
    await log.write((b"a", None))

    async def gone(self, where, position):
        raise kafka_errors.OffsetOutOfRangeError()

    monkeypatch.setattr(PartitionReader, "_fetch", gone)
    with pytest.raises(OffsetGone):
        await log.read(0)


async def test_many_reads_at_once(log):
    await log.fence()
    for n in range(5):
        await log.write(*[(b"%d-%d" % (n, i), None) for i in range(50)])
    results = await asyncio.gather(*[log.read(start) for start in range(0, 250, 10)])
    for start, got in zip(range(0, 250, 10), results, strict=True):
        assert got == {o: v for o, v in log.expected.items() if o >= start}


async def test_who_works_on_what_is_read_does_not_hold_the_loop(log):
    """All 40 records come with one fetch, and each takes longer than the budget: a recovery may take minutes so."""
    await log.fence()
    await log.write(*[(b"%d" % i, None) for i in range(40)])
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(others())
        taken, at_first = 0, 0
        async for _ in log.reader.read(log.topic, 0, min(log.expected)):
            at_first = at_first or turns
            taken += 1
            time.sleep(BUDGET_S * 1.2)  # noqa: ASYNC251  (work that holds the loop)
        task.cancel()
    assert taken == 40 and turns - at_first >= 39


async def test_a_partition_that_is_not_there(reader, topic):
    with pytest.raises(TopicMismatch, match=f"no {topic}/9"):
        await reader.offsets(topic, 9)


async def test_a_topic_that_is_not_there(reader, topic):
    with pytest.raises(TopicMismatch, match="partitions known"):
        await last_own_mark(reader, topic + "-missing", 0)


async def test_trouble_that_passes_is_waited_for_and_lasting_trouble_named(log, settings, monkeypatch):
    await log.fence()
    await log.write((b"a", None))
    async with PartitionReader(settings, timeout_s=1.0) as reader:
        assert await reader.offsets(log.topic, 0)
        send, failures = reader._client.send, [3]

        async def fail(*args, **kwargs):
            if failures[0] > 0:
                failures[0] -= 1
                raise kafka_errors.NodeNotReadyError("down")
            return await send(*args, **kwargs)

        monkeypatch.setattr(reader._client, "send", fail)
        assert [record.value async for record in reader.read(log.topic, 0, 0)] == [b"a"]
        failures[0] = 10**9
        with pytest.raises(KafkaUnavailable, match="for 1 s"):
            await reader.offsets(log.topic, 0)


async def test_a_reader_must_be_started(settings, topic):
    with pytest.raises(RuntimeError, match="not started"):
        await PartitionReader(settings).offsets(topic, 0)


def connections(settings) -> set[int]:
    """Descriptors of this process's connections to the broker."""
    port = split_address(settings.kafka_bootstrap)[1]
    return {one.fd for one in psutil.Process().net_connections("tcp") if one.raddr and one.raddr.port == port}


@pytest.mark.parametrize("start", ["reader", "producer"])
async def test_a_start_that_is_cancelled_at_any_moment_leaves_no_connection_open(settings, start):
    before = connections(settings)
    for turns in range(60):  # of the event loop; a start on a fast machine takes about as many
        reader = PartitionReader(settings)
        task = asyncio.create_task(reader.start() if start == "reader" else make_producer(settings, 20 * PATIENCE))
        for _ in range(turns):
            await asyncio.sleep(0 if turns < 20 else 0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if (made := await task) is not None:
                await abandon(made)
        await reader.stop()
        await wait_closed()
        assert connections(settings) == before, f"cancelled after {turns} turns"
