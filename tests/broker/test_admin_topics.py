"""Topics on a real broker: created as declared, refused when they do not fit, fixed on request."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, TopicMismatch
from klais.kafka.admin import check_topics, ensure_topics, list_topics, wait_for_broker
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from tests.support.ports import free_port
from tests.support.process import PATIENCE
from tests.support.topics import create_topics

Make = Callable[..., Settings]


def _new(settings: Settings, *topics: NewTopic) -> None:
    create_topics(admin_client(settings), *topics)


def test_missing_topics_are_created_as_declared_and_found_right(settings_for: Make) -> None:
    settings = settings_for(partitions=3)
    specs = Topics.of(settings).specs()
    assert {m.setting for m in check_topics(settings)} == {"missing"}
    assert sorted(ensure_topics(settings)) == sorted(spec.name for spec in specs)
    assert check_topics(settings) == []
    assert ensure_topics(settings) == [], "the second time there is nothing to do"
    states = {state.name: state for state in list_topics(settings)}
    for spec in specs:
        assert states[spec.name].partitions == spec.partitions
        assert states[spec.name].records == 0
        wanted = {**spec.defaults, **spec.config}
        assert {name: states[spec.name].config[name] for name in wanted} == wanted


def test_one_missing_topic_is_created_beside_the_others(settings_for: Make) -> None:
    settings = settings_for(partitions=2)
    names = Topics.of(settings)
    raw = next(spec for spec in names.specs() if spec.name == names.raw)
    _new(settings, NewTopic(raw.name, num_partitions=2, replication_factor=1, config=raw.config))
    created = ensure_topics(settings)
    assert names.raw not in created and names.journal in created


@pytest.mark.parametrize("which", ["raw", "journal", "devices_changelog", "telemetry"])
def test_other_partition_count_is_refused_with_what_to_do(settings_for: Make, which: str) -> None:
    settings = settings_for(partitions=2)
    name = getattr(Topics.of(settings), which)
    spec = next(spec for spec in Topics.of(settings).specs() if spec.name == name)
    _new(settings, NewTopic(name, num_partitions=3, replication_factor=1, config=spec.config))
    for fix in (False, True):
        with pytest.raises(TopicMismatch) as caught:
            ensure_topics(settings, fix=fix)
        for part in (name, "partitions is 3, must be 2", "KLAIS_PARTITIONS=3", "KLAIS_TOPIC_PREFIX"):
            assert part in str(caught.value)
    assert [state.name for state in list_topics(settings)] == [name], "nothing is created beside a refused topic"


def test_wrong_settings_are_refused_all_together_and_fixed_on_request(settings_for: Make) -> None:
    small = {"retention.ms": "60000", "max.message.bytes": "9999"}
    settings = settings_for(partitions=1)
    names = Topics.of(settings)
    _new(
        settings,
        NewTopic(names.raw, num_partitions=1, replication_factor=1, config=small),
        NewTopic(names.control, num_partitions=1, replication_factor=1, config={"cleanup.policy": "delete"}),
    )
    with pytest.raises(TopicMismatch) as caught:
        ensure_topics(settings)
    text = str(caught.value)
    assert f"topic {names.raw}: retention.ms is 60000, must be 86400000" in text
    assert f"topic {names.raw}: max.message.bytes is 9999, must be 4194304" in text
    assert f"topic {names.control}: cleanup.policy is delete, must be compact" in text
    assert "klais topics create --fix" in text and "kafka-configs --alter" in text
    ensure_topics(settings, fix=True)
    assert check_topics(settings) == []


def test_order_of_cleanup_policies_does_not_matter(settings_for: Make) -> None:
    settings = settings_for()
    names = Topics.of(settings)
    spec = next(spec for spec in names.specs() if spec.name == names.stats)
    config = {**spec.config, "cleanup.policy": ",".join(reversed(spec.config["cleanup.policy"].split(",")))}
    _new(settings, NewTopic(names.stats, num_partitions=1, replication_factor=1, config=config))
    assert names.stats not in {m.topic for m in check_topics(settings)}


def test_longer_retention_and_the_operators_own_choices_are_accepted(settings_for: Make) -> None:
    settings = settings_for(partitions=1)
    names = Topics.of(settings)
    time = {"message.timestamp.type": "LogAppendTime"}
    longer = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": "8388608", **time}
    short = {"cleanup.policy": "delete", "retention.ms": "3600000", "max.message.bytes": "4194304", **time}
    own = {"cleanup.policy": "compact", "max.message.bytes": "4194304", "segment.bytes": "52428800", **time}
    _new(
        settings,
        NewTopic(names.raw, num_partitions=1, replication_factor=1, config=longer),
        NewTopic(names.telemetry, num_partitions=1, replication_factor=1, config=short),
        NewTopic(names.devices_changelog, num_partitions=1, replication_factor=1, config=own),
    )
    ensure_topics(settings)
    assert check_topics(settings) == []
    (journal,) = [state for state in list_topics(settings) if state.name == names.journal]
    assert journal.config["retention.ms"] == "-1", "a journal is kept as long as the raw records that it decides about"


def test_a_journal_that_expires_before_its_raw_records_is_refused_and_fixed(settings_for: Make) -> None:
    settings = settings_for(partitions=1)
    names = Topics.of(settings)
    ensure_topics(settings)
    week = ConfigEntry("retention.ms", "604800000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, names.raw, incremental_configs=[week])
    admin = admin_client(settings)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    (mismatch,) = check_topics(settings)
    assert (mismatch.topic, mismatch.setting, mismatch.wanted) == (names.journal, "retention.ms", "604800000")
    assert names.raw in mismatch.fix and "--fix" in mismatch.fix
    ensure_topics(settings, fix=True)
    assert check_topics(settings) == []


def test_prefixes_keep_two_systems_apart(settings_for: Make) -> None:
    one, two = settings_for(partitions=1), settings_for(partitions=2)
    ensure_topics(one)
    ensure_topics(two)
    assert check_topics(one) == [] == check_topics(two)
    assert not {s.name for s in list_topics(one)} & {s.name for s in list_topics(two)}


def test_list_everything_shows_topics_of_others(settings_for: Make) -> None:
    settings = settings_for()
    stranger = settings.topic_prefix + "somebody-elses"
    _new(settings, NewTopic(stranger, num_partitions=1, replication_factor=1))
    assert stranger in {state.name for state in list_topics(settings, everything=True)}
    assert stranger not in {state.name for state in list_topics(settings)}


def test_waiting_for_a_broker_says_so_and_gives_up_in_time(settings_for: Make) -> None:
    settings = settings_for()
    nobody = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    said: list[str] = []
    with pytest.raises(KafkaUnavailable, match="does not answer") as caught:
        wait_for_broker(nobody, timeout_s=1.5, on_wait=said.append)
    assert caught.value.retriable
    assert nobody.bootstrap in str(caught.value)
    assert said and "waiting for it" in said[0] and nobody.bootstrap in said[0]
    assert wait_for_broker(settings, timeout_s=30 * PATIENCE) is not None


def test_a_mismatch_names_the_lists_as_kafka_configs_wants_them(settings_for: Make) -> None:
    from klais.kafka.admin import TopicState, compare

    spec = next(s for s in Topics.of(settings_for()).specs() if "," in s.config["cleanup.policy"])
    state = TopicState(spec.name, 1, 1, {**spec.config, "cleanup.policy": "delete"}, None)
    (found,) = compare([replace(spec)], {spec.name: state})
    assert "--add-config cleanup.policy=[compact,delete]" in found.fix


def test_fewer_replicas_than_asked_for_are_refused(settings_for: Make) -> None:
    one = settings_for(partitions=1)
    ensure_topics(one)
    three = one.model_copy(update={"replication": 3})
    wrong = check_topics(three)
    assert {m.setting for m in wrong} == {"replication", "min.insync.replicas"}
    with pytest.raises(TopicMismatch, match="replication is 1, must be at least 3"):
        ensure_topics(three)


def test_topics_that_are_flushed_before_the_acknowledgement(settings_for: Make) -> None:
    settings = settings_for(partitions=1, kafka_flush="each")
    ensure_topics(settings)
    names = Topics.of(settings)
    flushed = {state.name for state in list_topics(settings) if state.config["flush.messages"] == "1"}
    assert flushed == {names.raw, names.journal}
