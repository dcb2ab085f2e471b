"""Kafka came back empty while a worker ran: the worker is not ready, and takes the new topics within seconds.

What an operator blocked stays blocked, and is written to the new topic.
"""

import json
import time
import urllib.error
import urllib.request

from confluent_kafka.admin import AdminClient

from klais.control.overrides import device_scope, following, write
from klais.core.wire.partition import partition_of
from klais.kafka.admin import ensure_topics
from tests.support.fault_harness import Feeder, settle, wait_for, worker
from tests.support.lanes import records
from tests.support.process import HTTP_S


def readiness(port: int) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def of_device(settings, device_id: str) -> dict | None:
    """The record of a device, for a process that starts now."""
    with following(settings) as control:
        return control.device(device_id)


def test_a_worker_whose_topics_are_gone_is_not_ready_and_finds_new_ones(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    names = [spec.name for spec in topics.specs()]
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    with worker(settings, tmp_path / "worker.log") as it:
        it.wait_ready()
        block = write(settings, device_scope("dev-1"), {"block": True}, "ann", "it floods")
        blocked = f"http://127.0.0.1:{it.port}/control/"
        wait_for(lambda: b"dev-1" in urllib.request.urlopen(blocked, timeout=HTTP_S).read(), 60, "the block followed")
        _, body = readiness(it.port)
        assert body["ready"] and body["waiting_for"] == [] and body["partitions"] == [0, 1]
        for done in admin.delete_topics(names, operation_timeout=30).values():
            done.result(60)

        def without_lanes() -> bool:
            status, body = readiness(it.port)
            return status == 503 and body["partitions"] == [] and topics.raw in " ".join(body["waiting_for"])

        wait_for(without_lanes, 60, "the worker to see that its topics are gone")
        wait_for(lambda: not set(names) & set(admin.list_topics(timeout=10).topics), 60, "the topics to be gone")
        ensure_topics(settings)
        wait_for(lambda: readiness(it.port)[0] == 200, 120, lambda: f"new topics; its log ends:\n{it.tail()}")
        with Feeder(settings, frames_per_s=1000):
            time.sleep(1)
        settle(settings)
        there = wait_for(lambda: of_device(settings, "dev-1"), 60, lambda: f"the block, written again:\n{it.tail()}")
        assert {name: there[name] for name in block} == block
        assert not any(
            b'"dev-1"' in record.value for record in records(settings, topics.telemetry, partition_of(b"dev-1", 2))
        )
        assert it.stop() == 0
