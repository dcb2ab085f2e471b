"""A client finds the cluster again after all of its brokers have moved; connections are played."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiokafka.client
import pytest
from aiokafka.client import AIOKafkaClient

from klais.kafka.closing import close_client, start_client

OLD, NEW = 1001, 1002


class Connection:
    """To the only broker of the cluster, which listens on ``listening``."""

    def __init__(self, port: int, listening: set[int]) -> None:
        self._port, self._listening = port, listening

    def connected(self) -> bool:
        return self._port in self._listening

    async def send(self, request: Any) -> Any:
        if not self.connected():
            raise aiokafka.errors.KafkaConnectionError
        topics = [(0, "t", False, [(0, 0, 1, [1], [1])])]
        brokers = [(1, "127.0.0.1", self._port, None)]
        return SimpleNamespace(API_VERSION=1, brokers=brokers, controller_id=1, topics=topics)

    def close(self, reason: Any = None) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


async def test_a_client_follows_brokers_that_all_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = {OLD}

    async def connect(host: str, port: int, **_: Any) -> Connection:
        if port not in listening:
            raise OSError("nothing listens there")
        return Connection(port, listening)

    monkeypatch.setattr(aiokafka.client, "create_conn", connect)
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{OLD},127.0.0.1:{NEW}")
    await start_client(client, 60)
    try:
        assert await client.add_topic("t")
        assert client.cluster.broker_metadata(1).port == OLD
        listening.clear()
        assert not await client.force_metadata_update()
        assert client.cluster.partitions_for_topic("t") == {0}, "an outage does not make it forget the topics"
        listening.add(NEW)
        assert await client.force_metadata_update()
        assert client.cluster.broker_metadata(1).port == NEW
        assert client.cluster.partitions_for_topic("t") == {0}
    finally:
        await close_client(client)
