"""Create and change topics by hand, apart from KLAIS."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, OffsetSpec

from klais.config.load import Settings
from klais.kafka.admin_client import admin_client
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


def alter(settings: Settings, topic: str, **config: object) -> None:
    """Change a topic's settings, as ``kafka-configs --alter`` does, and wait until the broker shows them: the
    controller confirms the change earlier. Names have underscores or dots.
    """
    wanted = {name.replace("_", "."): str(value) for name, value in config.items()}
    change = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    admin = admin_client(settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=change)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20 * PATIENCE)

    def shown() -> bool:
        (found,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        now = found.result(20 * PATIENCE)
        return all(set(now[name].value.split(",")) == set(value.split(",")) for name, value in wanted.items())

    wait_for(shown, 30, f"{topic} with {wanted}", 0.05)
