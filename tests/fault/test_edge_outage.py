"""Kafka comes late, freezes and goes away, for an edge without a spool: it says so, drops with a count, delivers the
rest.
"""

import shutil
import signal
import tempfile
from pathlib import Path

import psutil

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.kafka.topics import Topics
from tests.support.edge import balanced, edge_process, read_all
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import wait_for

MIB = 1 << 20


def start_broker(settings: Settings) -> EmbeddedKafka:
    broker = EmbeddedKafka(settings, command="pytest")
    try:
        broker.start()
    except SetupMissing as error:
        need_missing("broker", str(error))
    return broker


def distinct(settings: Settings) -> set[bytes]:
    """Frames on the staging topic; those of a batch that was sent again because nobody acknowledged it, once."""
    batches = {}
    for message in read_all(settings.bootstrap, Topics.of(settings).raw, 2):
        batch = decode_batch(message.value())
        batches[message.partition(), batch.boot, batch.number] = batch
    return {batch.frame(i) for batch in batches.values() for i in range(batch.count)}


def test_kafka_late_then_frozen_then_gone(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="klais-edge-"))
    settings = Settings(
        state_dir=folder, kafka_port=free_port(), partitions=2, kafka_heap_mb=256, publish_max_inflight_bytes=MIB,
        spool_max_bytes=0, breaker_timeout_s=2,
    )  # fmt: skip
    broker = None
    frames = [encode_frame(f"dev-{k % 20}", k, b'{"t":%d}' % k + b" " * 400) for k in range(8000)]
    try:
        with edge_process(settings, tmp_path / "edge.log") as edge:
            problems = edge.wait_status(503)["problems"]
            assert wait_for(lambda: any("no Kafka" in p for p in edge.wait_status(503)["problems"]), 20, str(problems))
            edge.send(frames[:300])  # kept in memory: there is no spool
            wait_for(lambda: edge.counters()["held"] == 300, 20, "frames held before Kafka has ever answered")
            broker = start_broker(settings)
            assert wait_for(
                lambda: "klais topics create" in str(edge.wait_status(503)), 20, "word of the missing topics"
            )
            ensure_topics(settings)
            edge.wait_status(200)
            edge.send(frames[300:1000])
            assert edge.wait_settled(1000)["passed"] == 1000

            process = psutil.Process(broker.pid)
            process.send_signal(signal.SIGSTOP)
            edge.send(frames[1000:])
            wait_for(lambda: edge.counters()["received"] == len(frames), 20, "all received")
            frozen = edge.counters()
            assert frozen["dropped"]["backpressure"] > 0 and frozen["inflight_bytes"] <= MIB
            assert balanced(frozen, frozen["queue_depth"])
            assert edge.wait_status(503)["status"] == "degraded"
            process.send_signal(signal.SIGCONT)
            thawed = edge.wait_settled(len(frames), 60)
            assert thawed["dropped"]["backpressure"] < 7000
            assert balanced(thawed) and thawed["passed"] >= 1000 + frozen["inflight"] + frozen["held"]
            edge.wait_status(200)
            landed = distinct(settings)
            assert len(landed) == thawed["passed"] and landed <= set(frames)

            process.send_signal(signal.SIGSTOP)
            edge.send(frames[:100])
            wait_for(lambda: edge.counters()["inflight"] == 100, 20, "frames in flight")
            code, last = edge.stop()
            process.send_signal(signal.SIGCONT)
        assert code == 0, edge.tail()
        assert last["undelivered"] == last["dropped"]["delivery_failed"] == 100
        assert balanced(last)
        assert "Traceback" not in edge.tail()
    finally:
        if broker is not None:
            broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
