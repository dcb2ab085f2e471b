"""Somebody switches compaction on for ``klais_raw``: what vanishes inside the log is lost, and counted exactly."""

import asyncio
import json
import time

import pytest
from confluent_kafka import Producer

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.kafka.topics import Topics
from tests.support.lanes import FAST, Edge, checkpoint, ends, figures, landed, lanes, live, records, recreate, until
from tests.support.process import wait_for
from tests.support.topics import alter

CLEAN_S = 60  # Kafka looks for segments to compact every 15 s


class Keyed(Edge):
    """An edge whose records have keys: a compacted topic takes no others, and keeps the newest of each key."""

    keys = (b"a", b"b", b"c")

    def send(self, rounds: int = 1, tag: str = "x", at_ns: int | None = None) -> None:
        for _ in range(rounds):
            self._round += 1
            body = json.dumps({"t": self._round, "tag": tag}).encode()
            some = [encode_frame(device, self._round, body) for device in self._ids]
            value = encode_batch(some, at_ns or time.time_ns(), 1, self._boot, self._number)
            key = self.keys[self._number % len(self.keys)]
            self._producer.produce(self._topic, value, key, partition=self._partition)
            self._producer.flush(30)
            self._number += 1
            self.sent += len(some)
        self.flush()


def compact(settings) -> set[int]:
    """Compact the topic, all but its newest segment, and return the offsets of the records that are gone."""
    topic = Topics.of(settings).raw
    before = offsets(settings)
    more = {"segment_ms": 100, "min_cleanable_dirty_ratio": 0.0, "max_compaction_lag_ms": 100}
    alter(settings, topic, cleanup_policy="compact", **more)
    time.sleep(0.3)  # the segment must be older than that
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    producer.produce(topic, b"closes the segment", b"z", partition=0)
    assert producer.flush(30) == 0
    wait_for(lambda: before - offsets(settings), CLEAN_S, "records compacted away", 0.5)
    return before - offsets(settings)


def offsets(settings) -> set[int]:
    return {record.offset for record in records(settings, Topics.of(settings).raw)}


async def took(lane, count: int) -> None:
    """Wait until a lane has read its partition up to an offset, and has sent what that gives."""
    lane.intake.fetch_up_to(count)
    await until(lambda: lane.session and lane.session.state.next_raw >= count, lambda: f"all read: {lane.failure}")
    await until(lambda: lane.session and not lane.session.pending.frames, "all put out")


async def after(settings, edge, rounds: int = 3):
    """A new owner: its report after some more batches."""
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        await asyncio.to_thread(edge.send, rounds, "new")
        await took(lane, ends(settings, Topics.of(settings).raw)[0][1])
        await checkpoint(lane)
        assert lane.restarts == 0
        return figures(lane)


def exactly(settings, edge, report, lost: int, strange: int = 1) -> None:
    """Each frame landed once or is among the lost ones, five in each record; nothing else was counted.

    ``strange`` records that closed a segment are no batches: each was received, and dropped.
    """
    there = landed(settings)
    assert set(there.values()) == {1}
    assert (report.lost_records, len(there)) == (lost, edge.sent - 5 * lost)
    assert report.conservation.holds and report.passed == len(there)
    assert (report.doubled, report.output_lost, report.queue_lost) == (0, 0, 0)
    assert report.conservation.received == len(there) + strange


async def test_records_that_vanish_before_they_are_taken_are_counted_one_by_one(system):
    settings, _, edge = system(**FAST)
    edge = Keyed(settings)
    await asyncio.to_thread(edge.send, 20)
    gone = await asyncio.to_thread(compact, settings)
    assert len(gone) > 10
    exactly(settings, edge, await after(settings, edge), len(gone))


async def test_records_of_edges_have_no_keys_and_vanish_all(system):
    """Compaction drops them from each closed segment. The topic is mended afterwards, and edges can write again."""
    settings, _, edge = system(**FAST)
    await asyncio.to_thread(edge.send, 20)
    gone = await asyncio.to_thread(compact, settings)
    assert gone == set(range(20))
    await asyncio.to_thread(ensure_topics, settings, fix=True)
    exactly(settings, edge, await after(settings, edge), 20)


@pytest.mark.parametrize("checkpointed", [10, 5], ids=["all", "half"])
async def test_records_that_vanish_after_they_were_taken_are_no_loss(system, checkpointed):
    """Some are covered by the checkpoint, some by the journal only; those behind were not taken."""
    settings, _, edge = system(partitions=1, checkpoint_interval_s=3600)
    edge = Keyed(settings)
    async with lanes(settings) as found:
        await live(found[0])
        await asyncio.to_thread(edge.send, checkpointed)
        await took(found[0], checkpointed)
        await checkpoint(found[0])
        await asyncio.to_thread(edge.send, 10 - checkpointed)
        await took(found[0], 10)
    await asyncio.to_thread(edge.send, 10)
    gone = await asyncio.to_thread(compact, settings)
    untaken = len(gone & set(range(10, 21)))
    assert 5 < untaken < len(gone)
    exactly(settings, edge, await after(settings, edge), untaken)
    exactly(settings, edge, await after(settings, edge), untaken)


async def test_a_live_lane_goes_on_when_what_it_took_vanishes(system):
    settings, _, edge = system(**FAST)
    edge = Keyed(settings)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        await asyncio.to_thread(edge.send, 20)
        await took(lane, 20)
        await asyncio.to_thread(compact, settings)
        await asyncio.to_thread(edge.send, 20, "new")
        await took(lane, 41)
        await checkpoint(lane)
        gone = await asyncio.to_thread(compact, settings)
        assert len(gone & set(range(21, 41))) > 10, "what was taken since"
        await asyncio.to_thread(edge.send, 3, "new")
        await took(lane, 45)
        await lane.watch.raw_verifier.verify()
        await checkpoint(lane)
        assert lane.restarts == 0, lane.failure
        exactly(settings, edge, figures(lane), 0, strange=2)
    exactly(settings, edge, await after(settings, edge), 0, strange=2)


async def test_a_topic_made_anew_and_compacted_is_read_from_its_start(system):
    """Its remaining records are other batches than those that were taken, though none lies at a known offset."""
    settings, topics, edge = system(**FAST)
    edge = Keyed(settings)
    async with lanes(settings) as found:
        await live(found[0])
        await asyncio.to_thread(edge.send, 10)
        await took(found[0], 10)
        await checkpoint(found[0])
    await asyncio.to_thread(recreate, settings, topics.raw)
    edge.connect()
    await asyncio.to_thread(edge.send, 10)
    gone = await asyncio.to_thread(compact, settings)
    report = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent - 5 * len(gone)
    assert report.lost_records == len(gone) and report.conservation.holds
