"""A soak test: a system under load, random combinations of faults, and the resource use of its processes.

Only one fault loses accepted frames: it removes records of the staging topic, including those that no lane has read
yet. It keeps the removed records for the audit, which replays every lane from its first step: each record must have a
step, or count as lost.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.broker.config import BrokerFiles
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.clock import WallClock, build_shift
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker, committed
from tests.support.process import HTTP_S, kill_hard, wait_for
from tests.support.stage import Stage


@dataclass(frozen=True)
class Fault:
    """A fault of one part of the system: ``begin``, then after a while ``end``."""

    name: str
    target: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Soak:
    """One edge and two workers on a separate broker; ``rounds`` has the faults and the resource use."""

    WORKERS = 2

    def __init__(self, stage: Stage, folder: Path, seed: int) -> None:
        self._stage, self._folder, self._rng = stage, folder, random.Random(seed)
        self._clock = WallClock(build_shift(folder), folder / "shift")
        self.archive: dict[int, dict[int, bytes]] = defaultdict(dict)  # partition -> removed raw records
        self._rubbish = 0
        self.edge = self._new_edge(None)
        self.workers = [self._new_worker(k) for k in range(self.WORKERS)]
        self.rounds: list[dict[str, Any]] = []

    def _new_edge(self, port: int | None) -> EdgeProcess:
        with self._clock:
            return self._stage.edge(self._folder / "edge.log", port=port)

    def _new_worker(self, number: int) -> Worker:
        with self._clock:
            return self._stage.worker(self._folder / f"worker-{number}.log")

    def wait_well(self) -> None:
        """Wait until the edge publishes and both workers are ready."""
        self.edge.wait_status(200)
        for worker in self.workers:
            worker.wait_ready()

    def round(self) -> None:
        """Inject one to three faults of different parts, for up to 3 s; then often wait for recovery."""
        faults: dict[str, Fault] = {}
        for fault in self._rng.sample(self._faults(), self._rng.randint(1, 3)):
            faults.setdefault(fault.target, fault)
        for fault in faults.values():
            fault.begin()
        time.sleep(self._rng.uniform(0.1, 3.0))
        # The broker first: a worker that starts without one exits with the reason.
        for fault in sorted(faults.values(), key=lambda fault: fault.target != "broker"):
            fault.end()
        well = self._rng.random() < 0.6
        if well:
            self.wait_well()
            time.sleep(self._rng.uniform(0.1, 2.0))
        names = sorted(fault.name for fault in faults.values())
        found = {"faults": names, "recovered": well, **self.used(), "topic_mb": self.topic_mb()}
        self.rounds.append(found | ({"lag": self.lag()} if well else {}))

    def _faults(self) -> list[Fault]:
        stage = self._stage
        found = [
            Fault("broker killed", "broker", stage.kill, stage.start),
            Fault("broker frozen", "broker", stage.freeze, stage.thaw),
            Fault("edge killed", "edge", lambda: kill_hard(self.edge.process), self._edge_again),
            Fault("edge frozen", "edge", lambda: _suspend(self.edge), lambda: _resume(self.edge)),
            Fault("edge restarted", "edge", lambda: _none(self.edge.stop()), self._edge_again),
            Fault("statistics truncated", "statistics", lambda: self._remove(self._topics.stats, 0), lambda: None),
            Fault("raw truncated", "raw", self._truncate_raw, lambda: None),
            Fault("rubbish on raw", "rubbish", self._write_rubbish, lambda: None),
            Fault("clocks stepped", "clocks", self._step_clocks, lambda: self._clock.step(0)),
        ]
        for number in range(self.WORKERS):
            found += self._faults_of_worker(number)
        return found

    def _faults_of_worker(self, number: int) -> list[Fault]:
        def again() -> None:
            self.workers[number] = self._new_worker(number)

        def worker() -> Worker:
            return self.workers[number]

        name = f"worker {number}"
        return [
            Fault(f"{name} killed", name, lambda: worker().kill(), again),
            Fault(f"{name} frozen", name, lambda: _suspend(worker()), lambda: _resume(worker())),
            Fault(f"{name} restarted", name, lambda: _none(worker().stop()), again),
        ]

    def _edge_again(self) -> None:
        self.edge = self._new_edge(self.edge.udp_port)

    @property
    def _topics(self) -> Topics:
        return Topics.of(self._stage.settings)

    def _step_clocks(self) -> None:
        """Step the clocks of the edge and the workers, not the broker's."""
        self._clock.step(self._rng.choice([-3600, -10, 10, 3600]))

    def _remove(self, topic: str, partition: int, before: int | None = None) -> None:
        """Remove all records, or those before an offset; without a broker do nothing."""
        admin = AdminClient({"bootstrap.servers": self._stage.settings.bootstrap, "log_level": 0})
        try:
            if before is None:
                ends = admin.list_offsets({TopicPartition(topic, partition): OffsetSpec.latest()}, request_timeout=1)
                (before,) = (future.result().offset for future in ends.values())
            for done in admin.delete_records([TopicPartition(topic, partition, before)], request_timeout=1).values():
                done.result()
        except Exception:  # the broker is frozen or down: retry in another round
            return

    def _truncate_raw(self) -> None:
        """Remove the records of one partition of the staging topic, whether its lane has read them or not."""
        partition = self._rng.randrange(self._stage.settings.partitions)
        consumer = Consumer({"bootstrap.servers": self._stage.settings.bootstrap, "group.id": "soak", "log_level": 0})
        topic, kept = self._topics.raw, self.archive[partition]
        try:
            start, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=1, cached=False)
            consumer.assign([TopicPartition(topic, partition, start)])
            at = start
            while at < end:
                message = consumer.poll(1)
                if message is None or message.error():
                    return
                at = message.offset() + 1
                if at <= end:
                    kept[message.offset()] = message.value() or b""
        except KafkaException:
            return
        finally:
            consumer.close()
        self._remove(topic, partition, end)

    def _write_rubbish(self) -> None:
        """Write records that no edge writes: another program's, an empty one, a batch with a time centuries ahead."""
        producer = Producer(
            {"bootstrap.servers": self._stage.settings.bootstrap, "message.timeout.ms": 60_000, "log_level": 0}
        )
        self._rubbish += 1
        ahead = encode_batch([encode_frame(b"nobody", 1, b"{}")], (1 << 63) - 1, 9, self._rubbish, 0)
        for partition in range(self._stage.settings.partitions):
            for value in (b"another program's record", None, ahead):
                producer.produce(self._topics.raw, value, partition=partition)
        producer.flush(1)  # without a broker these records are dropped

    def topic_mb(self) -> dict[str, float]:
        """Size of each topic in the broker's folder, in MB on the disk."""
        data, sizes = BrokerFiles(self._stage.settings).data, defaultdict(int)
        names = self._topics
        ours = {names.raw, names.journal, names.telemetry, names.stats, names.control, names.devices_changelog}
        for path in data.rglob("*"):
            topic = path.parent.name.rpartition("-")[0]
            if topic in ours:
                try:
                    sizes[topic] += path.stat().st_blocks * 512
                except OSError:  # the broker may delete segments at the same time
                    continue
        return {topic: round(size / 1e6, 2) for topic, size in sorted(sizes.items())}

    def used(self) -> dict[str, Any]:
        """Resident memory (MB of 10^6 bytes) and open files of each process that runs now."""
        found: dict[str, Any] = {}
        for name, it in [("edge", self.edge), *((f"worker_{k}", worker) for k, worker in enumerate(self.workers))]:
            try:
                process = psutil.Process(it.process.pid)
                found[f"{name}_rss_mb"] = round(process.memory_info().rss / 1e6, 1)
                found[f"{name}_fds"] = process.num_fds()
            except psutil.NoSuchProcess:
                continue
        return found

    def lag(self) -> int:
        """Records of the staging topic that no checkpoint covers yet."""
        settings = self._stage.settings
        admin = AdminClient({"bootstrap.servers": settings.bootstrap, "log_level": 0})
        asked = {TopicPartition(Topics.of(settings).raw, p): OffsetSpec.latest() for p in range(settings.partitions)}
        ends = admin.list_offsets(asked, request_timeout=HTTP_S)
        return sum(future.result().offset for future in ends.values()) - sum(committed(settings))

    def drain(self) -> None:
        """Wait until the edge has published all accepted frames."""
        wait_for(lambda: not self.edge.counters()["spooled"], 60, "the spool to be empty")
        self.edge.wait_settled(0, 60)


def growth(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """For each figure the median of the last third of the rounds minus that of the second.

    Of rounds in which all had recovered: a process that has just started uses less. The worker that leads the
    controller uses about 65 MB more than the other one, and the lead moves. So the workers count in the order of their
    memory (``max_rss_mb``, ``min_rss_mb``), not by number.
    """
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, found in enumerate(rounds):
        flat = {name: value for name, value in found.items() if not name.startswith("worker_")} | found["topic_mb"]
        for kind in ("rss_mb", "fds"):
            used = [value for name, value in found.items() if name.startswith("worker_") and name.endswith(kind)]
            flat |= {f"max_{kind}": max(used), f"min_{kind}": min(used)} if used else {}
        for name, value in flat.items() if found["recovered"] else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series[name].append((number, float(value)))
    third, grown = len(rounds) / 3, {}
    for name, points in series.items():
        second = [value for number, value in points if third <= number < 2 * third]
        last = [value for number, value in points if number >= 2 * third]
        grown[name] = round(median(last) - median(second), 2) if second and last else 0.0
    return grown


def _suspend(it: EdgeProcess | Worker) -> None:
    psutil.Process(it.process.pid).suspend()


def _resume(it: EdgeProcess | Worker) -> None:
    psutil.Process(it.process.pid).resume()


def _none(_: object) -> None:
    """Discard the result of a fault's step."""
