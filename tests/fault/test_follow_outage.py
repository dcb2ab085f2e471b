"""Commands that follow a topic say on stderr when the brokers do not answer, and when they do again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import clean_environ, wait_for

FOLLOWING = (("tail", "control", "-f", "--json"), ("control", "watch", "--json"))


def test_an_outage_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    from confluent_kafka import Producer

    settings = Settings(state_dir=tmp_path / "state", kafka_port=free_port(), partitions=1, kafka_heap_mb=256)
    broker = EmbeddedKafka(settings, command="pytest")
    environ = clean_environ() | {
        "KLAIS_STATE_DIR": str(settings.state_dir),
        "KLAIS_KAFKA_PORT": str(settings.kafka_port),
    }
    said = [tmp_path / f"{words[0]}.log" for words in FOLLOWING]
    shown = [tmp_path / f"{words[0]}.out" for words in FOLLOWING]
    started: list[subprocess.Popen[bytes]] = []

    def decide(rate: int) -> None:
        producer = Producer(confluent_config(settings))
        record = {"rate": rate, "reason": "x", "at": rate, "by": "c", "author": "c", "term": 1}
        producer.produce(Topics.of(settings).control, json.dumps(record).encode(), b"global", partition=0)
        assert producer.flush(60) == 0

    def everywhere(files: list[Path], text: str) -> None:
        wait_for(lambda: all(text in file.read_text() for file in files), 60, lambda: f"{text!r}: {files}")

    try:
        try:
            broker.start()
        except SetupMissing as error:
            need_missing("broker", str(error))
        ensure_topics(settings)
        decide(1000)
        for words, out, err in zip(FOLLOWING, shown, said, strict=True):
            command = [sys.executable, "-m", "klais", *words]
            with out.open("wb") as to, err.open("wb") as errors:
                started.append(subprocess.Popen(command, env=environ, stdout=to, stderr=errors))
        everywhere(shown, "1000")
        assert [file.read_text() for file in said] == ["", ""]
        process = psutil.Process(broker.pid)
        process.send_signal(signal.SIGSTOP)
        everywhere(said, "klais: no broker has answered for 8 s: waiting for it, Ctrl-C ends this")
        process.send_signal(signal.SIGCONT)
        everywhere(said, "can be read again")
        decide(2000)
        everywhere(shown, "2000")
        assert [len(file.read_text().splitlines()) for file in said] == [2, 2]
    finally:
        for process in started:
            process.terminate()
            process.wait()
        broker.stop()
