"""Kafka refuses what a lane sends because of its content: the lane finds the record, sets it aside, and goes on.

The refusals are the broker's own: topics whose settings somebody changed while the lane was live.
"""

import json
import os
import random
import time

import pytest

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.verify.audit import audit_lane
from klais.worker.quarantine import FAILURES
from tests.support.lanes import Edge, caught_up, checkpoint, figures, landed, lanes, live, records, two_lanes, until
from tests.support.topics import alter

HOUR_NS = 3600 * 10**9
MAX_TRIES = FAILURES if "KLAIS_TEST_SEARCH" in os.environ else 1  # the pauses between them double


def noise(size: int) -> str:
    """Text that no compression makes much smaller."""
    return os.urandom(size // 2).hex()


def letters(settings, topic: str) -> list:
    return [r for r in records(settings, topic) if r.headers["reason"] == b"poison"]


async def audited(settings, partitions: tuple[int, ...] = (0,)) -> None:
    for partition in partitions:
        audit = await audit_lane(settings, partition)
        assert audit.problems == [] and audit.settled


async def test_a_frame_whose_record_is_too_large_for_the_topic_becomes_a_dead_letter(settings_for, topics_of):
    async with two_lanes(settings_for, topics_of) as it:
        settings, topics, edges, found = it.settings, it.topics, it.edges, it.lanes
        alter(settings, topics.telemetry, max_message_bytes=2000)
        edges[0].send(2)
        large = encode_frame(b"large", 1, json.dumps({"noise": noise(4000)}).encode())
        some = [encode_frame(b"small", 1, b"{}"), large, encode_frame(b"small", 2, b"{}")]
        edges[0].put(encode_batch(some, time.time_ns(), 1, 9, 0))
        edges[0].send(2)
        failed = await until(lambda: found[0].failure, "the lane fails at that record")
        assert "max.message.bytes" in failed and "`klais topics create --fix`" in failed
        edges[1].send(3)
        await caught_up(settings, found[1])
        await caught_up(settings, found[0])
        report = figures(found[0])
        assert (found[0].restarts, found[1].restarts) == (2, 0)
        assert report.output_lost == 1 and report.conservation.holds and "poison" in report.alarms[-1]
    (letter,) = letters(settings, topics.dead_letter)
    assert letter.value == large and b"max.message.bytes" in letter.headers["detail"]
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edges[0].sent + 2
    async with lanes(settings) as found:  # the journal says so, too
        await live(found[0])
        assert figures(found[0]).output_lost == 1
    await audited(settings)


async def test_a_lane_killed_while_it_sets_a_record_aside_counts_it_once(settings_for, topics_of):
    """``stop`` is a kill: at each try it comes a little later on the way from the first refusal to the checkpoint."""
    settings = settings_for(checkpoint_interval_s=60)
    topics = topics_of(settings)
    edge = Edge(settings)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(2)
        alter(settings, topics.telemetry, max_message_bytes=2000)
        large = json.dumps({"noise": noise(4000)}).encode()
        edge.put(encode_batch([encode_frame(b"large", 2, large)], time.time_ns(), 1, 9, 0))
        edge.send(2)
        await until(lambda: found[0].session and found[0].session.set_aside, "it is decided")
    for _ in range(2):
        async with lanes(settings) as found:
            await live(found[0])
    async with lanes(settings) as found:
        await live(found[0])
        await caught_up_with_drain(found[0])
        report = figures(found[0])
        assert report.output_lost == 1 and report.conservation.holds
    assert len(letters(settings, topics.dead_letter)) == 1
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent
    await audited(settings)


async def caught_up_with_drain(lane) -> None:
    await until(lambda: lane.session and not lane.session.pending.frames, "put out")
    await checkpoint(lane)


async def test_a_record_whose_time_the_topic_refuses_becomes_a_dead_letter(settings_for, topics_of):
    settings = settings_for(checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edge = Edge(settings)
    async with lanes(settings) as found:
        await live(found[0])
        alter(settings, topics.telemetry, message_timestamp_type="CreateTime", message_timestamp_after_max_ms=1000)
        edge.send(3)
        edge.put(encode_batch([encode_frame(b"ahead", 1, b"{}")], time.time_ns() + 2 * HOUR_NS, 1, 9, 0))
        edge.send(3)
        failed = await until(lambda: found[0].failure, "the lane fails at that record")
        assert "LogAppendTime" in failed
        await caught_up(settings, found[0])
        assert figures(found[0]).output_lost == 1
    assert len(letters(settings, topics.dead_letter)) == 1 and len(landed(settings)) == edge.sent
    await audited(settings)


async def test_where_the_dead_letter_is_refused_too_the_lane_waits_for_what_its_text_says(settings_for, topics_of):
    """A compacted topic refuses records without a key. What the text names is done, and the lane goes on."""
    async with two_lanes(settings_for, topics_of) as it:
        settings, topics, edges, found = it.settings, it.topics, it.edges, it.lanes
        alter(settings, topics.dead_letter, cleanup_policy="compact")
        edges[0].put(b"no frame batch")
        edges[0].send(1)
        text = "cannot become a dead letter"
        failed = await until(lambda: text in (found[0].failure or "") and found[0].failure, "the lane says so")
        assert "cleanup.policy" in failed and "`klais topics create --fix`" in failed
        edges[1].send(3)
        await caught_up(settings, found[1])
        ensure_topics(settings, fix=True)
        await caught_up(settings, found[0])
        assert found[1].restarts == 0 and figures(found[0]).conservation.holds
    reasons = sorted(r.headers["reason"] for r in records(settings, topics.dead_letter))
    assert b"poison" in reasons and len(landed(settings)) == edges[0].sent
    await audited(settings)


async def test_a_journal_that_somebody_compacts_stops_its_lane_and_sets_no_frame_aside(settings_for, topics_of):
    """It refuses every record, as none has a key: that is no reason to give up the raw record that came first."""
    settings = settings_for(checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edge = Edge(settings)
    async with lanes(settings) as found:
        await live(found[0])
        alter(settings, topics.journal, cleanup_policy="compact")
        edge.send(2)
        await until(lambda: found[0].restarts >= MAX_TRIES, "the lane fails again and again")
        assert "cleanup.policy" in found[0].failure and "`klais topics create --fix`" in found[0].failure
        ensure_topics(settings, fix=True)
        edge.send(2)
        await caught_up(settings, found[0])
        assert figures(found[0]).poison == 0 and figures(found[0]).conservation.holds
    assert letters(settings, topics.dead_letter) == [] and len(landed(settings)) == edge.sent
    await audited(settings)


@pytest.mark.parametrize("name", ["journal", "devices_changelog"])
async def test_journal_and_changelog_that_take_less_than_a_batch_get_smaller_ones(settings_for, topics_of, name):
    settings = settings_for(checkpoint_interval_s=0.3, lane_max_pending_bytes=64 << 20)
    topics = topics_of(settings)
    edge = Edge(settings, devices=200)
    async with lanes(settings) as found:
        await live(found[0])
        alter(settings, getattr(topics, name), max_message_bytes=6000)
        edge.send(20)
        await caught_up(settings, found[0])
        assert found[0].restarts == 0
    assert len(landed(settings)) == edge.sent
    await audited(settings)


async def test_a_raw_record_whose_journal_record_is_too_large_is_set_aside(settings_for, topics_of):
    settings = settings_for(checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edge = Edge(settings)
    chance = random.Random(1)
    async with lanes(settings) as found:
        await live(found[0])
        alter(settings, topics.journal, max_message_bytes=1000)
        edge.send(2)
        many = [encode_frame(b"m%d" % n, 1, b"{}" if chance.random() < 0.5 else b"{") for n in range(4000)]
        edge.put(encode_batch(many, time.time_ns(), 1, 9, 0))
        edge.send(2)
        failed = await until(lambda: found[0].failure, "the lane fails at that record")
        assert "klais_journal" in failed and "max.message.bytes" in failed
        await caught_up(settings, found[0])
        report = figures(found[0])
        assert report.poison == len(many) and report.conservation.holds
    assert len(letters(settings, topics.dead_letter)) == 1 and len(landed(settings)) == edge.sent
    await audited(settings)
