"""A Kafka that lost or expired something: what landed, is lost, is doubled and is reported are the same figures.

Each test breaks one relation between marker, journal, klais_raw and outputs, then compares topics and report.
"""

import time

import numpy as np
from confluent_kafka import Producer

from klais.core.lane.step import forget
from klais.kafka import reader
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from klais.verify.lane_log import read_table
from klais.worker import checkpoint, watch
from klais.worker.progress import Progress, Stage
from tests.support.lanes import (
    FAST,
    after,
    caught_up,
    caught_up_with_drain,
    ends,
    figures,
    landed,
    lanes,
    live,
    once,
    records,
    recreate,
    remove,
    until,
)
from tests.support.lanes import checkpoint as write_checkpoint

RARE = {"partitions": 1, "checkpoint_interval_s": 3600}  # no checkpoint but the one that a test asks for


async def began(settings, edge, rounds: int = 10) -> None:
    """A lane that has a checkpoint over ``rounds`` batches, and is dropped after as many more without one."""
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(rounds, "old")
        lane = found[0]
        await until(lambda: lane.session.state.next_raw >= rounds, "first batches taken")
        await write_checkpoint(lane)
        edge.send(rounds, "old")
        await until(lambda: lane.session.acked_step >= 2 * rounds, "all put out")


async def test_nothing_is_wrong_after_a_plain_crash(system, monkeypatch):
    settings, _, edge = system(**RARE)
    await began(settings, edge)
    stages, begin = list[tuple[str, int]](), Progress.begin

    def noted(self: Progress, stage: Stage, first: int = 0, end: int = 0) -> None:
        stages.append((stage, end - first))
        begin(self, stage, first, end)

    monkeypatch.setattr(Progress, "begin", noted)
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.passed, report.doubled, report.output_lost, report.lost_records, report.alarms) == (
        edge.sent,
        0,
        0,
        0,
        (),
    )
    assert [stage for stage, _ in stages] == ["takeover", "turn", "devices", "journal", "replay"]
    (_, _, (_, rows), (_, records), (_, steps)) = stages
    assert rows >= 5 and records >= steps == 10, "five devices in the checkpoint, ten steps after it"


async def test_the_whole_journal_and_all_raw_records_expired(system):
    """Steps after the checkpoint are known to the outputs only: new steps must not get their numbers."""
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    remove(settings, topics.journal)
    remove(settings, topics.raw)
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.lost_records, report.output_lost, report.doubled) == (0, 0, 0)
    assert any("the journal lost records" in text for text in report.alarms)


async def test_the_journal_lost_more_than_the_clean_topic(system):
    """klais_raw still has what the lost steps decided: it is decided again.

    And the records that come twice are counted.
    """
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    recreate(settings, topics.journal)
    report = await after(settings, edge)
    there = landed(settings)
    assert len(there) == edge.sent
    assert sum(there.values()) - len(there) == report.doubled == 10 * 5
    assert report.lost_records == report.output_lost == 0


async def test_the_journal_recreated_after_a_checkpoint_and_grown_beyond_its_place(system):
    settings, topics, edge = system(**RARE)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(10, "old")
        await caught_up_with_drain(settings, found[0])
    recreate(settings, topics.journal)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(30, "new")
        lane = found[0]
        await until(lambda: lane.session and lane.session.acked_step >= 40, "all put out, no checkpoint since")
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.passed, report.doubled, report.output_lost, report.lost_records) == (edge.sent, 0, 0, 0)


async def test_the_clean_topic_lost_what_a_checkpoint_covers(system):
    """The reverse: records that were acknowledged and are gone are reported as lost.

    Those of the journal come again.
    """
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    recreate(settings, topics.telemetry)
    report = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1}
    assert len(there) == edge.sent - 10 * 5  # what the checkpoint covered went with the topic that was deleted
    assert any("deleted" in text for text in report.alarms)


async def test_the_clean_topic_recreated_between_two_batches_of_a_live_lane(system, monkeypatch):
    """Only the offset of the next batch shows it: no send fails, and no check of the watch falls between them."""
    monkeypatch.setattr(watch, "cut_while_live", lambda *_: None)
    monkeypatch.setattr(reader, "METADATA_GRACE_S", 3600)  # nor one while there is no topic
    settings, topics, edge = system(**RARE)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(10, "old")
        await until(lambda: lane.session.acked_step >= 10, "all put out")
        await write_checkpoint(lane)
        edge.send(4, "old")
        await until(lambda: lane.session.acked_step >= 14, "all put out, no checkpoint since")
        recreate(settings, topics.telemetry)
        edge.send(6, "new")
        await until(lambda: lane.restarts == 1 and lane.live.is_set(), "the loss is noticed")
        edge.send(3, "new")
        await caught_up_with_drain(settings, lane)
        report = figures(lane)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == 9 * 5
    assert report.conservation.holds and report.doubled == 0
    # Of steps after the checkpoint the figures are exact; what it covered went with the topic, which is named.
    assert (report.output_lost, report.passed) == (4 * 5, edge.sent - 4 * 5)
    assert any("deleted and created again" in text for text in report.alarms)
    again = await after(settings, edge)
    assert (again.output_lost, again.passed) == (report.output_lost, edge.sent - report.output_lost)
    assert set(landed(settings).values()) == {1} and again.alarms == ()


async def test_raw_recreated_and_grown_beyond_what_was_taken(system):
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    recreate(settings, topics.raw)
    edge.send(30, "after")
    assert ends(settings, topics.raw)[0] == (0, 30)  # 20 records were taken of the topic before
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.lost_records, report.doubled, report.output_lost) == (0, 0, 0)
    assert any("truncated, compacted or recreated" in text for text in report.alarms)


async def test_raw_recreated_while_the_lane_is_live(system):
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(20, "old")
        await caught_up(settings, found[0])
        recreate(settings, topics.raw)
        edge.send(30, "new")
        await until(lambda: found[0].restarts > 0, "the loss is noticed")
        await caught_up(settings, found[0])
        report = figures(found[0])
    once(settings, edge)
    assert report.conservation.holds and (report.lost_records, report.doubled) == (0, 0)


async def test_raw_records_removed_before_they_were_taken(system):
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    edge.send(10, "gone")
    remove(settings, topics.raw, 25)
    report = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent - 5 * report.lost_records
    assert report.lost_records == 5


async def test_an_output_that_another_system_wrote_before(system):
    """Everything is recreated but the results, as one does to start over: they hold steps with higher numbers."""
    settings, topics, edge = system(**FAST)
    await began(settings, edge, 30)
    recreate(settings, topics.raw, topics.journal, topics.devices_changelog)
    report = await after(settings, edge)
    once(settings, edge)
    assert report.passed == 10 * 5 and report.doubled == report.lost_records == 0


async def test_retention_removed_the_results_of_journalled_steps(system):
    """Nobody can tell any more whether they were put out: they are, for the second time, and it is said."""
    settings, topics, edge = system(**RARE)
    await began(settings, edge)
    remove(settings, topics.telemetry)
    report = await after(settings, edge)
    there = landed(settings)
    assert len(there) == 10 * 5 + 10 * 5  # the ten batches after the checkpoint, again, and the new ones
    assert report.doubled == 10 * 5 and any("sent again" in text for text in report.alarms)


async def test_the_audit_names_raw_records_that_no_step_took(system):
    """A journal alone cannot show it: the steps follow each other, only their raw offsets have a hole."""
    settings, _, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
        good = await audit_lane(settings, 0)
        await until(lambda: found[0].session.pending.bytes == 0, "idle")
        found[0].session.state.skip_to(8)  # a defect: three records that will never be decided
        edge.send(5)
        await caught_up(settings, found[0])
    assert good.problems == []
    audit = await audit_lane(settings, 0)
    assert [text for text in audit.problems if "was skipped" in text][:1] != [] and len(audit.problems) == 3


async def test_a_checkpoint_moves_the_floor_of_the_dead_letters_beyond_those_of_edges(system):
    """Edges write many, a lane hardly any: a recovery looks for the lane's last one behind the floor only."""
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.put(b"no batch: the lane writes a letter")
        edge.send(5)
        await caught_up(settings, found[0])
        letters(settings, 1000)
        await until(lambda: found[0].watch.dead_letters_end > 1000, "the letters are seen")
        edge.send(5)
        await caught_up(settings, found[0])
    async with PartitionReader(settings) as reading:
        _, marker = await read_table(reading, topics.devices_changelog, 0, None)
    assert marker.outputs["dead_letter"] > 1000
    edge.put(b"no batch: another one")
    report = await after(settings, edge)
    once(settings, edge)
    reasons = [r.headers.get("reason") for r in records(settings, topics.dead_letter)]
    assert reasons.count(b"corrupt_batch") == 2 and report.doubled == 0


async def test_many_dead_letters_of_edges_are_a_reason_for_a_checkpoint_of_a_lane_without_frames(system, monkeypatch):
    """A flood of malformed frames alone: each recovery would look through all of its letters."""
    monkeypatch.setattr(checkpoint, "DEAD_LETTERS", 500)
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        letters(settings, 1000)
        await until(lambda: found[0].checkpointer and found[0].checkpointer.count == 1, "a checkpoint")
    async with PartitionReader(settings) as reading:
        _, marker = await read_table(reading, topics.devices_changelog, 0, None)
    assert marker.step == 0 and marker.outputs["dead_letter"] > 500
    report = await after(settings, edge)
    once(settings, edge)
    assert report.alarms == ()


def letters(settings, count: int) -> None:
    """Dead letters of an edge."""
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    for _ in range(count):
        producer.produce(Topics.of(settings).dead_letter, b"rubbish", partition=0, headers={"stage": b"edge"})
    assert producer.flush(60) == 0


async def test_a_lane_that_was_written_with_another_partition_count_is_refused(system):
    settings, _, edge = system(**RARE)
    await began(settings, edge)
    async with lanes(settings.model_copy(update={"partitions": 2})) as found:
        why = await until(lambda: found[0].failure, "the lane refuses")
        assert "was written with 1 partitions" in why and not found[0].live.is_set()
    once(settings, edge)


async def test_an_audit_in_the_middle_of_a_checkpoint_that_removes_devices(system):
    """Their rows are gone, the marker is still the one before."""
    settings, _, edge = system(**RARE)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(10)
        await caught_up_with_drain(settings, found[0])
        session = found[0].session
        gone = np.frombuffer(b"p0-dev-0".ljust(16, b"\0"), np.uint8).reshape(1, 16)
        limits, _ = session.context.limits.of_lane(0)
        session.journal.put(session._decided(forget(session.state, gone, limits, time.time_ns())))
        await until(lambda: session.acked_step >= session.state.step, "the step is written down")
        writer = RecordBatchWriter()
        writer.append_one(b"p0-dev-0", None)
        await session.senders.changelog.send(writer)
    audit = await audit_lane(settings, 0)
    assert audit.problems == [] and audit.marker_step < audit.steps


async def test_an_audit_steps_over_what_somebody_else_wrote_to_the_changelog(system):
    """As recovery does: a record of another program is no row, whatever its key."""
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    for key in (b"p0-dev-0", b"stranger", b"\0marker-7"):
        producer.produce(topics.devices_changelog, b"rubbish", key=key, partition=0)
    assert producer.flush(60) == 0
    audit = await audit_lane(settings, 0)
    assert (audit.problems, audit.not_compared, audit.devices, audit.telemetry) == ([], [], 5, edge.sent)
