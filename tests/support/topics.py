"""Create topics by hand, apart from KLAIS."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from klais.kafka.offsets import list_offsets
from tests.support.process import PATIENCE, wait_for


def create_topics(admin: AdminClient, *topics: NewTopic) -> None:
    """Create topics, and wait until their partitions serve: brokers confirm the creation earlier."""
    for future in admin.create_topics(list(topics)).values():
        future.result(20 * PATIENCE)
    partitions = [(topic.topic, p) for topic in topics for p in range(topic.num_partitions)]

    def serve() -> bool:
        try:
            list_offsets(admin, partitions, OffsetSpec.latest(), 10 * PATIENCE)
        except KafkaException:
            return False
        known = admin.list_topics(timeout=10 * PATIENCE).topics
        return all(topic.topic in known for topic in topics)

    wait_for(serve, 60, f"{[topic.topic for topic in topics]} to serve")
