"""`klais tail` and `klais stats` on a real broker: the newest records, the first, those that arrive, of one device."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from klais.cli.main import main
from klais.cli.tail import TopicReader
from klais.config.load import Settings, environ_of
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.errors import TopicMismatch
from klais.kafka.admin_client import admin_client
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from tests.support.lanes import remove_topics
from tests.support.process import PATIENCE
from tests.support.topics import create_topics

Make = Callable[..., Settings]


def create(settings: Settings, name: str, partitions: int) -> None:
    admin = admin_client(settings)
    create_topics(admin, NewTopic(name, partitions, 1))


def produce(settings: Settings, topic: str, records: list[dict[str, Any]]) -> None:
    """One after the other, so that their times rise with their places in the list (old ones,
    retention would remove).
    """
    now_ms = time.time_ns() // 1_000_000
    producer = Producer(dict(confluent_config(settings)) | {"linger.ms": 0})
    for number, record in enumerate(records):
        producer.produce(topic, timestamp=now_ms + number, **record)
    assert producer.flush(30 * PATIENCE) == 0


def klais(settings: Settings, *args: str) -> Result:
    result = CliRunner().invoke(main, args, env=environ_of(settings))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def rows(settings: Settings, *args: str) -> list[dict[str, Any]]:
    result = klais(settings, "tail", *args, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def number() -> Callable[[dict[str, Any]], int]:
    return lambda row: int(row["value"]["seq"])


@pytest.fixture
def filled(settings_for: Make) -> Settings:
    """Settings whose telemetry topic holds 100 records of 5 devices on 3 partitions."""
    settings = settings_for(partitions=3)
    name = Topics.of(settings).telemetry
    create(settings, name, 3)
    produce(
        settings,
        name,
        [
            {"key": f"dev-{i % 5}".encode(), "value": json.dumps({"seq": i}).encode(), "partition": i % 3}
            for i in range(100)
        ],
    )
    return settings


def test_newest_first_and_all(filled: Settings, number: Callable[[dict[str, Any]], int]) -> None:
    newest = rows(filled, "iot_telemetry", "-n", "7")
    assert [number(row) for row in newest] == list(range(93, 100))
    assert newest[0]["topic"] == Topics.of(filled).telemetry and newest[0]["key"] == "dev-3"
    assert sorted(number(row) for row in rows(filled, "telemetry", "--from-beginning")) == list(range(100))
    assert len(rows(filled, "telemetry", "--from-beginning", "-n", "4")) == 4
    assert len(rows(filled, "telemetry", "-n", "1000")) == 100
    assert rows(filled, "telemetry", "-n", "0") == []
    assert len(klais(filled, "tail", "telemetry").stdout.splitlines()) == 10


def test_what_retention_leaves_is_shown(filled: Settings) -> None:
    """The first records go after the command has asked for the offsets, before it reads."""
    topic = Topics.of(filled).telemetry
    reader = TopicReader(filled, topic, 0)
    try:
        low, high = reader.bounds()[0]
        admin = admin_client(filled)
        for future in admin.delete_records([TopicPartition(topic, 0, 10)]).values():
            future.result()
        assert [record.offset for record in reader.read({0: low}, {0: high})] == list(range(10, high))
    finally:
        reader.close()


def test_a_followed_topic_that_is_created_again_is_told(settings_for: Make) -> None:
    settings = settings_for(partitions=1)
    topic = Topics.of(settings).telemetry
    create(settings, topic, 1)
    produce(settings, topic, [{"value": b"{}", "partition": 0}])
    reader = TopicReader(settings, topic)
    try:
        records = reader.read({0: 0}, None)
        assert next(records).offset == 0
        remove_topics(settings, topic)
        create(settings, topic, 1)
        with pytest.raises(TopicMismatch, match="was deleted and created again"):
            next(records)
    finally:
        reader.close()


def test_of_one_device_and_one_partition(filled: Settings, number: Callable[[dict[str, Any]], int]) -> None:
    found = [number(row) for row in rows(filled, "telemetry", "--device", "dev-4", "-n", "3")]
    assert found == [89, 94, 99]
    everything = rows(filled, "telemetry", "--device", "dev-4", "-n", "500")
    assert len(everything) == 20, "it looks back as far as it must"
    assert rows(filled, "telemetry", "--device", "nobody") == []
    assert {row["partition"] for row in rows(filled, "telemetry", "--partition", "2")} == {2}
    assert klais(filled, "tail", "telemetry", "--partition", "9").exit_code == 1


def test_frame_batches(settings_for: Make) -> None:
    settings = settings_for()
    name = Topics.of(settings).raw
    create(settings, name, 1)
    frames = [encode_frame(f"dev-{i}", i, b'{"t":%d}' % i) for i in range(20)]
    produce(settings, name, [{"value": encode_batch(frames, 5, edge=3)}, {"value": b"not ours"}])
    first, second = rows(settings, "klais_raw")
    assert len(first["frames"]) == 20 and first["frames"][3] == {"device": "dev-3", "seq": 3, "payload": {"t": 3}}
    assert "error" in second and bytes.fromhex(second["hex"]) == b"not ours"
    lines = klais(settings, "tail", "raw", "--frames", "2").stdout.splitlines()
    assert len(lines) == 1 + 2 + 1 + 1 and "UNREADABLE" in lines[-1]
    (one,) = rows(settings, "raw", "--device", "dev-7")
    assert [frame["seq"] for frame in one["frames"]] == [7]


def test_follow_shows_what_arrives(settings_for: Make) -> None:
    settings = settings_for()
    name = Topics.of(settings).control
    create(settings, name, 1)
    produce(settings, name, [{"key": b"global", "value": b'{"rate":1}'}])
    command = [sys.executable, "-m", "klais", "tail", "control", "-f", "--json"]
    with subprocess.Popen(command, env=environ_of(settings), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["value"] == {"rate": 1}
            produce(settings, name, [{"key": b"global", "value": b'{"rate":2}'}])
            assert json.loads(process.stdout.readline())["value"] == {"rate": 2}
        finally:
            process.terminate()


def test_it_leaves_no_group_behind(filled: Settings) -> None:
    rows(filled, "telemetry")
    admin = admin_client(filled)
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    assert not [name for name in groups if name.startswith("klais-tail")]


def test_a_topic_that_is_not_there(settings_for: Make) -> None:
    settings = settings_for()
    with pytest.raises(TopicMismatch, match="klais topics list"):
        TopicReader(settings, Topics.of(settings).raw)
    assert klais(settings, "tail", "raw").exit_code == 1


def test_stats_show_the_newest_of_each_sender(settings_for: Make) -> None:
    settings = settings_for()
    name = Topics.of(settings).stats
    create(settings, name, 1)
    assert "nothing" in klais(settings, "stats").stdout
    produce(
        settings,
        name,
        [
            {"key": key, "value": json.dumps({"received": n}).encode()}
            for n, key in enumerate([b"edge/1", b"w", b"edge/1"])
        ],
    )
    found = json.loads(klais(settings, "stats", "--json").stdout)
    assert {key: entry["stats"] for key, entry in found.items()} == {"edge/1": {"received": 2}, "w": {"received": 1}}
    assert "edge/1 age=" in klais(settings, "stats").stdout
