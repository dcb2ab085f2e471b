"""Topics deleted and created again under live lanes: all of them at once, two and a crash, with fewer partitions."""

import asyncio

import pytest
from confluent_kafka.admin import NewTopic

from klais.kafka import reader
from klais.kafka.admin import check_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from tests.support.lanes import (
    FAST,
    Edge,
    after,
    caught_up,
    caught_up_with_drain,
    figures,
    landed,
    lanes,
    live,
    once,
    records,
    recreate,
    remove_topics,
    until,
)
from tests.support.process import wait_for


async def test_all_topics_at_once_lose_what_they_held_and_nothing_else(system):
    """What was sent before went with the topics. The lane says so, and each frame that comes later lands once."""
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(10, "old")
        await caught_up(settings, lane)
        assert len(landed(settings)) == edge.sent == figures(lane).passed
        await asyncio.to_thread(recreate, settings, *(spec.name for spec in topics.specs()))
        edge.connect()
        before = edge.sent
        edge.send(15, "new")
        await until(lambda: lane.restarts, "the loss is noticed")
        await caught_up(settings, lane)
        report = figures(lane)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent - before
    assert report.conservation.holds and (report.lost_records, report.doubled) == (0, 0)
    again = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent - before
    assert again.conservation.holds and (again.lost_records, again.doubled) == (0, 0)
    assert (await audit_lane(settings, 0)).problems == []


async def test_frames_that_waited_when_all_topics_went_are_named_with_their_number(system):
    """No topic shows them any more; the worker that had the lane does."""
    settings, topics, edge = system(**FAST, dam_max_rate=20, dam_burst_size=10)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(1000, "old")
        await until(lambda: lane.session and lane.session.state.queue.depth > 1000, "frames wait")
        await asyncio.to_thread(recreate, settings, *(spec.name for spec in topics.specs()))
        edge.connect()
        edge.send(3, "new")
        await until(lambda: lane.restarts and lane.live.is_set(), "the loss is noticed")
        await caught_up(settings, lane)
        report = figures(lane)
    there = landed(settings)
    assert set(there.values()) == {1} and report.conservation.holds
    # The lane may have written a marker to the new topics before it noticed: then its counters go on.
    named = [text for text in report.alarms if "the topics of this lane were deleted" in text]
    assert report.queue_lost > 1000 or (len(named) == 1 and int(named[0].split(": ")[1].split()[0]) > 1000)


@pytest.mark.parametrize("sent", [0, 5], ids=["at once", "after more frames"])
async def test_journal_and_changelog_and_then_a_crash(system, sent):
    """Nothing is known of the lane but what its outputs hold: all of klais_raw is decided again, and counted."""
    settings, topics, edge = system(partitions=1, checkpoint_interval_s=3600)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(10, "old")
        await until(lambda: found[0].session.state.next_raw >= 10, "taken")
        await caught_up_with_drain(settings, found[0])
        await asyncio.to_thread(recreate, settings, topics.journal, topics.devices_changelog)
        edge.send(sent, "between")
        await until(lambda: found[0].session and found[0].session.acked_step >= 10 + sent, "put out")
    report = await after(settings, edge)
    there = landed(settings)
    doubled = sum(there.values()) - len(there)
    assert len(there) == edge.sent and report.doubled == doubled == 5 * (10 + sent)
    assert (report.lost_records, report.output_lost, report.queue_lost) == (0, 0, 0)
    assert report.conservation.holds and any("the journal lost records" in text for text in report.alarms)
    again = await after(settings, edge)
    assert again.doubled == doubled and again.alarms == ()


async def test_journal_and_changelog_and_a_crash_some_seconds_later(system, monkeypatch):
    """A lane that sees it writes a checkpoint at once, though it has nothing new: nothing is sent twice."""
    monkeypatch.setattr(reader, "METADATA_GRACE_S", 3600)  # it does not look while there is no topic
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(10, "old")
        await caught_up(settings, lane)
        count = lane.checkpointer.count
        await asyncio.to_thread(recreate, settings, topics.journal, topics.devices_changelog)
        await until(lambda: lane.checkpointer and lane.checkpointer.count > count, "a checkpoint without a new step")
        assert lane.restarts == 0 and not lane.watch.checkpoint_lost
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.passed, report.doubled, report.lost_records, report.output_lost) == (edge.sent, 0, 0, 0)
    assert (await after(settings, edge)).alarms == ()


async def test_dead_letters_with_fewer_partitions_stop_only_the_lane_without_one(two):
    settings, topics, edges, found = two
    await shrink(settings, topics.dead_letter)
    for edge in edges:
        edge.put(b"no batch: a dead letter")
        edge.send(3)
    await caught_up(settings, found[0])
    failed = await until(lambda: found[1].failure, "the lane without a partition says so")
    assert topics.dead_letter in failed
    edges[0].send(3)
    await caught_up(settings, found[0])
    await asyncio.to_thread(recreate, settings, topics.dead_letter)
    await all_once(settings, found, edges)
    assert len(records(settings, topics.dead_letter, 1)) == 1


async def test_flags_with_fewer_partitions_are_named_before_one_is_lost(two):
    """The lane without a partition goes on until it has a flag; a new owner refuses to start without one."""
    settings, topics, edges, found = two
    await shrink(settings, topics.anomalies)
    (wrong,) = await asyncio.to_thread(wait_for, lambda: check_topics(settings), 30, "the broker to know it")
    assert (wrong.topic, wrong.setting, wrong.found) == (topics.anomalies, "partitions", "1")
    for p, edge in enumerate(edges):
        edge.send(3)
        await caught_up(settings, found[p])
    async with lanes(settings, (1,)) as new:
        failed = await until(lambda: new[1].failure, "a new owner says so")
        assert topics.anomalies in failed and not new[1].live.is_set()
    await asyncio.to_thread(recreate, settings, topics.anomalies)
    await all_once(settings, found, edges)


@pytest.fixture
async def two(settings_for, topics_of):
    """Settings, topics, an edge for each of two lanes, and the lanes, which have put out some frames."""
    settings = settings_for(partitions=2, checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edges = [Edge(settings, partition=p, boot=p + 1) for p in (0, 1)]
    async with lanes(settings, (0, 1)) as found:
        for p, edge in enumerate(edges):
            await live(found[p])
            edge.send(3)
            await caught_up(settings, found[p])
        yield settings, topics, edges, found


async def all_once(settings, found, edges) -> None:
    """Both lanes go on, and nothing was lost or sent twice."""
    for p, edge in enumerate(edges):
        edge.send(3)
        await caught_up(settings, found[p])
        report = figures(found[p])
        assert report.conservation.holds and (report.lost_records, report.output_lost, report.doubled) == (0, 0, 0)
        there = landed(settings, p)
        assert set(there.values()) == {1} and len(there) == edge.sent


async def shrink(settings, topic: str) -> None:
    """Delete a topic and create it with one partition."""
    await asyncio.to_thread(remove_topics, settings, topic)
    await asyncio.to_thread(create, settings, topic, 1)


def create(settings, topic: str, partitions: int) -> None:
    """Create a topic by hand, once the broker has deleted the old one."""
    admin = admin_client(settings)
    (spec,) = [spec for spec in Topics.of(settings).specs() if spec.name == topic]
    new = NewTopic(topic, partitions, 1, config=spec.config)

    def created() -> bool:
        try:
            admin.create_topics([new])[topic].result(30)
        except Exception:
            return False
        return True

    wait_for(created, 30, f"{topic} with {partitions} partitions", 0.3)
