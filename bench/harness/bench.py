"""One run of the benchmarks: a broker, a folder, and the processes of a system."""

import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka.admin import AdminClient

from bench.harness.child import Child, children_cpu_s, environment
from bench.harness.observe import healthy, wait_ready
from bench.harness.waiting import BenchFailed, wait_for
from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings, load
from klais.kafka.admin import ensure_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from klais.system.ports import free_port
from klais.system.processes import has_ended

DEVICES = 10_000
# No frames may be dropped while throughput is measured.
OPEN_DAM = {"dam_max_rate": 100_000_000, "dam_burst_size": 1_000_000_000}


class Bench:
    """A Kafka for one run of the benchmarks, and a folder for logs and state, removed at the end.

    The embedded broker on a free port, or the cluster of KLAIS_KAFKA_BOOTSTRAP. ``shared`` holds results that two
    benchmarks of the same run share.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None, broker: bool = True) -> None:
        self.say, self._wants_broker = say, broker
        self.folder = Path(tempfile.mkdtemp(prefix="klais-bench-"))
        self.shared: dict[str, Any] = {}
        self.sender_prefix: tuple[str, ...] = ()  # prefix of a sender's command
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
        """Address of Kafka."""
        return self._broker.bootstrap if self._broker else self._outer.bootstrap

    def kill_broker(self) -> None:
        """Kill the embedded broker with SIGKILL; its data stays."""
        if self._broker is None or self._broker.pid is None:
            raise BenchFailed("only an embedded broker can be killed: unset KLAIS_KAFKA_BOOTSTRAP")
        process = psutil.Process(self._broker.pid)
        process.kill()
        wait_for(lambda: has_ended(process), 60, "the broker's end")
        self._broker.stop()

    def start_broker(self) -> None:
        """Restart the embedded broker on the same port with the same data."""
        if self._broker is not None:
            self._broker.start()

    def kafka_cpu_s(self) -> float:
        """CPU time of the embedded broker so far; 0 for an external cluster."""
        if self._broker is None or self._broker.pid is None:
            return 0.0
        times = psutil.Process(self._broker.pid).cpu_times()
        return float(times.user + times.system)

    def busy_s(self) -> tuple[float, float]:
        """CPU time of the whole machine so far, and ours: this process, the broker, and ended children."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        ours = time.process_time() + children_cpu_s() + self.kafka_cpu_s()
        return sum(times) - idle - times.guest - times.guest_nice, ours

    def settings(self, **overrides: Any) -> Settings:
        """Settings of one measurement: unique topics, free ports, no rate limits."""
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
            "latency_ms": 20.0,  # a linger of 10 ms, as in all kept results; `idle` measures the default
            "devices_new_rate": 1e9,  # no worker has seen the fleet before
            **OPEN_DAM,
        }
        return Settings(**given | overrides)

    @contextmanager
    def topics(self, **overrides: Any) -> Iterator[Settings]:
        """Settings with their topics, deleted at the end so that they do not burden the next measurement's disk."""
        settings = self.settings(**overrides)
        admin = admin_client(settings)
        ensure_topics(settings, admin)
        try:
            yield settings
        finally:
            self.delete([spec.name for spec in Topics.of(settings).specs()])

    def delete(self, topics: list[str]) -> None:
        """Delete topics; missing ones are ignored."""
        admin = admin_client(self.settings())
        for future in admin.delete_topics(topics, operation_timeout=10).values():
            future.exception(15)

    def child(self, name: str, command: Sequence[str], settings: Settings, **env: str) -> Child:
        """Start a process with ``settings`` in its environment; prefer the context managers below."""
        log = self.folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        return Child(name, command, environment(settings) | env, log)

    @contextmanager
    def worker(self, settings: Settings, ready: bool = True, app: str = "agents.app") -> Iterator[Child]:
        """A Faust worker; ``ready`` waits until all of its lanes are live."""
        port = str(settings.web_port)
        command = [sys.executable, "-m", "faust", "-A", app, "worker", "-l", "info", "--web-port", port]
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
            wait_for(lambda: healthy(child, settings), 60, "the edge receives", 0.1)
            yield child
        finally:
            child.stop()

    @contextmanager
    def simulate(self, settings: Settings, *options: str) -> Iterator[Child]:
        """A simulator (plain sendmmsg, no GSO) that sends to the edge of ``settings``; its ``summary()`` waits for
        its end.
        """
        command = [sys.executable, "-m", "klais", "simulate", "--seed", "1", "--json", *options]
        with self.sender(command, settings) as child:
            yield child

    @contextmanager
    def sender(self, command: Sequence[str], settings: Settings) -> Iterator[Child]:
        """A process that sends and prints its summary as the simulator does: one JSON object on its last line."""
        child = self.child("simulate", [*self.sender_prefix, *command], settings)
        try:
            yield child
        finally:
            child.stop()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
