"""Kafka came back empty while a worker ran: the worker is not ready, and takes the new topics within seconds."""

import json
import time
import urllib.error
import urllib.request

from confluent_kafka.admin import AdminClient

from klais.kafka.admin import ensure_topics
from tests.support.fault_harness import Feeder, settle, wait_for, worker


def readiness(port: int) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_worker_whose_topics_are_gone_is_not_ready_and_finds_new_ones(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    names = [spec.name for spec in topics.specs()]
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    with worker(settings, tmp_path / "worker.log") as it:
        it.wait_ready()
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
        assert it.stop() == 0
