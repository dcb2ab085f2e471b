"""A recorded frame is sent again after its device was forgotten, after its worker was killed, and after a restart from
the checkpoint: it never lands twice, and the device's own frames go on."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

from click.testing import CliRunner
from confluent_kafka import Producer

from klais.cli.devices import devices
from klais.config.load import Settings, environ_of
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from tests.support.edge import read_all
from tests.support.fault_harness import Worker
from tests.support.lane import batch
from tests.support.process import HTTP_S, wait_for

EPOCH = 1_700_000_000
RECORDED = range(1, 41)


def row_of(worker: Worker) -> dict[str, Any]:
    """Counters of the device."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/devices/a/", timeout=HTTP_S) as answer:
            counters: dict[str, Any] = json.load(answer)["counters"]
            return counters
    except urllib.error.HTTPError:
        return {}


def test_a_recorded_frame_never_lands_twice(kafka, tmp_path, monkeypatch):
    settings = Settings(
        topic_prefix=f"replayed-{time.time_ns():x}-", kafka_bootstrap=kafka, partitions=1, state_dir=tmp_path
    )
    topics = Topics.of(settings)
    ensure_topics(settings)
    for name, value in environ_of(settings).items():
        monkeypatch.setenv(name, value)
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    batches = 0

    def send(*sequences: int, epoch: int = EPOCH) -> None:
        nonlocal batches
        some = [encode_frame("a", n, b'{"n":%d}' % n) for n in sequences]
        value = batch(some, batches, time.time_ns(), epochs=[epoch] * len(some))
        producer.produce(topics.raw, value, partition=0)
        assert producer.flush(HTTP_S) == 0
        batches += 1

    def replays(worker: Worker, so_far: int) -> None:
        """The recording again, and unsigned; all of it is refused."""
        send(*RECORDED)
        send(*RECORDED, epoch=0)

        def refused() -> bool:
            row = row_of(worker)
            return bool(row) and row["replayed"] + row["duplicate"] + row["unsigned"] == so_far + 2 * len(RECORDED)

        wait_for(refused, 30, lambda: f"all replays refused: {row_of(worker)}")

    worker = Worker(settings, tmp_path / "1.log", worker_id="w1", auth="sticky")
    try:
        worker.wait_ready()
        send(*RECORDED)
        wait_for(lambda: row_of(worker).get("admitted") == len(RECORDED), 30, "the device's frames")
        answer = CliRunner().invoke(devices, ["forget", "a", "--json"])
        assert answer.exit_code == 0, answer.output
        wait_for(lambda: row_of(worker).get("received") == 0, 30, "the device is forgotten")
        replays(worker, 0)
        worker.kill()
        worker = Worker(settings, tmp_path / "2.log", worker_id="w2", auth="sticky")
        worker.wait_ready()
        replays(worker, 2 * len(RECORDED))
        assert worker.stop() == 0
        worker = Worker(settings, tmp_path / "3.log", worker_id="w3", auth="sticky")
        worker.wait_ready()
        replays(worker, 4 * len(RECORDED))
        send(RECORDED[-1] + 1)
        wait_for(lambda: row_of(worker).get("admitted") == 1, 30, "the device's next frame")
        assert worker.stop() == 0
    finally:
        worker.kill()
    landed = [json.loads(message.value())["seq"] for message in read_all(kafka, topics.telemetry, 1)]
    assert landed == [*RECORDED, RECORDED[-1] + 1]
    assert asyncio.run(audit_lane(settings, 0)).problems == []
