"""Readers that nobody here wrote: kcat (librdkafka's own tool) and Apache Kafka's command-line tools.

They read what KLAIS's own record batches put into the log, with the holes that a killed worker's epoch leaves.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import read_all
from tests.support.kafka_tools import kafka_tool
from tests.support.needs import need_command
from tests.support.process import PATIENCE, wait_for
from tests.support.stage import Stage, stage

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


def test_kafkas_console_consumer_reads_every_committed_record_once(filled: tuple[Stage, list[Message]]) -> None:
    it, clean = filled
    topic = Topics.of(it.settings).telemetry
    options = ["--bootstrap-server", it.settings.bootstrap, "--topic", topic, "--from-beginning"]
    options += ["--isolation-level", "read_committed", "--max-messages", str(len(clean))]
    out = kafka_tool("consumer.ConsoleConsumer", *options)
    assert sorted(out.encode().splitlines()) == sorted(m.value() for m in clean)
