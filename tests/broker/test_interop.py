"""Readers that nobody here wrote: kcat (librdkafka's own tool), Apache Kafka's command-line tools, and three clients.

They read what KLAIS's own record batches put into the log, with the holes that a killed worker's epoch leaves. The
clients are those of examples/: Kafka Streams, franz-go and KafkaJS. They come from their registries, so they are part
of `make release-test`.
"""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewTopic

from klais.broker.jars import find_java
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import read_all
from tests.support.kafka_tools import classpath, kafka_tool
from tests.support.needs import need_command, need_missing
from tests.support.process import PATIENCE, clean_environ, kill_hard, wait_for
from tests.support.stage import Stage, stage
from tests.support.topics import create_topics

EXAMPLES = Path(__file__).parents[2] / "examples"
WINDOW_MS = 60_000
DEVICES, ROUNDS = 40, 10
PAYLOAD = '{"temperature":21.5,"ort":"Küche"}'.encode()


def landed(all_of: tuple[str, str, int], count: int) -> bool:
    return len(read_all(*all_of)) >= count


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, list[Message]]]:
    """A broker on which an edge and two workers, the first one killed, left their records; and the clean ones."""
    logs = tmp_path_factory.mktemp("logs")
    with stage(partitions=2) as it:
        all_of = it.settings.bootstrap, Topics.of(it.settings).telemetry, 2
        edge = it.edge(logs / "edge.log")
        edge.wait_status(200)
        for part in (1, 2):
            worker = it.worker(logs / f"worker-{part}.log")
            worker.wait_ready()
            first = (part - 1) * ROUNDS
            edge.send(
                [encode_frame(f"dev-{d}", first + n, PAYLOAD) for n in range(ROUNDS) for d in range(DEVICES)]
                + [encode_frame("dev-0", 1, b"{")]
            )
            count = part * ROUNDS * DEVICES
            wait_for(partial(landed, all_of, count), 60, "all clean records", 0.5)
            worker.kill()
        clean = read_all(*all_of)
        assert len(clean) == 2 * ROUNDS * DEVICES
        yield it, clean


def kcat(bootstrap: str, *options: str, given: str = "") -> str:
    """What kcat prints. It writes the bytes of headers into its JSON as they are, so they may be no UTF-8."""
    command = [need_command("kcat", "kcat"), "-b", bootstrap, *options]
    done = subprocess.run(command, input=given.encode(), check=True, capture_output=True, timeout=60 * PATIENCE)
    return done.stdout.decode(errors="replace")


def places(rows: list[dict[str, Any]]) -> dict[tuple[int, int], tuple[str, str, int]]:
    return {(row["partition"], row["offset"]): (row["key"], row["payload"], row["ts"]) for row in rows}


def test_kcat_reads_committed_records_with_keys_values_times_and_headers(filled: tuple[Stage, list[Message]]) -> None:
    it, clean = filled
    topic = Topics.of(it.settings).telemetry
    out = kcat(it.settings.bootstrap, "-C", "-t", topic, "-e", "-q", "-J", "-X", "isolation.level=read_committed")
    rows = [json.loads(line) for line in out.splitlines()]
    ours = [
        {"partition": m.partition(), "offset": m.offset(), "ts": m.timestamp()[1]}
        | {"key": m.key().decode(), "payload": m.value().decode()}
        for m in clean
    ]
    assert len(rows) == len(ours) and places(rows) == places(ours)
    headers = sorted(row.get("headers", [])[::2] for row in rows)
    assert headers == sorted([name for name, _ in m.headers() or []] for m in clean)
    assert any(headers), "some records carry the marks of steps"


def test_kcat_puts_a_device_into_the_partition_that_klais_chose(filled: tuple[Stage, list[Message]]) -> None:
    it, clean = filled
    chosen = {m.key().decode(): m.partition() for m in clean}
    lines = "".join(f"{device}|x\n" for device in chosen)
    topic = Topics.of(it.settings).anomalies  # co-partitioned, and nothing wrote to it here
    kcat(it.settings.bootstrap, "-P", "-t", topic, "-K", "|", "-X", "topic.partitioner=murmur2", given=lines)
    found = read_all(it.settings.bootstrap, topic, 2)
    assert {m.key().decode(): m.partition() for m in found if m.value() == b"x"} == chosen


def test_kafkas_own_tool_finds_no_fault_in_any_segment(filled: tuple[Stage, list[Message]]) -> None:
    it, clean = filled
    topics = Topics.of(it.settings)
    folders = {
        path.parent for path in Path(it.settings.state_dir).rglob("*.log") if re.search(r"-\d+$", path.parent.name)
    }
    for topic in (topics.raw, topics.journal, topics.telemetry, topics.dead_letter):
        files = [str(f) for d in folders if d.name.rpartition("-")[0] == topic for f in sorted(d.glob("*.log"))]
        assert len(files) >= 2, topic
        shown = kafka_tool("DumpLogSegments", "--deep-iteration", "--files", ",".join(files))
        batches = [line for line in shown.splitlines() if line.startswith("baseOffset:")]
        assert batches and all("isvalid: true" in line for line in batches), topic
        records = [line for line in shown.splitlines() if line.startswith("| offset:")]
        if topic == topics.telemetry:
            assert len([line for line in records if "endTxnMarker" not in line]) == len(clean)
            assert any("compresscodec: lz4" in line for line in batches), "the readers here have something to unpack"


def test_kafkas_console_consumer_reads_every_committed_record_once(filled: tuple[Stage, list[Message]]) -> None:
    it, clean = filled
    topic = Topics.of(it.settings).telemetry
    options = ["--bootstrap-server", it.settings.bootstrap, "--topic", topic, "--from-beginning"]
    options += ["--isolation-level", "read_committed", "--max-messages", str(len(clean))]
    out = kafka_tool("consumer.ConsoleConsumer", *options)
    assert sorted(out.encode().splitlines()) == sorted(m.value() for m in clean)


def example(name: str, folder: Path) -> Path:
    """A copy of an example's folder, to build in."""
    if os.environ.get("KLAIS_TEST_CLIENTS") != "1":
        need_missing("clients", "set KLAIS_TEST_CLIENTS=1")
    return Path(shutil.copytree(EXAMPLES / name, folder / name))


def ran(*command: str, folder: Path, **environ: str) -> str:
    """What a command prints; its errors in the message where it fails."""
    env = clean_environ() | environ
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def go_reader(folder: Path) -> list[str]:
    go = need_command("clients", "go")
    ran(go, "build", "-o", "read", ".", folder=folder, CGO_ENABLED="0", GOTOOLCHAIN="local", GOFLAGS="-mod=readonly")
    return [str(folder / "read")]


def node_reader(folder: Path) -> list[str]:
    ran(need_command("clients", "npm"), "ci", "--ignore-scripts", folder=folder)
    return [need_command("clients", "node"), "read.js"]


@pytest.mark.parametrize(("name", "build"), [("franz-go", go_reader), ("kafkajs", node_reader)])
def test_a_client_in_another_language_reads_every_committed_record_as_librdkafka_does(
    filled: tuple[Stage, list[Message]], tmp_path: Path, name: str, build: Callable[[Path], list[str]]
) -> None:
    it, clean = filled
    folder = example(name, tmp_path)
    topic = Topics.of(it.settings).telemetry
    out = ran(*build(folder), it.settings.bootstrap, topic, str(len(clean)), folder=folder)
    rows = sorted((json.loads(line) for line in out.splitlines()), key=lambda r: (r["partition"], r["offset"]))
    assert rows == [
        {"partition": m.partition(), "offset": m.offset(), "at_ms": m.timestamp()[1]}
        | {"key": m.key().decode(), "payload": m.value().decode()}
        | {"headers": [[header, value.hex()] for header, value in m.headers() or []]}
        for m in clean
    ]


class Streams:
    """The example of Kafka Streams, compiled; a process of it writes its lines to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, jars = folder, classpath("clients", "kafka-streams")
        compiler = need_command("clients", "javac")
        ran(compiler, "-Xlint:all", "-Werror", "-cp", jars, "DeviceNames.java", folder=folder)
        self.command = [find_java(), "-Xmx256m", "-cp", f"{jars}:{folder}", "DeviceNames"]

    def write(self, bootstrap: str, topic: str, devices: list[str]) -> None:
        ran(*self.command, "write", bootstrap, topic, *devices, folder=self.folder)

    def start(self, *what: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "out", "wb") as out, open(self.folder / "log", "wb") as log:
            command = [*self.command, "run", *what, str(self.folder / "state")]
            return subprocess.Popen(command, stdout=out, stderr=log)

    def printed(self) -> str:
        return (self.folder / "out").read_text()

    def rows(self, what: str) -> list[list[str]]:
        """The fields of the complete lines of one kind."""
        lines = self.printed().rpartition("\n")[0].splitlines()
        return [line.split("\t")[1:] for line in lines if line.startswith(f"{what}\t")]


def test_kafka_streams_joins_every_device_with_a_table_of_javas_producer_and_repartitions_nothing(
    filled: tuple[Stage, list[Message]], tmp_path: Path
) -> None:
    it, clean = filled
    streams = Streams(example("kafka-streams", tmp_path))
    bootstrap, telemetry, names = it.settings.bootstrap, Topics.of(it.settings).telemetry, "device-names"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    create_topics(admin, NewTopic(names, 2, 1))
    sent = Counter(m.key().decode() for m in clean)
    streams.write(bootstrap, names, sorted(sent))
    windows = Counter((m.key().decode(), m.timestamp()[1] // WINDOW_MS * WINDOW_MS) for m in clean)
    process = streams.start(bootstrap, telemetry, names)
    try:
        wait_for(lambda: process.poll() is not None or counted(streams) == windows, 120, "the counts", 0.2)
        process.terminate()
        process.wait(30 * PATIENCE)
    finally:
        kill_hard(process)
    assert counted(streams) == windows, (tmp_path / "kafka-streams" / "log").read_text()[-3000:]
    joined = Counter((device, name) for device, name in streams.rows("joined"))
    assert joined == {(device, f"name of {device}"): count for device, count in sent.items()}
    assert "Sub-topology" in streams.printed() and "repartition" not in streams.printed()
    topics = admin.list_topics(timeout=20 * PATIENCE).topics
    assert names in topics and not [topic for topic in topics if "repartition" in topic]


def counted(streams: Streams) -> dict[tuple[str, int], int]:
    """The newest count of each device and window."""
    return {(device, int(window)): int(count) for device, window, count in streams.rows("count")}
