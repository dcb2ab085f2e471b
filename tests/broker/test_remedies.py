"""What a refusal tells you to do works: each test reads the command or the setting out of the text, and does it.

The edge's refusals of a partition count and of old segments are in ``tests/fault/test_spool.py``, rights in
``test_rights.py``.
"""

import re
import shlex
import struct
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.core.lane.journal import VERSION as JOURNAL_VERSION
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool import folder as spool_folders
from klais.edge.sinks.spool.backlog import Backlog
from klais.edge.sinks.spool.folder import warn_of_spools_left_behind
from klais.errors import SpoolInUse, TopicMismatch
from klais.kafka.admin import check_topics, ensure_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from klais.worker.changelog import marker_key
from tests.support.lanes import Edge, caught_up, landed, lanes, live, records, until
from tests.support.topics import alter

COMMAND = re.compile(r"`(klais [^`]+)`")


def run(text: str, settings: Settings) -> None:
    """Run the command that a text names, as a user does."""
    found = COMMAND.findall(text)
    assert found, f"no command in: {text}"
    words = shlex.split(found[-1])[1:]
    done = CliRunner().invoke(main, words, env=environ_of(settings))
    assert done.exit_code == 0, f"{found[-1]}: {done.output}"


def with_setting(text: str, settings: Settings) -> Settings:
    """The settings with the ``NAME=value`` that a text names."""
    found = re.search(r"set KLAIS_([A-Z_]+)=(\w+)", text)
    assert found, f"no setting in: {text}"
    return Settings(**(settings.model_dump() | {found[1].lower(): found[2]}))


async def refused(settings: Settings, wanted: str) -> str:
    """Why lane 0 does not become live."""
    async with lanes(settings) as found:
        text = await until(lambda: found[0].failure, "a refusal")
        assert wanted in text, text
        return text


async def goes_on(settings: Settings, boot: int) -> None:
    """A lane becomes live, and what an edge sends lands."""
    before = sum(landed(settings).values())
    async with lanes(settings) as found:
        await live(found[0])
        edge = Edge(settings, boot=boot)
        edge.send(3, f"boot{boot}")
        await caught_up(settings, found[0])
    assert sum(landed(settings).values()) == before + edge.sent


def wrong_values(settings: Settings) -> list[tuple[str, str, str]]:
    """(topic, setting, wrong value) of each setting that KLAIS requires of a topic."""
    wrong = {"cleanup.policy": ("compact", "delete"), "message.timestamp.type": ("CreateTime",) * 2}
    out = []
    for spec in Topics.of(settings).specs():
        for name, value in spec.config.items():
            other = wrong[name][value == "compact"] if name in wrong else "1000"
            out.append((spec.name, name, other))
    return out


def test_wrong_topic_settings_are_set_right_by_the_command_that_their_text_names(settings_for, topics_of):
    settings = settings_for(partitions=1)
    topics_of(settings)
    wanted = wrong_values(settings)
    for topic, name, value in wanted:
        alter(settings, topic, **{name: value})
    found = check_topics(settings)
    assert {(m.topic, m.setting) for m in found} == {(topic, name) for topic, name, _ in wanted}
    for mismatch in found[:1]:
        run(str(mismatch), settings)
    assert check_topics(settings) == []


def test_missing_topics_are_made_by_the_command_that_their_text_names(settings_for):
    settings = settings_for(partitions=1)
    missing = check_topics(settings)
    assert {m.setting for m in missing} == {"missing"}
    run(str(missing[0]), settings)
    assert check_topics(settings) == []


def test_another_partition_count_is_accepted_under_the_setting_that_its_text_names(settings_for, topics_of):
    settings = settings_for(partitions=2)
    topics_of(settings)
    wrong = settings.model_copy(update={"partitions": 5})
    with pytest.raises(TopicMismatch) as error:
        ensure_topics(wrong)
    assert check_topics(with_setting(str(error.value), wrong)) == []


async def test_a_lane_of_another_partition_count_goes_on_when_it_is_set_back_or_under_a_new_prefix(
    settings_for, topics_of
):
    settings = settings_for(partitions=1, checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    await goes_on(settings, 1)
    keyed = [spec.name for spec in topics.specs() if spec.name not in (topics.stats, topics.control)]
    admin = admin_client(settings)
    for done in admin.create_partitions([NewPartitions(name, 2) for name in keyed]).values():
        done.result(60)
    two = settings.model_copy(update={"partitions": 2})
    text = await refused(two, "devices would change lanes")
    assert "set it back" in text and "KLAIS_TOPIC_PREFIX" in text
    await goes_on(settings, 2)
    new = two.model_copy(update={"topic_prefix": f"{settings.topic_prefix}new-"})
    topics_of(new)
    await goes_on(new, 3)


def write(settings: Settings, topic: str, key: bytes | None, value: bytes) -> None:
    """A record of another version of KLAIS."""
    producer = Producer({"bootstrap.servers": settings.bootstrap, "log_level": 0})
    producer.produce(topic, value, key, partition=0)
    assert producer.flush(30) == 0


@pytest.mark.parametrize("what", ["journal", "marker"])
async def test_records_of_another_version_are_refused_and_a_new_prefix_goes_on(settings_for, topics_of, what):
    settings = settings_for(partitions=1, checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    await goes_on(settings, 1)
    if what == "journal":
        newest = [r.value for r in records(settings, topics.journal) if r.value[:4] == b"KLJ1"][-1]
        other = bytearray(newest)
        other[4] = JOURNAL_VERSION + 1
        write(settings, topics.journal, None, bytes(other))
        text = await refused(settings, f"version {JOURNAL_VERSION + 1}")
    else:
        head = b'{"version":99,"row_version":1,"tally":[]}'
        write(settings, topics.devices_changelog, marker_key(0), struct.pack("<4sIII", b"KLM1", len(head), 0, 0) + head)
        text = await refused(settings, "version 99.1")
    assert "KLAIS_TOPIC_PREFIX" in text
    new = settings.model_copy(update={"topic_prefix": f"{settings.topic_prefix}new-"})
    topics_of(new)
    await goes_on(new, 2)


async def test_a_changelog_that_refuses_all_records_is_fixed_by_the_command_that_the_lane_names(
    settings_for, topics_of
):
    """Rows and markers are never given up: the lane tries until somebody mends the topic."""
    settings = settings_for(partitions=1, checkpoint_interval_s=0.3)
    topics = topics_of(settings)
    edge = Edge(settings)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(3)
        await caught_up(settings, found[0])
        alter(settings, topics.devices_changelog, max_message_bytes=80)
        edge.send(1)
        text = await until(lambda: found[0].failure, "a refusal")
        run(text, settings)
        edge.send(3)
        await caught_up(settings, found[0])
    assert len(landed(settings)) == edge.sent


def built(number: int) -> ClosedBatch:
    return ClosedBatch(encode_batch([b"f" * 40], time.time_ns(), 1, 9, number), 0, 1)


def test_a_second_edge_with_the_same_spool_gets_one_by_the_setting_that_its_text_names(tmp_path: Path):
    settings = Settings(state_dir=tmp_path)
    first = Backlog(settings, Counts())
    with pytest.raises(SpoolInUse, match=r"KLAIS_EDGE_ID \(or KLAIS_SPOOL_DIR\)"):
        Backlog(settings, Counts(), 0.1)
    for more in ({"edge_id": 2}, {"spool_dir": tmp_path / "other"}):
        (more.get("spool_dir") or tmp_path).mkdir(mode=0o700, exist_ok=True)
        other = Backlog(Settings(state_dir=tmp_path, **more), Counts())
        assert other.append(built(0), 0.0) is Reason.PASSED
        other.close()
    first.close()


def test_a_spool_left_behind_is_delivered_by_an_edge_with_the_id_that_the_log_names(tmp_path: Path, caplog):
    old = Backlog(Settings(state_dir=tmp_path, edge_id=7), Counts())
    assert old.append(built(0), 0.0) is Reason.PASSED
    old.close()
    warn_of_spools_left_behind(Settings(state_dir=tmp_path), [1])
    (left,) = spool_folders.spools_left_behind(Settings(state_dir=tmp_path), [1])
    assert "spools_left_behind" in caplog.text
    edge_id = int(left.name.removeprefix("spool-"))
    again = Backlog(Settings(state_dir=tmp_path, edge_id=edge_id), Counts())
    assert again.next() is not None
    again.close()
