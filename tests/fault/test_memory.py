"""Threads, files and memory of a worker over many rebalances, and of an edge over many outages and web clients."""

import http.client
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Producer

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.topics import Topics
from tests.fault.test_standby import readiness
from tests.support.edge import EdgeProcess, balanced
from tests.support.fault_harness import settle, worker
from tests.support.process import HTTP_S, wait_for
from tests.support.stage import stage

RELEASE = "KLAIS_TEST_JOINS" in os.environ  # resident memory is compared over many joins only
JOINS = int(os.environ.get("KLAIS_TEST_JOINS", "3"))
OUTAGES = JOINS if RELEASE else 1
DEVICES = int(os.environ.get("KLAIS_TEST_JOIN_DEVICES", "20000"))
WARM_UP = 2  # the first rebalances reach code and buffers that no run before them did
GROWTH = 0.10
LATER = 4  # connections that the Kafka clients open when they first need them, each with a thread in librdkafka
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


class Resources:
    """Threads of Kafka clients, open files and resident memory of a process, after each round."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._rss: list[int] = []
        self._counts: list[tuple[int, int]] = []

    def _now(self) -> tuple[int, int]:
        return clients(self._process.pid), self._process.num_fds()

    def note(self) -> None:
        """A round is over."""
        self._rss.append(self._process.memory_info().rss)
        self._counts.append(self._now())

    def check(self, more_threads: int, more_files: int) -> None:
        """Compare with the first rounds; these may be more."""
        most_threads, most_files = map(max, zip(*self._counts[:WARM_UP], strict=True))
        threads, files = most_threads + more_threads, most_files + more_files

        def as_at_first() -> bool:  # a connection may be open for a moment
            now = self._now()
            return now[0] <= threads and now[1] <= files

        text = f"no more than {threads} threads of clients and {files} files: {self._counts}"
        wait_for(as_at_first, 60, text)
        if RELEASE:
            before, after = min(self._rss[:WARM_UP]), min(self._rss[-2:])
            each = [round(one / 1e6) for one in self._rss]
            assert after < (1 + GROWTH) * before, f"resident MB after each: {each}"


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

        resources = Resources(first.process.pid)
        for _ in range(WARM_UP + JOINS):
            with worker(settings, tmp_path / "second.log", **more) as second:
                second.wait_ready(120)
                wait_for(lambda: owns(1), 120, "each worker has one lane")
                assert second.stop() == 0
            wait_for(lambda: owns(2), 120, "the first worker has both lanes again")
            resources.note()
        resources.check(0, LATER)


def some(first: int, count: int) -> list[bytes]:
    """Frames of 50 devices, numbered."""
    return [encode_frame(f"e-{k % 50}", k, b'{"t":%d}' % k + b" " * 200) for k in range(first, first + count)]


def ask_and_hang_up(edge: EdgeProcess, rounds: int) -> None:
    """Web clients of each kind: whole requests, streams that are closed unread, requests that stop in the middle."""
    for _ in range(rounds):
        for path in ("/metrics", "/stats", "/health", "/nowhere", "/tap?device=%ff"):
            assert edge.get(path)[0] != 0, edge.tail()
        for begin in (
            b"GET /tap HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"POST /config HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{",
            b"GET / HT",
        ):
            with socket.create_connection(("127.0.0.1", edge.api_port), HTTP_S) as connection:
                connection.sendall(begin)
                if b"tap" in begin:
                    answer = http.client.HTTPResponse(connection)
                    with suppress(http.client.HTTPException):
                        answer.begin()
                    assert answer.status in (200, 503)  # 503: as many streams are open as an edge has


def test_outages_and_web_clients_do_not_grow_an_edge(tmp_path: Path) -> None:
    """Each round kills the broker, fills and empties the spool, and hangs up on the edge's web server."""
    with stage() as on:
        edge, sent = on.edge(tmp_path / "edge.log"), 0
        edge.wait_status(200)
        resources = Resources(edge.process.pid)
        for number in range(WARM_UP + OUTAGES):
            on.kill() if number % 2 else on.stop()
            edge.send(some(sent, 2000))
            sent += 2000
            wait_for(lambda wanted=sent: edge.counters()["received"] >= wanted, 60, "all frames received")
            ask_and_hang_up(edge, 10)
            on.start()
            counters = edge.wait_settled(sent, 120)
            assert balanced(counters) and counters["passed"] == sent, counters
            edge.wait_status(200)
            resources.note()
        resources.check(2 * LATER, 4 * LATER)  # a connection has a socket and a pipe
        assert edge.stop()[0] == 0
        assert "Traceback" not in edge.log.read_text()
