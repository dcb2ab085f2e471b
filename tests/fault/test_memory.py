"""A worker that others join and leave keeps the threads, files and memory that it needs, not what it had."""

import os
import time
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Producer

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.topics import Topics
from tests.fault.test_standby import readiness
from tests.support.fault_harness import settle, worker
from tests.support.process import wait_for

RELEASE = "KLAIS_TEST_JOINS" in os.environ  # resident memory is compared over many joins only
JOINS = int(os.environ.get("KLAIS_TEST_JOINS", "3"))
DEVICES = int(os.environ.get("KLAIS_TEST_JOIN_DEVICES", "20000"))
WARM_UP = 2  # the first rebalances reach code and buffers that no run before them did
GROWTH = 0.10
FRAMES = 500  # in a batch


def fill(settings) -> None:
    """One frame of each device."""
    producer, topic = (
        Producer({"bootstrap.servers": settings.bootstrap, "enable.idempotence": True}),
        Topics.of(settings).raw,
    )
    ids = [b"m-%d" % d for d in range(DEVICES)]
    partitions = np.array([partition_of(device, settings.partitions) for device in ids])
    for partition in range(settings.partitions):
        mine = [ids[d] for d in np.flatnonzero(partitions == partition).tolist()]
        for number, begin in enumerate(range(0, len(mine), FRAMES)):
            some = [encode_frame(device, 1, b'{"t":1}') for device in mine[begin : begin + FRAMES]]
            producer.produce(topic, encode_batch(some, time.time_ns(), 1, 5, number), partition=partition)
        producer.poll(0)
    assert producer.flush(120) == 0


def clients(pid: int) -> int:
    """Threads of librdkafka: some for each client. (Those of Python's pools come as they are needed.)"""
    names = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/comm")]
    return sum(name.startswith("rdk:") for name in names)


def test_joins_and_leaves_of_a_second_worker_do_not_grow_the_first(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    more = {"devices_new_rate": 1_000_000}
    with worker(settings, tmp_path / "first.log", **more) as first:
        first.wait_ready()
        fill(settings)
        settle(settings, 300)

        def owns(partitions: int) -> bool:
            return first.ready and len(readiness(first.port)["partitions"]) == partitions

        process, rss, counts = psutil.Process(first.process.pid), [], []
        for _ in range(WARM_UP + JOINS):
            with worker(settings, tmp_path / "second.log", **more) as second:
                second.wait_ready(120)
                wait_for(lambda: owns(1), 120, "each worker has one lane")
                assert second.stop() == 0
            wait_for(lambda: owns(2), 120, "the first worker has both lanes again")
            rss.append(process.memory_info().rss)
            counts.append((clients(process.pid), process.num_fds()))
        threads, files = map(max, zip(*counts[:WARM_UP], strict=True))

        def as_at_first() -> bool:  # a connection may be open for a moment
            return clients(process.pid) <= threads and process.num_fds() <= files

        wait_for(as_at_first, 60, lambda: f"no more than {threads} threads of clients and {files} files: {counts}")
        if RELEASE:
            before, after = min(rss[:WARM_UP]), min(rss[-2:])
            assert after < (1 + GROWTH) * before, f"resident MB after each: {[round(one / 1e6) for one in rss]}"
