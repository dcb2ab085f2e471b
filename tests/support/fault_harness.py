"""Tools of the fault tests: worker processes to kill, a feeder of the staging topic, and the settled state."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.admin_client import admin_client
from klais.kafka.offsets import list_offsets
from klais.kafka.topics import Topics
from klais.verify.audit import LaneAudit, audit_lane
from tests.support.ports import free_port
from tests.support.process import HTTP_S, PATIENCE, clean_environ, exit_code, kill_hard, wait_for

REPO = Path(__file__).parents[2]
SESSION_S = 2.0


class Worker:
    """One ``faust worker`` process; overrides are names of settings without ``KLAIS_``."""

    def __init__(self, settings: Settings, log: Path, port: int = 0, **overrides: object) -> None:
        self.port = port or free_port()
        given = {
            "KAFKA_BOOTSTRAP": settings.bootstrap,
            "TOPIC_PREFIX": settings.topic_prefix,
            "PARTITIONS": settings.partitions,
            "STATE_DIR": settings.state_dir / f"worker-{self.port}",
            "SESSION_TIMEOUT_S": SESSION_S,
            "CHECKPOINT_INTERVAL_S": 0.3,
            "WEB_PORT": self.port,
            "DAM_MAX_RATE": 1_000_000,
            "DAM_BURST_SIZE": 1_000_000,
            **{name.upper(): value for name, value in overrides.items()},
        }
        env = clean_environ() | {f"KLAIS_{name}": str(value) for name, value in given.items()}
        self.log = log
        command = [sys.executable, "-m", "faust", "-A", "agents.app", "worker", "-l", "info"]
        command += ["--web-port", str(self.port)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=REPO, env=env, stdout=out, stderr=out)

    @property
    def ready(self) -> bool:
        """Whether its lanes are live."""
        if self.process.poll() is not None:
            raise AssertionError(f"worker ended with {self.process.returncode}:\n{self.tail()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=HTTP_S) as answer:
                return answer.status == 200
        except OSError:
            return False

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until its lanes are live."""
        wait_for(lambda: self.ready, timeout_s, lambda: f"worker ready; its log ends:\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """End of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """Send SIGKILL."""
        kill_hard(self.process)

    def stop(self, timeout_s: float = 30) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return exit_code(self.process, timeout_s, lambda: f"the worker to end on SIGTERM; its log ends:\n{self.tail()}")


class Feeder:
    """Write frame batches to the staging topic like an edge, with reboots, repeats and malformed records."""

    def __init__(self, settings: Settings, devices: int = 200, frames_per_s: int = 4000, seed: int = 1) -> None:
        self._settings = settings
        self._topic = Topics.of(settings).raw
        self._rng = np.random.default_rng(seed)
        self._rate = frames_per_s
        self._ids = [b"dev-%d" % d for d in range(devices)]
        self._partition = [partition_of(device, settings.partitions) for device in self._ids]
        self._sequence = [0] * devices
        self._number = [0] * settings.partitions
        self._boot = int(self._rng.integers(1, 2**31))
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        given = {"enable.idempotence": True, "linger.ms": 0, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": settings.bootstrap, **given})
        self.frames = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60 * PATIENCE)
        if self._producer.flush(60 * PATIENCE):
            raise AssertionError("the feeder could not deliver")
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.05):
                self.put(max(1, int(self._rate * 0.05)))
        except BaseException as error:
            self._failed.append(error)

    def put(self, count: int) -> None:
        """Write one round of batches: ``count`` frames over the partitions."""
        by_partition: list[list[bytes]] = [[] for _ in self._number]
        for d in self._rng.integers(0, len(self._ids), count).tolist():
            by_partition[self._partition[d]].append(self._frame(d))
        for partition, some in enumerate(by_partition):
            if not some:
                continue
            value = encode_batch(some, time.time_ns(), 1, self._boot, self._number[partition])
            self._number[partition] += 1
            for _ in range(2 if self._rng.random() < 0.02 else 1):  # an edge that had to send a batch twice
                self._producer.produce(self._topic, value, partition=partition)
            if self._rng.random() < 0.01:
                self._producer.produce(self._topic, b"another program's record", partition=partition)
        self._producer.poll(0)
        self.frames += count

    def _frame(self, d: int) -> bytes:
        chance = self._rng.random()
        if chance < 0.005:
            self._sequence[d] = 0  # reboot: sequence numbers used again
        elif chance < 0.01:
            return encode_frame(self._ids[d], self._sequence[d], b'{"broken":')
        elif chance > 0.01 + 0.01:
            self._sequence[d] += 1  # else: the same number again, with another payload
        payload = b'{"t":%.2f,"n":%d}' % (20 + 30 * (chance > 0.999), self._rng.integers(1000))
        return encode_frame(self._ids[d], self._sequence[d], payload)


def committed(settings: Settings) -> list[int]:
    """For each lane, the offset up to which checkpoints cover the staging topic."""
    topics = Topics.of(settings)
    own = {"group.id": topics.app_id, "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, **own})
    try:
        parts = [TopicPartition(topics.raw, p) for p in range(settings.partitions)]
        return [max(0, tp.offset) for tp in consumer.committed(parts, timeout=HTTP_S)]
    finally:
        consumer.close()


def settle(settings: Settings, timeout_s: float = 60) -> None:
    """Wait until the group has acknowledged the whole staging topic (by checkpoints) and the output is unchanged."""
    topics = Topics.of(settings)
    parts = [TopicPartition(topics.raw, p) for p in range(settings.partitions)]
    own = {"group.id": topics.app_id, "enable.auto.commit": False}
    consumer, client = Consumer({"bootstrap.servers": settings.bootstrap, **own}), admin_client(settings)

    def position() -> tuple[list[int], list[int], list[int]]:
        places = [(topic, p) for topic in (topics.raw, topics.telemetry) for p in range(settings.partitions)]
        ends = list_offsets(client, places, timeout_s=HTTP_S)
        done = [tp.offset for tp in consumer.committed(parts, timeout=HTTP_S)]
        return [ends[place] for place in places[: len(parts)]], done, [ends[place] for place in places[len(parts) :]]

    try:
        before: list[int] = []
        seen = ""

        def standing() -> bool:
            nonlocal before, seen
            ends, done_to, clean = position()
            done, seen = done_to == ends, f"acknowledged {done_to} of {ends}"
            still, before = clean == before, clean
            if not (done and still):
                time.sleep(0.5)
            return done and still

        try:
            wait_for(standing, timeout_s, "all of the staging topic acknowledged")
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}, clean records up to {before}") from None
    finally:
        consumer.close()


def judge(settings: Settings, archive: Mapping[int, Mapping[int, bytes]] | None = None) -> list[LaneAudit]:
    """Audit every lane: no record missing, doubled, invented or out of order; table and counters match the journal.

    ``archive`` maps a partition to the raw records (offset to value) that a test saved before it removed them.
    """
    kept = archive or {}
    audits = [asyncio.run(audit_lane(settings, p, kept.get(p))) for p in range(settings.partitions)]
    problems = [f"lane {audit.partition}: {text}" for audit in audits for text in audit.problems]
    problems += [
        f"lane {audit.partition}: raw taken up to {audit.next_raw} of {audit.raw_end}, {audit.queued} frames wait"
        for audit in audits
        if not audit.settled
    ]
    assert not problems, "\n".join(problems)
    assert sum(audit.telemetry for audit in audits) > 0
    return audits


@contextmanager
def worker(settings: Settings, log: Path, **overrides: object) -> Iterator[Worker]:
    """A worker that ends with the block."""
    it = Worker(settings, log, **overrides)
    try:
        yield it
    finally:
        it.kill()
