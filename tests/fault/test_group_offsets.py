"""A whole worker whose group has committed offsets that have nothing to do with the log: its lanes know better."""

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.fault_harness import settle, worker
from tests.support.lanes import Edge, landed
from tests.support.process import wait_for


def commit(settings, group: str, topic: str, offset: int) -> None:
    """As an operator does, with no member in the group."""
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])
    for done in admin.alter_consumer_group_offsets([wanted]).values():
        done.result(30)


def test_offsets_beyond_the_log_hide_no_record(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    edge = Edge(settings)
    edge.send(5)
    commit(settings, topics.app_id, topics.raw, 500)
    with worker(settings, tmp_path / "a.log") as it:
        it.wait_ready()
        wait_for(lambda: len(landed(settings)) == edge.sent, 60, lambda: f"what lay there lands:\n{it.tail()}")
        edge.send(5)
        wait_for(lambda: len(landed(settings)) == edge.sent, 60, lambda: f"what comes now lands:\n{it.tail()}")
        settle(settings)
        assert it.stop() == 0
    assert set(landed(settings).values()) == {1}
