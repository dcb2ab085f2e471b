"""Find a cluster again whose brokers all have other addresses, as after a move to other hosts or ports.

A client of aiokafka asks the brokers that it knows for metadata, and the bootstrap servers only at its start. If none
of the known ones answers, it tries them forever. librdkafka and Kafka's own clients then go back to the bootstrap
servers (KIP-899), and so do clients with this module.

Tied to aiokafka 0.14 (``aiokafka.client.AIOKafkaClient``).
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata

TIMEOUT_S = 5.0  # of one attempt; each begins with another bootstrap server

_update_from_known: Callable[[AIOKafkaClient, ClusterMetadata, Any], Awaitable[bool]] = AIOKafkaClient._metadata_update


def follow_moved_brokers() -> None:
    """Change aiokafka's client for the whole process. It may be called more than once."""
    AIOKafkaClient._metadata_update = _update  # type: ignore[method-assign]


async def _update(client: AIOKafkaClient, cluster: ClusterMetadata, topics: Any) -> bool:
    """As ``AIOKafkaClient._metadata_update``, which returns False if no broker answers."""
    if await _update_from_known(client, cluster, topics):
        return True
    # A client with the same options that knows no broker. What is known about topics stays until there is an answer.
    other = copy.copy(client)
    other.cluster, other._conns, other._get_conn_lock_value = ClusterMetadata(), {}, None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await other.bootstrap()
            return await _update_from_known(other, cluster, topics)
    except (kafka_errors.KafkaError, OSError):  # with time-outs; another error would end the client's updates
        return False
    finally:
        for connection in other._conns.values():
            connection.close()
