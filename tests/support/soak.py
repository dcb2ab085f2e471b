"""A soak: a system under load, random combinations of faults, and what its processes used meanwhile.

The faults never lose what an edge has accepted, so the judge can ask for all of it. The staging topic keeps its
records: the judge replays every lane from its first step.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.kafka.topics import Topics
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker, committed
from tests.support.process import HTTP_S, kill_hard, wait_for
from tests.support.stage import Stage


@dataclass(frozen=True)
class Fault:
    """Something bad that happens to one part of the system: ``begin``, then after a while ``end``."""

    name: str
    target: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Soak:
    """One edge and two workers on a broker of their own; ``rounds`` has what happened and what was used."""

    WORKERS = 2

    def __init__(self, stage: Stage, folder: Path, seed: int) -> None:
        self._stage, self._folder, self._rng = stage, folder, random.Random(seed)
        self.edge = self._new_edge(None)
        self.workers = [self._new_worker(k) for k in range(self.WORKERS)]
        self.rounds: list[dict[str, Any]] = []

    def _new_edge(self, port: int | None) -> EdgeProcess:
        return self._stage.edge(self._folder / "edge.log", port=port)

    def _new_worker(self, number: int) -> Worker:
        return self._stage.worker(self._folder / f"worker-{number}.log")

    def wait_well(self) -> None:
        """Wait until the edge publishes and both workers are ready."""
        self.edge.wait_status(200)
        for worker in self.workers:
            worker.wait_ready()

    def round(self) -> None:
        """One to three faults of different parts at once, for up to 3 s; then often a time to recover."""
        faults: dict[str, Fault] = {}
        for fault in self._rng.sample(self._faults(), self._rng.randint(1, 3)):
            faults.setdefault(fault.target, fault)
        for fault in faults.values():
            fault.begin()
        time.sleep(self._rng.uniform(0.1, 3.0))
        # The broker first: a worker that starts where there is none ends with the reason.
        for fault in sorted(faults.values(), key=lambda fault: fault.target != "broker"):
            fault.end()
        well = self._rng.random() < 0.6
        if well:
            self.wait_well()
            time.sleep(self._rng.uniform(0.1, 2.0))
        names = sorted(fault.name for fault in faults.values())
        self.rounds.append({"faults": names, "recovered": well, **self.used(), **({"lag": self.lag()} if well else {})})

    def _faults(self) -> list[Fault]:
        stage = self._stage
        found = [
            Fault("broker killed", "broker", stage.kill, stage.start),
            Fault("broker frozen", "broker", stage.freeze, stage.thaw),
            Fault("edge killed", "edge", lambda: kill_hard(self.edge.process), self._edge_again),
            Fault("edge frozen", "edge", lambda: _suspend(self.edge), lambda: _resume(self.edge)),
            Fault("edge restarted", "edge", lambda: _none(self.edge.stop()), self._edge_again),
            Fault("statistics truncated", "topics", self._truncate, lambda: None),
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

    def _truncate(self) -> None:
        """Take away all statistics records so far; where no broker answers nothing happens."""
        admin, topic = AdminClient({"bootstrap.servers": self._stage.settings.bootstrap, "log_level": 0}), self._stats
        try:
            ends = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()}, request_timeout=1)
            ((where, end),) = ((where, future.result().offset) for where, future in ends.items())
            for done in admin.delete_records([TopicPartition(topic, where.partition, end)], request_timeout=1).values():
                done.result()
        except Exception:  # the broker is frozen or gone: another round will
            return

    @property
    def _stats(self) -> str:
        return Topics.of(self._stage.settings).stats

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
        """Wait until the edge has published all that it accepted."""
        wait_for(lambda: not self.edge.counters()["spooled"], 60, "the spool to be empty")
        self.edge.wait_settled(0, 60)


def _suspend(it: EdgeProcess | Worker) -> None:
    psutil.Process(it.process.pid).suspend()


def _resume(it: EdgeProcess | Worker) -> None:
    psutil.Process(it.process.pid).resume()


def _none(_: object) -> None:
    """For a fault: what its step returns is of no interest."""
