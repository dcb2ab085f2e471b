"""The client for questions about topics, offsets and groups."""

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.kafka.clients import confluent_config


def admin_client(settings: Settings, on_error: Callable[[KafkaError], None] = lambda error: None) -> AdminClient:
    """An AdminClient of the cluster. It logs nothing while brokers are away: callers report that with more context."""
    unlogged: dict[str, Any] = {"log_level": 0, "error_cb": on_error}
    return AdminClient({**confluent_config(settings), **unlogged, "client.id": "klais-admin"})
