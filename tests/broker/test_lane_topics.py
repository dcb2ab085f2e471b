"""Topics of a lane in other hands: rows that are gone, records of another KLAIS."""

from confluent_kafka import Producer

from klais.kafka.reader import PartitionReader
from klais.verify.audit import audit_lane
from klais.worker import watch
from klais.worker.changelog import marker_key
from tests.support.lanes import (
    FAST,
    Edge,
    after,
    caught_up,
    figures,
    landed,
    lanes,
    live,
    once,
    recreate,
    remove,
    until,
)
from tests.support.topics import alter


async def test_an_audit_leaves_out_what_somebody_copied_from_another_klais(system):
    """As recovery does. Steps, rows and markers of another system are well formed; their batches have other ids."""
    settings, topics, edge = system(**FAST)
    foreign, others, stranger = system(**FAST)
    async with lanes(foreign) as found, lanes(settings) as ours:
        await live(found[0])
        await live(ours[0])
        for name, lane, writer, rounds in ((foreign, found[0], stranger, 12), (settings, ours[0], edge, 5)):
            writer.send(rounds)
            await caught_up(name, lane)
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    for source, target in ((others.journal, topics.journal), (others.devices_changelog, topics.devices_changelog)):
        async with PartitionReader(settings) as reader:
            async for record in reader.read(source, 0, 0):
                producer.produce(target, record.value, key=record.key, partition=0)
    assert producer.flush(60) == 0
    report = await after(settings, edge)
    audit = await audit_lane(settings, 0)
    assert (audit.problems, audit.devices, audit.telemetry, report.doubled) == ([], 5, edge.sent, 0)


async def test_rows_of_devices_that_the_changelog_lost_are_named(system):
    """Without them the devices count as new: their duplicates would pass without a word."""
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
    async with PartitionReader(settings) as reader:
        keys = {record.offset: record.key async for record in reader.read(topics.devices_changelog, 0, 0)}
    alter(settings, topics.devices_changelog, cleanup_policy="compact,delete")  # else nobody can remove records
    remove(settings, topics.devices_changelog, max(offset for offset, key in keys.items() if key == marker_key(0)))
    report = await after(settings, edge)
    once(settings, edge)
    assert any("lacks at least 5 devices of the checkpoint" in text for text in report.alarms)
    assert (report.lost_records, report.output_lost, report.doubled) == (0, 0, 0)
    assert (await after(settings, edge)).alarms == (), "the checkpoint after it is complete"
    audit = await audit_lane(settings, 0)
    rows = f"the rows of {topics.devices_changelog}"
    assert (audit.problems, audit.not_compared) == ([], [topics.dead_letter, topics.anomalies, rows])


async def test_rows_that_somebody_removes_under_a_live_lane_are_written_again(system, monkeypatch):
    """The topic keeps its end. The lane still has all rows, and needs no new step to save them."""
    monkeypatch.setattr(watch, "START_CHECKS", 1)
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(5)
        await caught_up(settings, lane)
        count = lane.checkpointer.count
        alter(settings, topics.devices_changelog, cleanup_policy="compact,delete")
        remove(settings, topics.devices_changelog)
        await until(lambda: lane.checkpointer.count > count, "a checkpoint with all rows")
        assert lane.restarts == 0
    report = await after(settings, edge)
    once(settings, edge)
    assert (report.passed, report.alarms) == (edge.sent, ())


async def test_the_changelog_recreated_under_a_live_lane_gets_all_rows_again(system):
    settings, topics, edge = system(**FAST)
    some = Edge(settings, devices=2, boot=2)
    some._round = 100
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
        recreate(settings, topics.devices_changelog)
        some.send(5)
        await caught_up(settings, found[0])
    async with lanes(settings) as found:
        await live(found[0])
        assert (found[0].session.state.devices, figures(found[0]).alarms) == (5, ())
    assert sum(landed(settings).values()) == edge.sent + some.sent


async def test_an_audit_knows_that_the_lane_wrote_meanwhile(system):
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    steps = []

    def write(step, records):
        steps.append((step, records))
        if len(steps) == 1:
            producer.produce(topics.journal, b"a step after the check began", partition=0)
            assert producer.flush(60) == 0

    audit = await audit_lane(settings, 0, progress=write)
    assert (audit.problems, audit.written) == ([], 1)
    assert len(steps) == audit.steps and all(step <= records for step, records in steps)
    assert (await audit_lane(settings, 0)).written == 0
