"""Anomaly profiles are saved, and a worker that comes after a kill -9 goes on with them; its flags are exact."""

import asyncio
import json
import time
import urllib.request

import numpy as np
from confluent_kafka import Producer

from klais.config.load import Settings
from klais.core.anomaly.saved import read_profile
from klais.core.fingerprint.typed import TAIL_MAGIC, TAIL_SIZE
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from tests.support.fault_harness import Worker
from tests.support.lane import batch
from tests.support.process import HTTP_S, wait_for

LEARNED = 300


async def saved_rows(settings, topics) -> int:
    """Rows that the saved profile of the device has seen in its field ``t``; 0 without one."""
    found = 0
    async with PartitionReader(settings) as reader:
        start, end = await reader.offsets(topics.profiles_changelog, 0)
        async for record in reader.read(topics.profiles_changelog, 0, start, end):
            if record.key == b"a":
                value = record.value or b""
                assert value[-TAIL_SIZE:][:4] == TAIL_MAGIC, "the fingerprint follows"
                profile = read_profile(value[:-TAIL_SIZE])
                assert profile is not None
                found = int(max(profile[1]["rows"].max(initial=0), profile[2]["rows"].max(initial=0)))
    return found


def profile_of(worker) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/devices/a/", timeout=HTTP_S) as answer:
        return {item["feature"]: item["samples"] for item in json.load(answer)["profile"]}


def test_a_profile_survives_a_kill_and_flags_are_there_once(kafka, tmp_path):
    settings = Settings(
        topic_prefix=f"profiles-{time.time_ns():x}-", kafka_bootstrap=kafka, partitions=1, state_dir=tmp_path
    )
    topics, rng = Topics.of(settings), np.random.default_rng(1)
    ensure_topics(settings)
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    begin_ns = time.time_ns() - 7200 * 60 * 10**9
    number = 0

    def send(*values: float) -> None:
        nonlocal number
        for value in values:
            frame = encode_frame("a", number, b'{"t":%.2f}' % value)
            producer.produce(topics.raw, batch([frame], number, begin_ns + number * 60 * 10**9), partition=0)
            number += 1
        assert producer.flush(HTTP_S) == 0

    worker = Worker(settings, tmp_path / "w.log", worker_id="w")
    try:
        worker.wait_ready()
        send(*(20 + 0.3 * rng.normal(size=LEARNED)))
        wait_for(lambda: asyncio.run(saved_rows(settings, topics)) >= LEARNED, 30, "the profile is saved")
        send(45.2)
        wait_for(lambda: asyncio.run(flags(settings, topics)) == [45.2], 30, "a flag")
        worker.kill()
        worker = Worker(settings, tmp_path / "w2.log", worker_id="w2")
        worker.wait_ready()
        wait_for(lambda: profile_of(worker).get("t", 0) >= LEARNED, 30, lambda: f"loaded:\n{worker.tail()}")
        send(20.1, 900.5)  # a worker that had to learn again would flag nothing
        wait_for(lambda: asyncio.run(flags(settings, topics)) == [45.2, 900.5], 30, "one flag more, and no other twice")
        assert worker.stop() == 0
    finally:
        worker.kill()
    audit = asyncio.run(audit_lane(settings, 0))
    assert audit.problems == [] and audit.anomalies == 2


async def flags(settings, topics) -> list[float]:
    """Values of the flags on klais_anomalies."""
    async with PartitionReader(settings) as reader:
        start, end = await reader.offsets(topics.anomalies, 0)
        bodies = [json.loads(record.value or b"{}") async for record in reader.read(topics.anomalies, 0, start, end)]
    return [body["value"] for body in bodies if body["kind"] == "flag"]
