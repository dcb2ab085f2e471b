"""``klais what-if`` on a real broker: both courses of what a lane has decided, and clear errors."""

import asyncio
import csv
import io
import json
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.kafka.admin_client import admin_client
from klais.kafka.offsets import end_offsets
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system.clock import now_ms
from klais.system.moments import iso_of
from tests.support.lanes import Edge, lanes, until

Make = Callable[..., Settings]


def klais(settings: Settings, *args: str) -> Result:
    result = CliRunner().invoke(main, ["what-if", *args], env=environ_of(settings))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


async def decided(settings: Settings) -> None:
    edge = Edge(settings)
    async with lanes(settings) as found:
        edge.send(rounds=30)
        edge.put(b"not ours")
        edge.flush()
        await until(lambda: found[0].session and found[0].session.acked_step >= 31, "all is written down")


def test_both_courses_and_what_retention_took(settings_for: Make, topics_of: Any, tmp_path: Any) -> None:
    settings = settings_for(partitions=1, dam_device_rate=1000.0)
    topics: Topics = topics_of(settings)
    asyncio.run(decided(settings))
    before = end_offsets(settings, topics.raw), end_offsets(settings, topics.journal)
    ran = klais(settings, "-o", "json")
    assert ran.exit_code == 0, ran.output
    same = json.loads(ran.stdout)
    assert same["frames"] == 151 and same["not_in_journal"] == 0 and same["changed"] == {}
    assert {row["outcome"]: (row["happened"], row["would"]) for row in same["outcomes"]} == {
        "received": (151, 151), "passed": (150, 150), "queued": (0, 0), "flagged": (0, 0), "corrupt_batch": (1, 1),
    }  # fmt: skip
    svg = tmp_path / "course.svg"
    slow = ("--device-rate", "0.001", "--device-burst", "2")
    ran = klais(settings, *slow, "--by", "device", "-o", "csv", "--svg", str(svg))
    assert ran.exit_code == 0, ran.output
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert [(row["happened_admitted"], row["would_admitted"]) for row in rows] == [("30", "2")] * 5
    assert svg.read_text().startswith("<svg")
    ran = klais(settings, "-p", "0", "--from", "@10", "--to", "@20", "--rate", "1", "--burst", "1",
                            "-o", "json")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    part = json.loads(ran.stdout)
    passed = next(row["would"] for row in part["outcomes"] if row["outcome"] == "passed")
    assert part["frames"] == 50 == passed + part["would_still_wait"] and part["changed"].keys() == {
        "KLAIS_DAM_MAX_RATE", "KLAIS_DAM_BURST_SIZE",
    }  # fmt: skip
    assert klais(settings).output.count("passed") >= 1
    assert (end_offsets(settings, topics.raw), end_offsets(settings, topics.journal)) == before, "it writes nothing"

    assert klais(settings, "--from", "@10").exit_code == 2, "an offset is one of a partition"
    assert klais(settings, "--set", "KLAIS_DAM_MAX_RAET=5").exit_code == 2
    admin: AdminClient = admin_client(settings)
    for future in admin.delete_records([TopicPartition(topics.raw, 0, 15)]).values():
        future.result()
    gone = klais(settings, "-p", "0", "--from", "@10")
    assert gone.exit_code == 1 and "retention" in gone.stderr and "--from @15" in gone.stderr
    assert "retention" in klais(settings, "--from", "1d").stderr
    assert json.loads(klais(settings, "-o", "json", "-q").stdout)["records"] == 16
    assert klais(settings, "--from", "2d", "--to", "1d").exit_code == 1
    later_ms = now_ms()
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    producer.produce(topics.raw, b"not ours", partition=0)
    assert producer.flush(30) == 0
    shorter = klais(settings, "--from", iso_of(later_ms), "--warm", "10m", "-o", "json", "-q")
    assert shorter.exit_code == 0, shorter.output
    (notice,) = json.loads(shorter.stdout)["notices"]
    assert "begins at @15" in notice and "--warm may begin later than 600 s" in notice


def test_steps_that_somebody_copied_from_another_klais_are_left_out(settings_for: Make, topics_of: Any) -> None:
    """As an audit does: they are well formed, name raw offsets that exist here, and were never decided here."""
    settings, foreign = settings_for(partitions=1), settings_for(partitions=1, dam_device_rate=0.001)
    topics, others = topics_of(settings), topics_of(foreign)
    asyncio.run(decided(foreign))

    async def in_between() -> None:
        edge = Edge(settings)
        async with lanes(settings) as found:
            edge.send(rounds=15)
            await until(lambda: found[0].session and found[0].session.acked_step >= 15, "the first are written down")
            await copied(settings, others.journal, topics.journal)
            edge.send(rounds=15)
            edge.put(b"not ours")
            edge.flush()
            await until(lambda: found[0].session and found[0].session.acked_step >= 31, "all is written down")

    asyncio.run(in_between())
    for more in ((), ("-p", "0", "--from", "@0", "--to", "@31")):
        ran = klais(settings, "-o", "json", *more)
        assert ran.exit_code == 0, ran.output
        found = json.loads(ran.stdout)
        outcomes = {row["outcome"]: (row["happened"], row["would"]) for row in found["outcomes"]}
        assert found["frames"] == 151 and found["not_in_journal"] == 0
        assert outcomes["received"] == (151, 151) and outcomes["passed"] == (150, 150)


async def copied(settings: Settings, source: str, target: str) -> None:
    """Copy the records of a partition, as a mirroring program does."""
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    async with PartitionReader(settings) as reader:
        async for record in reader.read(source, 0, 0):
            producer.produce(target, record.value, key=record.key, partition=0)
    assert producer.flush(60) == 0
