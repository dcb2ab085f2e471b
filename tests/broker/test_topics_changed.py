"""Somebody changes topics while processes run: each difference is named within seconds, and gone when it is fixed."""

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions

from klais.errors import TopicMismatch
from klais.kafka.admin import check_topics, ensure_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.topics_watch import TopicsWatch
from tests.support.process import wait_for
from tests.support.topics import alter


def test_every_change_is_named_while_it_lasts_and_one_command_fixes_all(settings_for, topics_of):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    changes = {
        (topics.raw, "retention.ms"): "60000",
        (topics.raw, "retention.bytes"): "1000000",
        (topics.raw, "cleanup.policy"): "compact,delete",
        (topics.journal, "retention.bytes"): "1000000",
        (topics.journal, "cleanup.policy"): "compact",
        (topics.devices_changelog, "cleanup.policy"): "delete",
        (topics.profiles_changelog, "cleanup.policy"): "compact,delete",
        (topics.control, "cleanup.policy"): "delete",
        (topics.telemetry, "message.timestamp.type"): "CreateTime",
        (topics.telemetry, "cleanup.policy"): "compact",
        (topics.anomalies, "max.message.bytes"): "1000",
        (topics.dead_letter, "min.insync.replicas"): "2",
        (topics.stats, "max.message.bytes"): "1000",
        (topics.audit, "unclean.leader.election.enable"): "true",
    }
    watch = TopicsWatch(settings, period_s=0.1)
    watch.start()
    try:
        for (topic, name), value in changes.items():
            alter(settings, topic, **{name: value})
        assert {(m.topic, m.setting) for m in check_topics(settings)} == set(changes)
        wait_for(lambda: len(watch.problems) == len(changes), 60, "all to be named", 0.1)
        for topic, name in changes:
            assert any(topic in text and name in text and "--fix" in text for text in watch.problems)
        ensure_topics(settings, fix=True)
        wait_for(lambda: watch.problems == (), 60, "all to be fixed", 0.1)
    finally:
        watch.stop()
    assert check_topics(settings) == []


def test_a_watch_that_is_asked_looks_at_once(settings_for, topics_of):
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    watch = TopicsWatch(settings, period_s=86_400)
    watch.start()
    try:
        alter(settings, topics.raw, retention_ms=60000)
        watch.ask()  # as lanes do that fail
        wait_for(lambda: len(watch.problems) == 1, 60, "the change to be named", 0.1)
    finally:
        watch.stop()


@pytest.mark.parametrize("name", ["raw", "control"])
def test_partitions_that_somebody_added_are_named_with_what_to_do(settings_for, topics_of, name):
    settings = settings_for(partitions=2)
    topic, admin = getattr(topics_of(settings), name), admin_client(settings)
    for done in admin.create_partitions([NewPartitions(topic, 3)]).values():
        done.result(30)
    (found,) = wait_for(lambda: check_topics(settings), 30, "the broker to know the partitions")
    assert (found.topic, found.setting, found.found) == (topic, "partitions", "3")
    assert "delete" in found.fix and "klais topics create" in found.fix
    with pytest.raises(TopicMismatch, match="partitions is 3"):
        ensure_topics(settings, fix=True)

    def recreated() -> bool:
        try:
            return ensure_topics(settings) == [topic]
        except (KafkaException, TopicMismatch):  # Kafka deletes asynchronously
            return False

    for done in admin.delete_topics([topic]).values():
        done.result(30)
    wait_for(recreated, 60, f"{topic} to be created again", 0.3)
    assert check_topics(settings) == []
