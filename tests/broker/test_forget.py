"""A device that an operator wants forgotten: by its lane, in the changelog, also after the worker was killed."""

import asyncio
import json
import time
import urllib.request

from click.testing import CliRunner
from confluent_kafka import Producer

from klais.cli.devices import devices
from klais.config.load import Settings, environ_of
from klais.core.devices.layout import row_key
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from klais.worker.changelog import load_partition
from tests.support.fault_harness import Worker
from tests.support.lane import batch
from tests.support.process import HTTP_S, wait_for


def ids(worker) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/devices/?sort=device_id", timeout=HTTP_S) as answer:
        return [item["device_id"] for item in json.load(answer)["items"]]


async def in_changelog(settings, topics) -> set[bytes]:
    async with PartitionReader(settings) as reader:
        rows, _ = await load_partition(reader, topics.devices_changelog, 0)
    return {row_key(row) for row in rows}


def test_a_forgotten_device_stays_forgotten(kafka, tmp_path, monkeypatch):
    settings = Settings(
        topic_prefix=f"forget-{time.time_ns():x}-",
        kafka_bootstrap=kafka,
        partitions=1,
        state_dir=tmp_path,
        checkpoint_interval_s=0.2,
        session_timeout_s=5,
    )
    topics = Topics.of(settings)
    ensure_topics(settings)
    for name, value in environ_of(settings).items():
        monkeypatch.setenv(name, value)
    producer = Producer({"bootstrap.servers": settings.bootstrap})

    def send(number: int, *names: str) -> None:
        some = [encode_frame(name, number, b'{"t":1}') for name in names]
        producer.produce(topics.raw, batch(some, number, time.time_ns()), partition=0)
        assert producer.flush(HTTP_S) == 0

    worker = Worker(settings, tmp_path / "w.log", worker_id="w")
    try:
        worker.wait_ready()
        send(0, "a", "b", "c")
        wait_for(lambda: ids(worker) == ["a", "b", "c"], 30, "three devices")
        wait_for(lambda: asyncio.run(in_changelog(settings, topics)) == {b"a", b"b", b"c"}, 30, "three rows")
        answer = CliRunner().invoke(devices, ["forget", "b", "--reason", "taken out", "--json"])
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.output)["reason"] == "taken out"
        wait_for(lambda: ids(worker) == ["a", "c"], 30, "b is forgotten")
        wait_for(lambda: asyncio.run(in_changelog(settings, topics)) == {b"a", b"c"}, 30, "no row of b")
        worker.kill()
        worker = Worker(settings, tmp_path / "w2.log", worker_id="w2")
        worker.wait_ready()
        assert ids(worker) == ["a", "c"]
        send(1, "b")  # it comes back after the request, which is not followed again
        wait_for(lambda: ids(worker) == ["a", "b", "c"], 30, "b is new")
        wait_for(lambda: asyncio.run(in_changelog(settings, topics)) == {b"a", b"b", b"c"}, 30, "a row of b")
        assert worker.stop() == 0
    finally:
        worker.kill()
    audit = asyncio.run(audit_lane(settings, 0))
    assert audit.problems == [] and audit.devices == 3
