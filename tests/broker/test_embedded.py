"""The embedded broker as an owned child: its data, its end, its owner's end, and what stands in its way."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer

from klais.broker import daemon
from klais.broker.config import BrokerFiles
from klais.broker.embedded import EmbeddedKafka, answers, read_owner, running_owner
from klais.config.load import Settings, environ_of
from klais.errors import BrokerOwned, KafkaUnavailable, PortInUse
from klais.kafka.admin import ensure_topics
from klais.kafka.topics import Topics
from klais.system.ports import holder
from tests.support.ports import free_port
from tests.support.process import PATIENCE, wait_for


@pytest.fixture
def own(kafka: str, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a broker of the test's own (``kafka`` only tells that Java and jars are there)."""
    settings = Settings(state_dir=tmp_path / "state", kafka_port=free_port(), kafka_heap_mb=256)
    yield settings
    owner = read_owner(settings)
    if owner is not None:  # a test failed half-way: leave nothing behind
        for process in _brokers(settings):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _brokers(settings: Settings) -> list[psutil.Process]:
    mark = str(BrokerFiles(settings).properties)
    return [p for p in psutil.process_iter() if mark in _words(p)]


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


def _klais(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environ_of(settings)}
    command = [sys.executable, "-m", "klais", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120 * PATIENCE, check=False)


def _read_one(bootstrap: str, topic: str) -> bytes | None:
    group = {"group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": bootstrap, **group})
    try:
        consumer.subscribe([topic])
        message = consumer.poll(30 * PATIENCE)
        value: bytes | None = message.value() if message is not None else None
        return value
    finally:
        consumer.close()


def test_data_survive_a_restart_and_a_clean_stop_leaves_nothing(own: Settings) -> None:
    raw = Topics.of(own).raw
    said: list[str] = []
    with EmbeddedKafka(own, said.append) as broker:
        assert broker.running and broker.pid is not None
        ensure_topics(own)
        producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
        producer.produce(raw, b"kept", partition=0)
        assert producer.flush(10 * PATIENCE) == 0
    assert not _brokers(own) and running_owner(own) is None
    assert any("starting" in text for text in said)
    assert (BrokerFiles(own).data / ".kafka_cleanshutdown").exists(), "the next start recovers no log"
    with EmbeddedKafka(own) as broker:
        assert ensure_topics(own) == [], "the topics are still there"
        assert _read_one(broker.bootstrap, raw) == b"kept"
    assert _errors(own) == [], "a clean stop and start logs no error"


def _errors(settings: Settings) -> list[str]:
    """Errors in Kafka's log, without that of a node which registered before it became the active controller."""
    lines = BrokerFiles(settings).server_log.read_text().splitlines()
    after = [*lines[1:], ""]
    pairs = zip(lines, after, strict=True)
    return [line for line, cause in pairs if " ERROR " in line and "NotControllerException" not in cause]


def test_a_thread_that_started_it_may_end(own: Settings) -> None:
    broker = EmbeddedKafka(own)
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    try:
        assert not broker.wait(1.0), "the broker would end with its starter if the kernel watched that thread"
        assert answers(own.kafka_port)
    finally:
        broker.stop()


def test_an_owner_killed_leaves_no_orphan_and_the_next_one_starts(own: Settings) -> None:
    code = (
        "import sys, time; from klais.config.load import load; from klais.broker.embedded import EmbeddedKafka\n"
        "EmbeddedKafka(load()).start(); print('ready', flush=True); time.sleep(600)"
    )
    env = {**os.environ, **environ_of(own)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
        assert len(_brokers(own)) == 1
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    # At once, while the old broker may still be on its way out: the new owner waits for its end.
    with EmbeddedKafka(own) as broker:
        assert [p.pid for p in _brokers(own)] == [broker.pid]
        owner_now = running_owner(own)
        assert owner_now is not None and owner_now.pid == os.getpid()
    wait_for(lambda: not _brokers(own), 30, "the end of the last broker")


def test_an_owner_killed_alone_leaves_no_orphan(own: Settings) -> None:
    daemon.start(own, lambda text: None)
    owner = running_owner(own)
    assert owner is not None and len(_brokers(own)) == 1
    os.kill(owner.pid, signal.SIGKILL)
    wait_for(lambda: not _brokers(own), 30, "the end of the broker, which must not outlive its owner")
    assert running_owner(own) is None


def test_a_port_that_is_taken_is_named_with_its_holder(own: Settings, kafka: str) -> None:
    taken = own.model_copy(update={"kafka_port": int(kafka.rpartition(":")[2])})
    with pytest.raises(PortInUse) as caught:
        EmbeddedKafka(taken).start()
    assert f"tcp port {taken.kafka_port}" in str(caught.value) and "KLAIS_KAFKA_PORT" in str(caught.value)
    assert str(holder(taken.kafka_port)) in str(caught.value)
    assert running_owner(taken) is None, "a failed start lets the state folder go"


def test_a_second_owner_is_refused(own: Settings) -> None:
    with EmbeddedKafka(own, command="klais up") as broker:
        other = own.model_copy(update={"kafka_port": free_port()})
        with pytest.raises(BrokerOwned) as caught:
            EmbeddedKafka(other).start()
        for part in ("klais up", f"pid {os.getpid()}", broker.bootstrap, "KLAIS_STATE_DIR"):
            assert part in str(caught.value)
        with pytest.raises(BrokerOwned, match="klais up"):
            daemon.start(other, lambda text: None)
        with pytest.raises(BrokerOwned, match="klais up"):
            daemon.stop(own)
        assert broker.running


def test_a_broker_that_ends_at_its_start_says_why(own: Settings) -> None:
    files = BrokerFiles(own)
    files.data.mkdir(parents=True)
    (files.data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=another\n")
    with pytest.raises(KafkaUnavailable) as caught:
        EmbeddedKafka(own).start()
    assert "node.id" in str(caught.value) or "node id" in str(caught.value).lower()
    assert not _brokers(own) and running_owner(own) is None


def test_commands_start_show_and_stop_it(own: Settings) -> None:
    before = _klais(own, "kafka", "status", "--json")
    assert before.returncode == 3 and json.loads(before.stdout)["running"] is False
    started = _klais(own, "kafka", "start", "--json")
    assert started.returncode == 0, started.stderr
    state = json.loads(started.stdout)
    assert state["ready"] and state["bootstrap"] == own.bootstrap and state["owner"] == "klais kafka run"
    assert [p.pid for p in _brokers(own)] == [state["pid"]]
    again = _klais(own, "kafka", "start", "--json")
    assert json.loads(again.stdout)["pid"] == state["pid"], "the second start finds the first one's broker"
    assert _klais(own, "topics", "check").returncode == 1
    created = _klais(own, "topics", "create", "--json")
    assert len(json.loads(created.stdout)["created"]) == len(Topics.of(own).specs())
    assert _klais(own, "topics", "check").returncode == 0
    listed = json.loads(_klais(own, "topics", "list", "--json").stdout)
    assert {row["name"] for row in listed} == {spec.name for spec in Topics.of(own).specs()}
    other = own.model_copy(update={"state_dir": own.state_dir / "other"})
    refused = _klais(other, "kafka", "start")
    assert refused.returncode == 1 and "is taken by java kafka.Kafka" in refused.stderr
    assert _klais(own, "kafka", "stop").stdout == "Apache Kafka stopped\n"
    assert not _brokers(own)
    assert _klais(own, "kafka", "stop").stdout == "Apache Kafka was not running\n"
    assert _klais(own, "kafka", "status").returncode == 3
