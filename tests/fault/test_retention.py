"""The worker was away for longer than the topics keep their records: it goes on, counts what is gone, and says so."""

import re
import time

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from klais.kafka.offsets import end_offsets
from tests.support.fault_harness import Feeder, committed, settle, worker
from tests.support.process import PATIENCE, wait_for


def remove(settings, topic: str, leave: int) -> None:
    """What retention does: all but the last ``leave`` records of each partition go."""
    targets = [TopicPartition(topic, p, max(0, end - leave)) for p, end in end_offsets(settings, topic).items()]
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    for done in admin.delete_records(targets).values():
        done.result(30 * PATIENCE)


def test_raw_records_and_journal_removed_while_frames_waited(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    log = tmp_path / "worker.log"
    with worker(settings, log, dam_max_rate=100, dam_burst_size=10) as it:
        it.wait_ready()
        with Feeder(settings, frames_per_s=2000):
            wait_for(lambda: min(committed(settings)) >= 10, 30, "checkpoints that say that frames wait in the queue")
        it.kill()
    feeder = Feeder(settings, seed=2)
    for _ in range(20):
        feeder.put(200)
    feeder._producer.flush(10 * PATIENCE)
    remove(settings, topics.raw, 5)
    remove(settings, topics.journal, 1)
    with worker(settings, log) as it:
        it.wait_ready()
        settle(settings)
        text = log.read_text()
        assert text.count("lane_resumed") == 2  # of two lanes
        assert re.search(r"lane_resumed .*queue_lost=[1-9]", text)
        assert "raw_records_lost" in text
        before = text.count("lane_started")
        with Feeder(settings, seed=3):
            time.sleep(1)
        settle(settings)
        it.kill()
    with worker(settings, log) as it:  # and what it then decides is recovered as ever
        it.wait_ready()
        assert log.read_text().count("lane_started") == before + 2
        assert log.read_text().count("lane_resumed") == 2
        assert it.stop() == 0
