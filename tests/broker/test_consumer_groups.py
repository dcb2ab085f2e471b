"""The offsets of consumer groups, before, in and after an outage of Kafka."""

from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.admin import ensure_topics
from klais.kafka.groups import GroupState, list_groups
from klais.kafka.topics import Topics
from tests.support.ports import free_port
from tests.support.process import HTTP_S, PATIENCE, wait_for


def known(settings: Settings) -> list[GroupState]:
    """The groups, or none while Kafka starts."""
    try:
        return list_groups(settings, 10, HTTP_S)
    except KafkaUnavailable:
        return []


@pytest.mark.usefixtures("kafka")
def test_groups_are_known_except_in_an_outage(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, kafka_port=free_port(), kafka_heap_mb=256, partitions=2)
    topic = Topics.of(settings).telemetry
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap, "group.id": "my-app", "auto.offset.reset": "earliest"}
        | {"enable.auto.commit": False}
    )
    with EmbeddedKafka(settings, command="pytest") as broker:
        ensure_topics(settings)
        producer = Producer({"bootstrap.servers": settings.bootstrap})
        producer.produce(topic, b"x", partition=1)
        assert producer.flush(10 * PATIENCE) == 0
        consumer.subscribe([topic])
        message = wait_for(lambda: consumer.poll(1.0), 60, "the record")
        consumer.commit(message, asynchronous=False)
        committed = {(topic, 1): 1}
        assert known(settings) == [GroupState("my-app", "stable", 1, committed)]
        consumer.close()
        ended = [GroupState("my-app", "empty", 0, committed)]
        assert known(settings) == ended
        assert list_groups(settings, 0, HTTP_S) == []

        assert broker.pid is not None
        psutil.Process(broker.pid).kill()
        with pytest.raises(KafkaUnavailable, match="the consumer groups are unknown"):
            list_groups(settings, 10, 5.0)
    with EmbeddedKafka(settings, command="pytest"):
        wait_for(lambda: known(settings) == ended, 60, lambda: f"the group again: {known(settings)}")
