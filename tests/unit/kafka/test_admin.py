"""The list of topics, while the cluster is not whole."""

from types import SimpleNamespace
from typing import Any, cast

from confluent_kafka.admin import AdminClient

from klais.kafka.admin import _record_count


class Client:
    def list_offsets(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("it would be repeated until its time-out, for each topic")


def test_a_topic_with_a_partition_without_a_leader_is_listed_at_once() -> None:
    partitions = {0: SimpleNamespace(leader=1), 1: SimpleNamespace(leader=-1)}
    assert _record_count(cast(AdminClient, Client()), "t", SimpleNamespace(partitions=partitions)) is None
