"""Whole lanes on a real Kafka, in this process and without Faust. Lanes detect changes of topics within a second.

``stop`` of a lane drops everything immediately, without flushing: for Kafka it is like kill -9.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.core.lane.counters import conservation, passed
from klais.core.lane.state import Tally
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.errors import KlaisError
from klais.kafka.admin import ensure_topics
from klais.kafka.clients import headers_of
from klais.kafka.fenced import abandon, make_producer
from klais.kafka.topics import Topics
from klais.worker.context import LaneContext
from klais.worker.detector import detector_maker, profile_allowance
from klais.worker.lane import Lane
from klais.worker.limits import LaneLimits
from tests.support.process import PATIENCE, wait_for

WAIT_S = 9.0
FAST = {"partitions": 1, "checkpoint_interval_s": 0.3}  # settings of a lane that is often at a checkpoint


class Consumers:
    """Replacement of the group's consumer: it delivers no records, so lanes use their own readers.

    It records the lanes' calls.
    """

    def __init__(self) -> None:
        self.sought: list[tuple[int, int]] = []

    def pause(self, partition: int) -> None: ...

    def resume(self, partition: int) -> None: ...

    async def seek(self, partition: int, offset: int) -> None:
        self.sought.append((partition, offset))

    async def repair_commit(self, partition: int, acknowledged: int, newest: int) -> None: ...


class Edge:
    """A small edge: one frame of each device a round, in numbered batches, without repeats."""

    def __init__(self, settings: Settings, devices: int = 5, partition: int = 0, boot: int = 1) -> None:
        self._topic, self._partition, self._boot = Topics.of(settings).raw, partition, boot
        self._bootstrap = settings.bootstrap
        self.connect()
        self._ids = [b"p%d-dev-%d" % (partition, d) for d in range(devices)]
        self._round = self._number = 0
        self.sent = 0
        self.last = b""  # batch

    def connect(self) -> None:
        """Create a new producer: after a topic was truncated, an older producer stays out of sequence."""
        self._producer = Producer({"bootstrap.servers": self._bootstrap, "enable.idempotence": True, "log_level": 0})

    def send(self, rounds: int = 1, tag: str = "x", at_ns: int | None = None) -> None:
        """Send ``rounds`` batches, acknowledged on return."""
        for _ in range(rounds):
            self._round += 1
            body = json.dumps({"t": self._round, "tag": tag}).encode()
            some = [encode_frame(device, self._round, body) for device in self._ids]
            self.last = encode_batch(some, at_ns or time.time_ns(), 1, self._boot, self._number)
            self.put(self.last)
            self._number += 1
            self.sent += len(some)
        assert self._producer.flush(30) == 0

    def put(self, value: bytes | None) -> None:
        """Send any record."""
        self._producer.produce(self._topic, value, partition=self._partition)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


async def until(condition, what: str | Callable[[], str], timeout_s: float = WAIT_S):
    """As :func:`tests.support.process.wait_for`, without holding up the event loop."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not (value := condition()):
        text = what() if callable(what) else what
        assert time.monotonic() < deadline, f"not within {timeout_s * PATIENCE:g} s: {text}"
        await asyncio.sleep(0.02)
    return value


@asynccontextmanager
async def lane_context(settings: Settings) -> AsyncIterator[LaneContext]:
    """What the lanes of one worker share, with three producers; a test's lanes must have stopped at the end."""
    topics = Topics.of(settings)
    producers = [await make_producer(settings) for _ in range(3)]
    try:
        yield LaneContext(
            settings, topics, "test", LaneLimits(settings, None), Consumers(), *producers,
            on_step=lambda seconds: None, on_sent=lambda seconds: None, new_detector=detector_maker(settings),
            profile_bytes=profile_allowance(settings),
        )  # fmt: skip
    finally:
        for producer in producers:
            await abandon(producer)


@asynccontextmanager
async def lanes(settings: Settings, partitions: tuple[int, ...] = (0,)) -> AsyncIterator[dict[int, Lane]]:
    """Running lanes, dropped without flushing at the end."""
    async with lane_context(settings) as context:
        found = {p: Lane(context, p) for p in partitions}
        try:
            for lane in found.values():
                lane.start()
            yield found
        finally:
            await asyncio.gather(*(lane.stop() for lane in found.values()))


@asynccontextmanager
async def two_lanes(settings_for, topics_of, batches: int = 0) -> AsyncIterator[SimpleNamespace]:
    """Two live lanes, which have the first ``batches`` of their edges: settings, topics, edges and lanes."""
    settings = settings_for(partitions=2, checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edges = [Edge(settings, partition=p, boot=p + 1) for p in (0, 1)]
    async with lanes(settings, (0, 1)) as found:
        for p in (0, 1):
            await live(found[p])
            if batches:
                edges[p].send(batches)
        yield SimpleNamespace(settings=settings, topics=topics, edges=edges, lanes=found)


async def live(lane: Lane) -> None:
    """Wait until a lane is live."""
    await until(lane.live.is_set, lambda: f"lane {lane.partition} live: {lane.failure}")


async def caught_up(settings: Settings, lane: Lane) -> None:
    """Wait until a lane has read, sent and checkpointed all records of its partition of klais_raw."""
    end = (await asyncio.to_thread(ends, settings, Topics.of(settings).raw))[lane.partition][1]

    def done() -> bool:
        session, checkpointer = lane.session, lane.checkpointer
        return bool(
            lane.live.is_set() and session and checkpointer and session.state.next_raw >= end
            and not session.pending.frames and not session.state.queue.depth and checkpointer.step == session.state.step
        )  # fmt: skip

    await until(done, f"lane {lane.partition} caught up: {lane.failure}")


async def checkpoint(lane: Lane) -> None:
    """Have a lane write a checkpoint of what it has decided."""
    assert await lane.drain(6 * PATIENCE), lane.failure


def ends(settings: Settings, topic: str) -> list[tuple[int, int]]:
    """(first, end) offset of each partition."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "test-ends"})
    try:
        parts = [TopicPartition(topic, p) for p in range(settings.partitions)]
        return [consumer.get_watermark_offsets(tp, timeout=20, cached=False) for tp in parts]
    finally:
        consumer.close()


def records(settings: Settings, topic: str, partition: int = 0) -> list[SimpleNamespace]:
    """All records of a partition."""
    start, end = ends(settings, topic)[partition]
    config = {"bootstrap.servers": settings.bootstrap, "group.id": "test-read", "isolation.level": "read_uncommitted"}
    consumer = Consumer(config | {"enable.partition.eof": True, "log_level": 0})
    out = []
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        while end > start:
            message = consumer.poll(30)
            assert message is not None, f"{topic} cannot be read"
            if message.error():
                break
            facts = {"key": message.key(), "value": message.value(), "offset": message.offset()}
            out.append(SimpleNamespace(**facts, headers=dict(headers_of(message))))
    finally:
        consumer.close()
    return out


def landed(settings: Settings, partition: int = 0) -> Counter[tuple[bytes, int]]:
    """(device, sequence number) of the records on the clean topic, with their count."""
    clean = records(settings, Topics.of(settings).telemetry, partition)
    found = (re.match(rb'\{"device_id":"(.*?)","seq":(\d+),', record.value) for record in clean)
    return Counter((match[1], int(match[2])) for match in found if match)


def remove(settings: Settings, topic: str, before: int | None = None, partition: int = 0) -> None:
    """Remove all records before an offset, like retention; None = all."""
    target = TopicPartition(topic, partition, ends(settings, topic)[partition][1] if before is None else before)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})

    def removed() -> bool:
        try:
            admin.delete_records([target])[target].result(60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.POLICY_VIOLATION:  # the log has its new cleanup.policy a moment later
                raise
            return False
        return True

    wait_for(removed, 30, f"records of {topic} to be removed", 0.1)


def remove_topics(settings: Settings, *names: str) -> None:
    """Delete topics."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    for done in admin.delete_topics(list(names)).values():
        done.result(30)
    wait_for(lambda: not set(names) & set(admin.list_topics(timeout=20).topics), 30, f"{names} to be gone", 0.1)


def recreate(settings: Settings, *names: str) -> None:
    """Delete topics and create them empty."""
    remove_topics(settings, *names)

    def created() -> bool:  # Kafka deletes asynchronously and refuses to create the topic for a moment
        with contextlib.suppress(KlaisError, KafkaException):
            ensure_topics(settings)
            return True
        return False

    wait_for(created, 30, f"{names} to be created again", 0.3)


def figures(lane: Lane) -> SimpleNamespace:
    """The lane's report, as the views and metrics show it."""
    assert lane.session is not None
    state, seen = lane.session.state, lane.statistics()
    tally = state.tally
    return SimpleNamespace(
        passed=passed(tally),
        lost_records=int(tally[Tally.LOST_RECORDS]),
        output_lost=int(tally[Tally.OUTPUT_LOST]),
        queue_lost=int(tally[Tally.QUEUE_LOST]),
        doubled=int(tally[Tally.DOUBLED]),
        poison=int(tally[Tally.POISON_FRAMES]),
        conservation=conservation(tally, state.queue.depth, seen.unsent, seen.missing),
        alarms=seen.alarms,
    )


async def after(settings: Settings, edge: Edge, rounds: int = 10) -> SimpleNamespace:
    """A new owner; its report once ``rounds`` new batches are through."""
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(rounds, "new")
        await caught_up_with_drain(settings, found[0])
        report = figures(found[0])
        assert report.conservation.holds, report
        return report


async def caught_up_with_drain(settings: Settings, lane: Lane) -> None:
    """As :func:`caught_up`, with outputs and checkpoints not waiting for their interval."""

    async def drain() -> None:
        while True:
            await lane.drain(30)
            await asyncio.sleep(0.2)

    draining = asyncio.create_task(drain())
    try:
        await caught_up(settings, lane)
    finally:
        draining.cancel()


def once(settings: Settings, edge: Edge) -> None:
    """Every frame that was sent is on the clean topic once."""
    there = landed(settings)
    assert (len(there), sum(there.values())) == (edge.sent, edge.sent)
