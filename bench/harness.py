"""What the benchmarks stand on: a broker, child processes that surely end, and looks at what they did."""

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from bench.report import Sample
from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings, load
from klais.kafka.admin import admin_client, ensure_topics
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system.ports import free_port

REPO = Path(__file__).parents[1]
LOOK_S = 0.05
DEVICES = 10_000
# Nothing may be dropped where throughput is measured.
OPEN_DAM = {"dam_max_rate": 100_000_000, "dam_burst_size": 1_000_000_000}
# Settings of a run that benchmarks pass on: how to reach a cluster, and where compiled kernels lie.
_PASSED_ON = ("KLAIS_KAFKA_", "KLAIS_CACHE_DIR", "KLAIS_REPLICATION")

T = TypeVar("T")


class BenchFailed(Exception):
    """A figure cannot be given; says why."""


def wait_for(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """The first truthy value of ``condition()``.

    Raises
    ------
    BenchFailed
        Not within ``timeout_s``; names ``what``.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until_s:
            raise BenchFailed(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


class Child:
    """A process of ours, with its log; ``cpu_s`` counts all of its threads (and the children it waited for)."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.name, self.log, self.started_s = name, log, time.monotonic()
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command, cwd=REPO, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if name == "simulate" else out,
                stderr=out,
            )  # fmt: skip
        self._process = psutil.Process(self._popen.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def check(self) -> None:
        """Raise BenchFailed when it has ended."""
        if self._popen.poll() is not None:
            raise BenchFailed(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")

    def cpu_s(self) -> float:
        """CPU time so far, user and system."""
        self.check()
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Resident memory now, MB of 10^6 bytes."""
        self.check()
        return float(self._process.memory_info().rss) / 1e6

    def peak_rss_mb(self) -> float:
        """Highest resident memory so far."""
        self.check()
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def tail(self, lines: int = 20) -> str:
        """End of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """kill -9."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait(30)

    def stop(self, timeout_s: float = 20.0) -> None:
        """SIGTERM, and SIGKILL when that does not end it."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def summary(self, timeout_s: float) -> dict[str, Any]:
        """Wait for its end; the JSON object on the last line of its standard output (``simulate`` only)."""
        try:
            out, _ = self._popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{self.name} did not end within {timeout_s:g} s") from None
        if self._popen.returncode != 0:
            raise BenchFailed(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")
        summary: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
        return summary


class Bench:
    """A Kafka for one run of the benchmarks, and a folder for logs and state; all gone at the end.

    The embedded broker on a free port, or the cluster of KLAIS_KAFKA_BOOTSTRAP. ``shared`` keeps what two benchmarks of the
    same run may share.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None, broker: bool = True) -> None:
        self.say, self._wants_broker = say, broker
        self.folder = Path(tempfile.mkdtemp(prefix="klais-bench-"))
        self.shared: dict[str, Any] = {}
        self.sender_prefix: tuple[str, ...] = ()  # before the command of a sender
        self._broker: EmbeddedKafka | None = None
        self._outer = load()
        self._admin: AdminClient | None = None

    def __enter__(self) -> "Bench":
        # A plain `kill` of the benchmark must end its children too.
        self._on_term = signal.signal(signal.SIGTERM, _interrupt)
        if self._outer.embedded_kafka and self._wants_broker:
            try:
                own = Settings(state_dir=self.folder, kafka_port=free_port(), cache_dir=self._outer.cache_dir)
                self._broker = EmbeddedKafka(own, self.say, "python -m bench")
                self._broker.start()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._broker is not None:
            self._broker.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._on_term)

    @property
    def bootstrap(self) -> str:
        """Where Kafka is."""
        return self._broker.bootstrap if self._broker else self._outer.bootstrap

    def kill_broker(self) -> None:
        """kill -9 of the embedded broker; its data stays."""
        if self._broker is None or self._broker.pid is None:
            raise BenchFailed("only an embedded broker can be killed: unset KLAIS_KAFKA_BOOTSTRAP")
        process = psutil.Process(self._broker.pid)
        process.kill()
        wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 10, "the broker's end")
        self._broker.stop()

    def start_broker(self) -> None:
        """The embedded broker again, on the same port with the same data."""
        if self._broker is not None:
            self._broker.start()

    def kafka_cpu_s(self) -> float:
        """CPU time of the embedded broker so far; 0 where the cluster is another's."""
        if self._broker is None or self._broker.pid is None:
            return 0.0
        times = psutil.Process(self._broker.pid).cpu_times()
        return float(times.user + times.system)

    def busy_s(self) -> tuple[float, float]:
        """CPU time of the whole machine so far, and of us: this process, the broker, and children that have ended."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        ours = time.process_time() + children_cpu_s() + self.kafka_cpu_s()
        return sum(times) - idle - times.guest - times.guest_nice, ours

    def settings(self, **overrides: Any) -> Settings:
        """Settings of one measurement: topics of its own, ports that are free, the dam wide open."""
        given: dict[str, Any] = {
            **{name: getattr(self._outer, name) for name in Settings.model_fields if name.startswith("kafka_")},
            "kafka_bootstrap": self.bootstrap,
            "topic_prefix": f"bench-{uuid.uuid4().hex[:8]}-",
            "replication": self._outer.replication,
            "cache_dir": self._outer.cache_dir,
            "state_dir": self.folder / "state",
            "udp_bind": f"127.0.0.1:{free_port(kind='udp')}",
            "api_bind": f"127.0.0.1:{free_port()}",
            "web_port": free_port(),
            **OPEN_DAM,
        }
        return Settings(**given | overrides)

    @contextmanager
    def topics(self, **overrides: Any) -> Iterator[Settings]:
        """Settings with their topics, which are deleted in the end (the next measurement must not pay for their disk)."""
        settings = self.settings(**overrides)
        admin = admin_client(settings)
        ensure_topics(settings, admin)
        try:
            yield settings
        finally:
            self.delete([spec.name for spec in Topics.of(settings).specs()])

    def delete(self, topics: list[str]) -> None:
        """Delete topics; one that is not there is no matter."""
        admin = admin_client(self.settings())
        for future in admin.delete_topics(topics, operation_timeout=10).values():
            future.exception(15)

    def child(self, name: str, command: Sequence[str], settings: Settings, **env: str) -> Child:
        """Start a process with the environment that says ``settings``; prefer the context managers below."""
        log = self.folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        return Child(name, command, environment(settings) | env, log)

    @contextmanager
    def worker(self, settings: Settings, ready: bool = True) -> Iterator[Child]:
        """A Faust worker; ``ready`` waits until all of its lanes are live."""
        port = str(settings.web_port)
        command = [sys.executable, "-m", "faust", "-A", "agents.app", "worker", "-l", "info", "--web-port", port]
        child = self.child("worker", command, settings)
        try:
            if ready:
                wait_ready(child, settings)
            yield child
        finally:
            child.stop()

    @contextmanager
    def edge(self, settings: Settings, **env: str) -> Iterator[Child]:
        """An edge that receives."""
        child = self.child("edge", [sys.executable, "-m", "klais", "edge"], settings, **env)
        try:
            wait_for(lambda: _healthy(child, settings), 60, "the edge receives", 0.1)
            yield child
        finally:
            child.stop()

    @contextmanager
    def simulate(self, settings: Settings, *options: str) -> Iterator[Child]:
        """A simulator (plain sendmmsg, no GSO) that sends to the edge of ``settings``; its ``summary()`` waits for its end."""
        command = [*self.sender_prefix, sys.executable, "-m", "klais", "simulate", "--seed", "1", "--json", *options]
        child = self.child("simulate", command, settings)
        try:
            yield child
        finally:
            child.stop()


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child: ours, with the settings that are not defaults as KLAIS_ variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KLAIS_") or k.startswith(_PASSED_ON)}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if value is not None and not hasattr(value, "get_secret_value"):
            env[f"KLAIS_{name.upper()}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


def children_cpu_s() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def get_json(url: str) -> Any:
    """The body of a GET as JSON, None when nobody answers or the answer is not 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def wait_ready(child: Child, settings: Settings, timeout_s: float = 90.0) -> None:
    """Until the worker says that its lanes are live."""

    def ready() -> bool:
        child.check()
        return get_json(f"http://127.0.0.1:{settings.web_port}/ready/") is not None

    wait_for(ready, timeout_s, f"the worker is ready; its log ends:\n{child.tail()}")


def _healthy(child: Child, settings: Settings) -> bool:
    child.check()
    health = get_json(f"http://{settings.api_bind}/health")
    return health is not None and health["status"] == "ok"


def edge_counters(settings: Settings) -> dict[str, Any]:
    """Counters of the edge now."""
    stats = get_json(f"http://{settings.api_bind}/stats")
    if stats is None:
        raise BenchFailed("the edge does not answer")
    counters: dict[str, Any] = stats["edge"]["counters"]
    return counters


class Ends:
    """End offsets of one topic, asked of the broker."""

    def __init__(self, settings: Settings, topic: str, partitions: int | None = None) -> None:
        self._admin = admin_client(settings)
        self._wanted: dict[Any, Any] = {
            TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions or settings.partitions)
        }

    def total(self) -> int:
        """Sum over the partitions, transaction markers included."""
        found = self._admin.list_offsets(self._wanted, request_timeout=10)
        return sum(future.result().offset for future in found.values())


def watch(child: Child, done: Callable[[], int], total: int, timeout_s: float) -> list[Sample]:
    """Look at a child every 50 ms until it has done ``total`` frames.

    Raises
    ------
    BenchFailed
        It ended, or was not done within ``timeout_s``.
    """
    samples: list[Sample] = []
    until_s = time.monotonic() + timeout_s
    while not samples or samples[-1].done < total:
        frames = done()
        samples.append(Sample(time.monotonic(), child.cpu_s(), frames))
        if samples[-1].at_s > until_s:
            raise BenchFailed(f"{child.name}: {frames:,} of {total:,} frames after {timeout_s:g} s:\n{child.tail()}")
        time.sleep(LOOK_S)
    return samples


def count_records(settings: Settings, topic: str) -> int:
    """Records of a topic, counted in its log: transaction markers are not records, though they take an offset."""

    async def count() -> int:
        records = 0
        async with PartitionReader(settings) as reader:
            for partition in range(settings.partitions):
                at, end = await reader.offsets(topic, partition)
                while at < end:
                    # whole batches, not unpacked: their headers say how many records they hold
                    for batch in await reader._fetch(TopicPartition(topic, partition), at):
                        records += 0 if batch.is_control_batch else batch.next_offset - batch.base_offset
                        at = batch.next_offset
        return records

    return asyncio.run(count())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
