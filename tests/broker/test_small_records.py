"""``max.message.bytes=300`` on one topic, live: a dead letter or a lane that waits and says why; the others go on."""

import json
import os
import random
import time

import pytest

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from tests.broker.test_refused import audited, letters, noise
from tests.support.lanes import Edge, caught_up, figures, landed, lanes, live, records, until
from tests.support.topics import alter

SMALL = 300
ROUNDS, MINUTE_NS = 200, 60 * 10**9


@pytest.fixture
def two(settings_for, topics_of):
    """Settings, topics and an edge for each of two lanes."""
    settings = settings_for(partitions=2, checkpoint_interval_s=0.3)
    return settings, topics_of(settings), [Edge(settings, partition=p, boot=p + 1) for p in (0, 1)]


async def both_live(found) -> None:
    for lane in found.values():
        await live(lane)


def large(device: bytes, size: int = 600, number: int = 0) -> bytes:
    """A batch with one small and one large frame."""
    some = [encode_frame(device, 1, b"{}"), encode_frame(device, 2, json.dumps({"noise": noise(size)}).encode())]
    return encode_batch(some, time.time_ns(), 1, 9, number)


async def test_clean_records_that_do_not_fit_become_dead_letters(two):
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.telemetry, max_message_bytes=SMALL)
        edges[0].send(5)
        edges[0].put(large(b"large"))
        edges[0].flush()
        edges[1].send(5)
        await caught_up(settings, found[1])
        await caught_up(settings, found[0])
        report = figures(found[0])
        assert report.output_lost == 1 and report.conservation.holds and found[1].restarts == 0
    assert len(letters(settings, topics.dead_letter)) == 1
    assert len(landed(settings, 0)) == edges[0].sent + 1 and len(landed(settings, 1)) == edges[1].sent
    await audited(settings, (0, 1))


async def test_flags_that_do_not_fit_become_dead_letters(two):
    """A flag is larger than that: each one is set aside, and its frame lands."""
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.anomalies, max_message_bytes=SMALL)
        chance, begin_ns = random.Random(1), time.time_ns() - 1000 * MINUTE_NS
        for number in range(ROUNDS):
            value = chance.gauss(20, 0.3) if number < ROUNDS - 1 else 900.5
            some = [encode_frame(b"thermometer", number, b'{"t":%.2f}' % value)]
            edges[0].put(encode_batch(some, begin_ns + number * MINUTE_NS, 1, 9, number))
        edges[0].flush()
        edges[1].send(5)
        await caught_up(settings, found[1])
        await caught_up(settings, found[0])
        report = figures(found[0])
        assert report.output_lost == 0 and report.conservation.holds and found[1].restarts == 0
    poison = letters(settings, topics.dead_letter)
    assert poison and all(b'"thermometer"' in letter.value for letter in poison), "a flag was raised, and kept there"
    assert records(settings, topics.anomalies) == [] and len(landed(settings, 0)) == ROUNDS
    await audited(settings, (0, 1))


async def test_a_lane_whose_dead_letter_does_not_fit_waits_and_the_other_goes_on(two):
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.dead_letter, max_message_bytes=SMALL)
        edges[0].send(2)
        edges[0].put(os.urandom(400))
        edges[0].send(2)
        text = "cannot become a dead letter"
        failed = await until(lambda: text in (found[0].failure or "") and found[0].failure, "the lane says so")
        assert "max.message.bytes" in failed and "`klais topics create --fix`" in failed
        edges[1].send(5)
        await caught_up(settings, found[1])
        ensure_topics(settings, fix=True)
        await caught_up(settings, found[0])
        assert found[1].restarts == 0 and figures(found[0]).conservation.holds
    assert len(landed(settings, 0)) == edges[0].sent and len(letters(settings, topics.dead_letter)) == 1
    await audited(settings, (0, 1))


async def test_raw_records_whose_step_does_not_fit_the_journal_become_dead_letters(two):
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.journal, max_message_bytes=SMALL)
        edges[0].send(2)
        some = [encode_frame(b"m%d" % n, 1, (b"{}", b"{")[os.urandom(1)[0] & 1]) for n in range(3000)]
        edges[0].put(encode_batch(some, time.time_ns(), 1, 9, 0))
        edges[0].send(2)
        edges[1].send(5)
        await caught_up(settings, found[1])
        await until(lambda: found[0].failure, "the lane fails at that record")
        await caught_up(settings, found[0])
        report = figures(found[0])
        assert report.poison == len(some) and report.conservation.holds and found[1].restarts == 0
    assert len(landed(settings, 0)) == edges[0].sent
    await audited(settings, (0, 1))


async def test_checkpoints_that_do_not_fit_stop_no_frame_for_good(two):
    """A marker is larger than that: the lane retries, says why, and has lost nothing when the topic is mended."""
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.devices_changelog, max_message_bytes=SMALL)
        for edge in edges:
            edge.send(5)
        failed = await until(lambda: found[0].failure, "the lane fails at its checkpoint")
        assert "klais-devices-changelog" in failed and "max.message.bytes" in failed
        ensure_topics(settings, fix=True)
        for edge in edges:
            edge.send(5)
        for lane in found.values():
            await caught_up(settings, lane)
            assert figures(lane).conservation.holds
    for partition, edge in enumerate(edges):
        there = landed(settings, partition)
        assert set(there.values()) == {1} and len(there) == edge.sent
    await audited(settings, (0, 1))


async def test_profiles_that_do_not_fit_stop_no_lane(two):
    """They are soft state: the lane goes on without saving them."""
    settings, topics, edges = two
    async with lanes(settings, (0, 1)) as found:
        await both_live(found)
        alter(settings, topics.profiles_changelog, max_message_bytes=SMALL)
        before = len(records(settings, topics.profiles_changelog, 0))
        for number in range(100):
            some = [encode_frame(b"d%d" % d, number, b'{"a":%d,"b":2,"c":3,"d":4}' % number) for d in range(20)]
            edges[0].put(encode_batch(some, time.time_ns(), 1, 9, number))
        edges[0].flush()
        await caught_up(settings, found[0])
        edges[0].send(5)
        edges[1].send(5)
        for lane in found.values():
            await caught_up(settings, lane)
        ensure_topics(settings, fix=True)
        await until(lambda: len(records(settings, topics.profiles_changelog, 0)) > before, "saved again")
        assert [lane.restarts for lane in found.values()] == [0, 0]
        assert figures(found[0]).conservation.holds
    assert len(landed(settings, 0)) == edges[0].sent + 2000
