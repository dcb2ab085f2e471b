"""Wrong clocks: an edge that is ahead or behind, and a worker whose clock is stepped, lose nothing and stop nobody."""

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Producer

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.topics import Topics
from tests.support.clock import WallClock, build_shift
from tests.support.edge import edge_process, read_all
from tests.support.fault_harness import settle, worker
from tests.support.process import wait_for

HOUR_S = 3600
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S
OFFSETS_S = [2 * HOUR_S, YEAR_S, -30 * HOUR_S, -50 * YEAR_S]


@pytest.fixture(scope="session")
def clock_shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, preloaded, shifts the wall clock of one process by the seconds in a file."""
    return build_shift(tmp_path_factory.mktemp("clock"))


def feed(settings, offset_s: float, boot: int, rounds: int = 3) -> int:
    """Batches of 20 frames to every partition, received by an edge whose clock is off by ``offset_s``."""
    topic = Topics.of(settings).raw
    producer = Producer({"bootstrap.servers": settings.bootstrap, "enable.idempotence": True})
    ids = [b"clock-%d" % d for d in range(16)]
    sent = 0
    for number in range(rounds):
        for partition in range(settings.partitions):
            mine = [device for device in ids if partition_of(device, settings.partitions) == partition]
            frames = [encode_frame(mine[n % len(mine)], number * 20 + n, b'{"t":%d}' % n) for n in range(20)]
            received_ns = max(0, time.time_ns() + int(offset_s * 1e9))
            producer.produce(topic, encode_batch(frames, received_ns, 1, boot, number), partition=partition)
            sent += len(frames)
    assert producer.flush(30) == 0
    return sent


def landed(settings) -> int:
    topics = Topics.of(settings)
    records = read_all(settings.bootstrap, topics.telemetry, settings.partitions)
    assert {record.timestamp()[0] for record in records} <= {TIMESTAMP_LOG_APPEND_TIME}
    return len(records)


def test_batches_of_edges_with_wrong_clocks_land_and_hold_nobody_up(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    with worker(settings, tmp_path / "worker.log") as it:
        it.wait_ready()
        sent = 0
        for boot, offset_s in enumerate([*OFFSETS_S, 0], start=1):
            sent += feed(settings, offset_s, boot)
        settle(settings)
        assert "lane_failed" not in it.log.read_text()
        records = read_all(settings.bootstrap, topics.telemetry, settings.partitions)
    dropped = sent - len(records)
    assert dropped == 0, f"{dropped} of {sent} frames did not land"
    times = {json.loads(record.value())["ts"] // 1000 for record in records}
    now_s = time.time()
    assert any(t > now_s + YEAR_S - HOUR_S for t in times), "the value keeps the time that the edge saw"
    assert all(abs(record.timestamp()[1] / 1000 - now_s) < HOUR_S for record in records)


@pytest.mark.parametrize("offset_s", OFFSETS_S)
def test_an_edge_with_a_wrong_clock_publishes(settings_for, topics_of, tmp_path, clock_shift, offset_s) -> None:
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    frames = [encode_frame(b"dev-%d" % (n % 7), n, b'{"t":1}') for n in range(200)]
    with WallClock(clock_shift, tmp_path / "shift") as clock:
        clock.step(offset_s)
        with edge_process(settings, tmp_path / "edge.log") as edge:
            edge.wait_status(200)
            edge.send(frames)
            edge.send([b"not a frame"])
            counters = edge.wait_settled(len(frames) + 1)
            warnings = wait_for(lambda: edge.get("/health")[1]["warnings"], 30, "a warning about the clock")
            code, _ = edge.stop()
    assert code == 0
    assert "clock of this host" in warnings[0] and ("ahead of" if offset_s > 0 else "behind") in warnings[0]
    assert counters["passed"] == len(frames) and counters["spooled"] == 0, counters
    assert read_all(settings.bootstrap, topics.raw, settings.partitions)
    assert len(read_all(settings.bootstrap, topics.dead_letter, settings.partitions)) == 1


@pytest.mark.parametrize("step_s", [10, -10, DAY_S, -DAY_S])
def test_a_worker_whose_clock_is_stepped_goes_on(settings_for, topics_of, tmp_path, clock_shift, step_s) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    log = tmp_path / "worker.log"
    with WallClock(clock_shift, tmp_path / "shift") as clock, worker(settings, log) as it:
        it.wait_ready()
        sent = feed(settings, 0, 1)
        settle(settings)
        clock.step(step_s)
        sent += feed(settings, 0, 2)
        settle(settings)
        wait_for(lambda: landed(settings) == sent, 30, f"all of {sent} frames landed")
        assert it.ready
    assert "lane_failed" not in log.read_text()
