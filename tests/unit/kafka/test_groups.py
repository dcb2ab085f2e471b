"""Consumer groups: those of KLAIS are never left out because of others on the cluster."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka import groups
from klais.kafka.groups import list_groups


class Admin:
    """A cluster with these groups; those in ``broken`` cannot be queried."""

    known: tuple[str, ...] = ()
    broken: frozenset[str] = frozenset()
    _client = None

    def __init__(self, **_: Any) -> None: ...

    async def list_consumer_groups(self) -> list[tuple[str, str]]:
        return [(name, "consumer") for name in self.known]

    async def find_coordinator(self, name: str) -> int:
        if name in self.broken:
            raise kafka_errors.GroupCoordinatorNotAvailableError(name)
        return 1

    async def describe_consumer_groups(self, names: list[str], group_coordinator_id: int) -> list[Any]:
        return [SimpleNamespace(groups=[(0, names[0], "Stable", "consumer", "range", ["a member"])])]

    async def list_consumer_group_offsets(self, name: str, group_coordinator_id: int) -> dict[Any, Any]:
        return {TopicPartition("t", 0): SimpleNamespace(offset=7)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[Admin]:
    async def nothing(*_: Any) -> None: ...

    monkeypatch.setattr(groups, "AIOKafkaAdminClient", Admin)
    monkeypatch.setattr(groups, "start_client", nothing)
    monkeypatch.setattr(groups, "close_client", nothing)
    monkeypatch.setattr(Admin, "known", (*(f"console-{n:02}" for n in range(60)), "p-klais-worker"))
    return Admin


def names() -> list[str]:
    return [group.name for group in list_groups(Settings(topic_prefix="p-"), 50, 30.0)]


def test_own_groups_come_before_many_others(cluster: type[Admin]) -> None:
    assert names() == ["p-klais-worker", *(f"console-{n:02}" for n in range(49))]


def test_a_group_of_others_that_fails_hides_no_other(cluster: type[Admin], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "broken", frozenset({"console-03"}))
    found = names()
    assert len(found) == 49 and "console-03" not in found
    monkeypatch.setattr(cluster, "broken", frozenset({"p-klais-worker"}))
    with pytest.raises(KafkaUnavailable, match="p-klais-worker"):
        names()
    monkeypatch.setattr(cluster, "broken", frozenset(cluster.known))
    with pytest.raises(KafkaUnavailable):
        names()
