"""Checks of a worker before it joins the group."""

from collections.abc import Callable

from klais.config.load import Settings
from klais.errors import TopicMismatch
from klais.kafka.admin import check_topics, ensure_topics, wait_for_broker
from klais.telemetry.log import get

log = get("klais.worker.startup")


def check_cluster(settings: Settings, stop: Callable[[], bool]) -> None:
    """Wait for a broker, then compare its topics with those that a worker needs; blocks.

    With the embedded broker, missing topics are created. On another cluster its operator creates them.

    Raises
    ------
    KafkaUnavailable
        If ``stop()`` became true before a broker answered.
    TopicMismatch
        If a topic is missing or has other settings; the message describes the fix of each.
    """
    admin = wait_for_broker(settings, on_wait=lambda text: log.warning("kafka_unavailable", reason=text), stop=stop)
    if settings.embedded_kafka:
        ensure_topics(settings, admin)
    elif wrong := check_topics(settings, admin):
        raise TopicMismatch("\n".join(str(mismatch) for mismatch in wrong))
