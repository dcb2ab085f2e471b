"""Offsets of partitions: all of them, those that succeeded, and errors that do not pass for an offset."""

import time
from concurrent.futures import Future
from typing import Any, cast

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, TopicMismatch
from klais.kafka import end_offsets, offsets
from klais.kafka.end_offsets import EndOffsets, Group, Sample, topics_body
from klais.kafka.offsets import list_offsets, need_partitions, offsets_at
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


def test_an_invalid_offset_is_an_error() -> None:
    """librdkafka gives it, without an error, for a broker that accepts connections and does not answer."""
    with pytest.raises(KafkaException, match="did not answer in time"):
        list_offsets(broker(OFFSET_INVALID, OFFSET_INVALID), PLACES)
    assert list_offsets(broker(7, OFFSET_INVALID), PLACES, partial=True) == {("raw", 0): 7}
    assert list_offsets(broker(-1, 5), PLACES, OffsetSpec.for_timestamp(1)) == {("raw", 0): -1, ("raw", 1): 5}


def test_a_rate_counts_the_partitions_that_both_samples_have_and_is_unknown_in_an_outage() -> None:
    offsets, now_s = EndOffsets(Settings()), time.monotonic()
    offsets._samples.append(Sample(now_s - 4, {("raw", 0): 1000, ("raw", 1): 5000}))
    assert offsets.rate("raw") is None
    offsets._samples.append(Sample(now_s, {("raw", 0): 1200}))  # the leader of partition 1 is away
    assert offsets.rate("raw") == 50.0 and offsets.rate("other") is None
    offsets._samples.append(Sample(now_s + 1e-3, {}))
    assert offsets.rate("raw") is None
    old = EndOffsets(Settings())
    old._samples.extend(Sample(now_s - at_s, {("raw", 0): 7}) for at_s in (20, 15))
    assert old.rate("raw") is None, "0 records/s would be a claim"


def test_a_partition_whose_leader_moves_is_asked_again() -> None:
    class Moving:
        def __init__(self) -> None:
            self.clients = [broker(7, None, code=KafkaError.FENCED_LEADER_EPOCH), broker(9)]

        def list_offsets(self, wanted: dict[TopicPartition, OffsetSpec], request_timeout: float) -> dict[Any, Any]:
            return self.clients.pop(0).list_offsets(wanted, request_timeout=request_timeout)

    assert list_offsets(cast(AdminClient, Moving()), PLACES) == {("raw", 0): 7, ("raw", 1): 9}
    with pytest.raises(KafkaException):
        list_offsets(broker(None, code=KafkaError.NOT_LEADER_FOR_PARTITION), PLACES[:1], timeout_s=0.0)


def test_the_page_of_topics_has_no_groups_in_an_outage_and_asks_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def away(settings: Settings, max_groups: int, timeout_s: float) -> list[Any]:
        asked.append(timeout_s)
        raise KafkaUnavailable("the consumer groups are unknown: nobody there")

    monkeypatch.setattr(end_offsets, "list_groups", away)
    offsets = EndOffsets(Settings())
    for _ in range(3):
        with pytest.raises(KafkaUnavailable, match="nobody there"):
            offsets.groups()
    body = topics_body(offsets, Topics.of(Settings()), {})
    assert {topic["groups"] for topic in body["topics"].values()} == {None}
    assert len(asked) == 1, "each query may take seconds"


def test_a_time_before_1970_is_the_first_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """-1 is no millisecond for Kafka but the end of the log."""
    asked = []

    def of_topic(_settings: Settings, _topic: str, spec: OffsetSpec) -> dict[int, int]:
        asked.append(spec._value)
        return {0: 5}

    monkeypatch.setattr(offsets, "_of_topic", of_topic)
    assert offsets_at(Settings(), "raw", -1) == {0: 5}
    assert asked[-1] == 0


def test_another_number_of_partitions_is_an_error_that_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "_partitions", lambda *_: list(range(16)))
    need_partitions(Settings(partitions=16), "klais_raw")
    for given in (Settings(), Settings(partitions=32)):
        with pytest.raises(TopicMismatch, match=r"klais_raw has 16 partitions, and not \d+ as .*KLAIS_PARTITIONS says"):
            need_partitions(given, "klais_raw")


def test_a_topic_that_was_created_again_has_no_negative_rate() -> None:
    offsets, now_s = EndOffsets(Settings()), time.monotonic()
    offsets._samples.append(Sample(now_s - 4, {("raw", 0): 1000, ("raw", 1): 5000, ("new", 0): 9}))
    offsets._samples.append(Sample(now_s, {("raw", 0): 1200, ("raw", 1): 3, ("new", 0): 0}))
    assert offsets.rate("raw") == 50.0 and offsets.rate("new") is None
    before = Group("g", "stable", 1, {("raw", 0): 7, ("raw", 1): 5000}, 0.0)
    assert Group("g", "stable", 1, {("raw", 0): 9, ("raw", 1): 3}, 2.0, before).rate("raw") == 1.0
