"""What `klais up` samples of the clean topic."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from klais.cli.up import sampler
from klais.config.load import Settings
from tests.support.process import wait_for


def test_an_outage_does_not_end_the_count_of_landed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage a client may keep old leaders and fail for good; a new one does not."""
    clients: list[object] = []

    def client(settings: Settings) -> object:
        clients.append(object())
        return clients[-1]

    def ends(admin: object, places: list[tuple[str, int]], timeout_s: float) -> dict[Any, int]:
        if admin is clients[0] and sampled.ends() is not None:
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return {place: len(clients) for place in places}

    monkeypatch.setattr(sampler, "admin_client", client)
    monkeypatch.setattr(sampler, "list_offsets", ends)
    monkeypatch.setattr(sampler, "PERIOD_S", 0.01)
    sampled = sampler.Sampler(Settings(partitions=2))
    monkeypatch.setattr(sampled, "_threads", sampled._threads[1:])  # the other one reads from Kafka
    sampled.start()
    try:
        wait_for(lambda: sampled.ends() == {0: 2, 1: 2}, 10, lambda: f"the offsets of a new client: {sampled.ends()}")
    finally:
        sampled.stop()
