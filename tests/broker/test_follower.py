"""Followers of small topics on a real broker: what is written is followed, also in a topic that was created again."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaException, Producer

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.kafka.admin import ensure_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.flag_reader import Batch, FlagReader
from klais.kafka.stats import ControlProducer, StatsFollower
from klais.kafka.topics import Topics
from klais.telemetry.stats import StatsPublisher
from tests.support.lanes import remove
from tests.support.process import wait_for

Make = Callable[..., Settings]
FLAG = {"kind": "flag", "feature": "t", "cause": "spike", "score": 9.0}


def recreate(settings: Settings, topic: str) -> None:
    admin = admin_client(settings)
    for future in admin.delete_topics([topic]).values():
        future.result()

    def created() -> bool:
        try:  # the broker deletes in the background, and refuses the name until it is done
            return topic in ensure_topics(settings, admin)
        except KafkaException:
            return False

    wait_for(created, 30, f"{topic} created again")


def test_set_points_of_a_topic_that_was_created_again_are_followed(settings_for: Make) -> None:
    settings = settings_for(partitions=1)
    ensure_topics(settings)
    producer, follower = ControlProducer(settings, "test"), ControlFollower(settings)
    follower.start()
    try:
        producer.control("device/one", {"block": True})
        wait_for(lambda: b"one" in follower.blocked(), 30, "the block followed")
        recreate(settings, Topics.of(settings).control)
        producer.close()
        producer = ControlProducer(settings, "test")
        producer.control("device/two", {"block": True})
        wait_for(lambda: b"two" in follower.blocked(), 60, "a block in the new topic followed")
        assert set(follower.blocked()) == {b"one", b"two"}, "what the old topic said is in force until it is replaced"
        assert set(follower.missing()) == {"device/one"}
        producer.control("device/one", {"unblock": True})
        wait_for(lambda: set(follower.blocked()) == {b"two"}, 60, "the old block ended")
        assert follower.missing() == {} and follower.problem() is None
    finally:
        follower.stop()
        producer.close()


def test_statistics_of_a_topic_that_was_created_again_are_followed(settings_for: Make) -> None:
    settings = settings_for(partitions=1)
    ensure_topics(settings)
    producer, follower = ControlProducer(settings, "test"), StatsFollower(settings)
    publisher = StatsPublisher(producer, "edge", "edge-1", lambda: ({}, {}))
    follower.start()
    publisher.start()
    try:
        wait_for(lambda: follower.newest("edge"), 30, "statistics followed")
        recreate(settings, Topics.of(settings).stats)
        time.sleep(3.5)  # what was heard before is stale by now
        wait_for(lambda: follower.newest("edge"), 60, "statistics in the new topic followed")
    finally:
        publisher.stop()
        follower.stop()
        producer.close()


def test_a_follower_says_that_its_topic_is_gone(settings_for: Make, monkeypatch) -> None:
    monkeypatch.setattr("klais.kafka.follower.STALE_S", 2.0)
    settings = settings_for(partitions=1)
    follower = ControlFollower(settings)  # the topic does not exist
    follower.start()
    try:
        problem = wait_for(follower.problem, 30, "the problem told")
        assert Topics.of(settings).control in problem and "nknown topic" in problem
        ensure_topics(settings)
        wait_for(lambda: follower.problem() is None, 30, "the topic followed once it exists")
    finally:
        follower.stop()


def test_flags_of_a_topic_that_was_created_again_are_read_from_its_start(settings_for: Make) -> None:
    settings = settings_for(partitions=2)
    ensure_topics(settings)
    topic = Topics.of(settings).anomalies
    producer, reader, found = (
        Producer({"bootstrap.servers": settings.bootstrap}),
        FlagReader(settings, {0: 0, 1: 0}),
        [],
    )

    def flag(device: str) -> None:
        value = {"kind": "flag", "device_id": device, "ts": 1, "seq": 1, "flags": []}
        producer.produce(topic, orjson.dumps(value), device.encode(), partition=1)
        assert producer.flush(30) == 0

    def seen(count: int) -> bool:
        batch = reader.take()
        found.append(batch.next_offsets)
        return any(offsets.get(1) == count for offsets in found)

    reader.start()
    try:
        for n in range(3):
            flag(f"old-{n}")
        wait_for(lambda: seen(3), 30, "three records read")
        recreate(settings, topic)
        wait_for(lambda: seen(0), 60, "the new topic noticed")
        flag("new")
        wait_for(lambda: seen(1), 60, "its first record read")
    finally:
        reader.stop()


@pytest.mark.parametrize(("next_offset", "first"), [(100, 3), (0, 2)], ids=["lost its tail", "retention"])
def test_flags_are_read_once_where_the_topic_lost_some(settings_for: Make, topics_of: Any, next_offset, first) -> None:
    """librdkafka would read a topic that is shorter than what was read from its start again."""
    settings = settings_for(partitions=1)
    topic = topics_of(settings).anomalies
    producer, found = Producer({"bootstrap.servers": settings.bootstrap}), Batch()

    def flag(device: str) -> None:
        producer.produce(topic, orjson.dumps(FLAG | {"device_id": device}), device.encode(), partition=0)
        assert producer.flush(30) == 0

    def seen(count: int) -> bool:
        batch = reader.take()
        found.flags.extend(batch.flags)
        found.next_offsets |= batch.next_offsets
        return found.next_offsets.get(0) == count

    for n in range(3):
        flag(f"old-{n}")
    remove(settings, topic, 2)
    reader = FlagReader(settings, {0: next_offset})
    reader.start()
    try:
        if next_offset > 3:
            wait_for(lambda: seen(3), 30, "the end noticed")
        flag("new")
        wait_for(lambda: seen(4), 30, "the new one read")
        assert len(found.flags) == 4 - first
    finally:
        reader.stop()
