"""Offsets of partitions: all of them, those that succeeded, and errors that do not pass for an offset."""

from concurrent.futures import Future
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.config.load import Settings
from klais.kafka.end_offsets import EndOffsets, topics_body
from klais.kafka.offsets import list_offsets
from klais.kafka.topics import Topics

PLACES = [("raw", 0), ("raw", 1)]


class Answer:
    def __init__(self, offset: int) -> None:
        self.offset = offset


def broker(*offsets: int | None, code: int = KafkaError.TOPIC_AUTHORIZATION_FAILED) -> AdminClient:
    """A client whose broker answers with these offsets; None stands for an error of that partition."""

    class Client:
        def list_offsets(self, wanted: dict[TopicPartition, OffsetSpec], request_timeout: float) -> dict[Any, Any]:
            assert all(isinstance(spec, OffsetSpec) for spec in wanted.values())
            out: dict[Any, Any] = {}
            for place, offset in zip(wanted, offsets, strict=True):
                out[place] = Future[Answer]()
                if offset is None:
                    out[place].set_exception(KafkaException(KafkaError(code)))
                else:
                    out[place].set_result(Answer(offset))
            return out

    return cast(AdminClient, Client())


def test_offsets_come_by_topic_and_partition() -> None:
    assert list_offsets(broker(7, 9), PLACES) == {("raw", 0): 7, ("raw", 1): 9}
    assert list_offsets(broker(), []) == {}


def test_a_partition_that_fails_fails_the_call_unless_the_others_will_do() -> None:
    with pytest.raises(KafkaException):
        list_offsets(broker(7, None), PLACES)
    assert list_offsets(broker(7, None), PLACES, partial=True) == {("raw", 0): 7}
    with pytest.raises(KafkaException):
        list_offsets(broker(None, None), PLACES, partial=True)


def test_a_partition_whose_leader_moves_is_asked_again() -> None:
    class Moving:
        def __init__(self) -> None:
            self.clients = [broker(7, None, code=KafkaError.FENCED_LEADER_EPOCH), broker(9)]

        def list_offsets(self, wanted: dict[TopicPartition, OffsetSpec], request_timeout: float) -> dict[Any, Any]:
            return self.clients.pop(0).list_offsets(wanted, request_timeout=request_timeout)

    assert list_offsets(cast(AdminClient, Moving()), PLACES) == {("raw", 0): 7, ("raw", 1): 9}
    with pytest.raises(KafkaException):
        list_offsets(broker(None, code=KafkaError.NOT_LEADER_FOR_PARTITION), PLACES[:1], timeout_s=0.0)


class GroupsOfADeadBroker:
    """A client whose broker does not answer, as librdkafka reports it: the errors are part of the result."""

    def list_consumer_groups(self, request_timeout: float) -> Future[Any]:
        class Listed:
            valid = [type("Entry", (), {"group_id": "of another broker"})]
            errors = [KafkaError(KafkaError._TIMED_OUT)]

        found = Future[Any]()
        found.set_result(Listed)
        return found


def test_an_outage_is_an_exception_and_the_page_of_topics_has_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KafkaError is no exception: raised itself it passes all handlers, ends the thread and hangs the request."""
    offsets = EndOffsets(Settings())
    monkeypatch.setattr(offsets, "_admin", GroupsOfADeadBroker())
    with pytest.raises(KafkaException, match="TIMED_OUT"):
        offsets.groups()
    body = topics_body(offsets, Topics.of(Settings()), {})
    assert {topic["groups"] for topic in body["topics"].values()} == {None}
