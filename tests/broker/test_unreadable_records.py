"""Records on the lanes' own topics that cannot be read: lanes go on, and what they report is what the topics hold."""

import os

import pytest
from confluent_kafka import Producer

from klais.core.lane.checkpoint import decode_marker
from klais.core.lane.journal import MAGIC, Kind, decode_step, encode_step
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from klais.worker.changelog import marker_key
from tests.support.lanes import Edge, caught_up, checkpoint, figures, landed, lanes, live, records, recreate, until

RARE = {"partitions": 1, "checkpoint_interval_s": 3600}
OFTEN = {"checkpoint_interval_s": 0.3}
SLOW = RARE | {"dam_max_rate": 400, "dam_burst_size": 10, "control_auto": False}  # most frames wait


async def crashed_lane(settings, edge) -> None:
    """A lane with a checkpoint over ten batches that is dropped after ten more."""
    async with lanes(settings) as found:
        await live(found[0])
        lane = found[0]
        for rounds in (10, 20):
            edge.send(10, "old")

            def done(wanted=rounds):
                return lane.session.state.next_raw >= wanted and not lane.session.state.queue.depth

            await until(done, "batches taken and let out")
            if rounds == 10:
                await checkpoint(lane)
        await until(lambda: lane.session.acked_step == lane.session.state.step, "all put out")


def write(settings, topic: str, *values: bytes | None, key: bytes | None = None) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value, key, partition=0)
    assert producer.flush(30) == 0


def one_frame_less(value: bytes) -> bytes:
    """A well-formed step that does not fit its raw record."""
    step = decode_step(value)
    step.count, step.verdict = step.count - 1, step.verdict[:-1]
    return encode_step(step)


def damage(settings, topic: str, kind: Kind, value) -> None:
    """Another value, or what a function makes of it, in place of a step among those that no checkpoint covers."""
    rows = records(settings, Topics.of(settings).devices_changelog)
    covered = [decode_marker(row.value).step for row in rows if row.key == marker_key(0)][-1]
    values = [record.value for record in records(settings, topic)]
    steps = [(n, decode_step(v)) for n, v in enumerate(values) if v[:4] == MAGIC]
    late = [n for n, step in steps[:-3] if step.kind == kind and step.step > covered + 2]
    values[late[0]] = value(values[late[0]]) if callable(value) else value
    recreate(settings, topic)
    write(settings, topic, *values)


CASES = {"damaged release": (SLOW, Kind.RELEASE, b"KLJ1"), "unfit": (RARE, Kind.RAW, one_frame_less)}
MARKERS = {"zeros": b"KLM1" + bytes(200)}
if "KLAIS_TEST_SEARCH" in os.environ:
    CASES |= {"damaged": (RARE, Kind.RAW, b"KLJ1 damaged"), "null": (RARE, Kind.RAW, None)}
    MARKERS |= {"tombstone": b"", "short": b"KLM1"}


@pytest.mark.parametrize("case", CASES)
async def test_a_journal_with_a_step_that_cannot_be_read(settings_for, topics_of, case):
    given, kind, value = CASES[case]
    settings = settings_for(**given)
    topics, edge = topics_of(settings), Edge(settings)
    await crashed_lane(settings, edge)
    damage(settings, topics.journal, kind, value)
    for now in (settings, settings.model_copy(update=OFTEN)):  # the second one must count nothing again
        async with lanes(now) as found:
            await live(found[0])
            if now is settings:
                assert any("cannot be read after step" in text for text in figures(found[0]).alarms)
                continue
            edge.send(3, "new")
            await caught_up(now, found[0])
            report = figures(found[0])
            assert report.conservation.holds
    there = landed(settings)
    assert len(there) == edge.sent
    assert report.doubled == sum(there.values()) - len(there) > 0
    assert report.output_lost == report.queue_lost == report.lost_records == 0


@pytest.mark.parametrize("marker", MARKERS)
async def test_a_checkpoint_that_cannot_be_read_is_replaced_by_the_one_before(settings_for, topics_of, marker):
    value = MARKERS[marker]
    settings = settings_for(**RARE)
    topics, edge = topics_of(settings), Edge(settings)
    await crashed_lane(settings, edge)
    write(settings, topics.devices_changelog, value or None, key=marker_key(0))
    now = settings.model_copy(update=OFTEN)
    async with lanes(now) as found:
        await live(found[0])
        edge.send(3, "new")
        await caught_up(now, found[0])
        report = figures(found[0])
    there = landed(settings)
    assert (len(there), sum(there.values()), report.doubled, report.output_lost) == (edge.sent, edge.sent, 0, 0)
    assert any("checkpoint cannot be read" in text for text in report.alarms) == bool(value)
    assert (await audit_lane(settings, 0)).problems == []
