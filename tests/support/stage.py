"""A whole system for one test: a broker that can be stopped, edges and workers, the simulator, and the audit."""

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.kafka.offsets import begin_offsets, end_offsets
from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest
from klais.sim.run import Plan, run
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate
from klais.verify.check import ManifestVerdict, judge_manifest, sent_columns
from klais.verify.readback import read_topic_columns
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import PATIENCE, kill_hard, wait_ended

FAST: dict[str, Any] = {"breaker_timeout_s": 1.0, "breaker_wait_min_s": 0.3, "breaker_wait_max_s": 1.0}


class Stage:
    """A broker that a test can stop, kill and restart, with its settings and the processes that use it."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        given = {"state_dir": folder, "kafka_port": free_port(), "partitions": 2, "kafka_heap_mb": 256, **FAST}
        self.settings = Settings(**given | overrides)
        self.running: list[Any] = []
        self.start()
        ensure_topics(self.settings)

    def start(self) -> None:
        """Start the broker with the data in its folder."""
        self.broker = EmbeddedKafka(self.settings, command="pytest")
        try:
            self.broker.start()
        except SetupMissing as error:
            need_missing("broker", str(error))

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, the broker does not answer."""
        psutil.Process(self.broker.pid).send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        psutil.Process(self.broker.pid).send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop cleanly. A restart is then immediate; after a kill it waits until the old session expires."""
        self.broker.stop()

    def kill(self) -> None:
        """Send SIGKILL."""
        process = psutil.Process(self.broker.pid)
        process.kill()
        wait_ended(process, 10, "the broker's end")
        self.broker.stop()

    def edge(self, log: Path, port: int | None = None, **overrides: Any) -> EdgeProcess:
        """An edge that ends with the stage."""
        edge = EdgeProcess(self.settings.model_copy(update=overrides), log, port=port)
        self.running.append(edge)
        return edge

    def worker(self, log: Path) -> Worker:
        """A worker that ends with the stage."""
        worker = Worker(self.settings, log)
        self.running.append(worker)
        return worker

    def end(self) -> None:
        """End all remaining processes."""
        for it in self.running:
            kill_hard(it.process)
        if self.broker.pid is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.thaw()
        self.broker.stop()


@contextmanager
def stage(**overrides: Any) -> Iterator[Stage]:
    """A stage that cleans up at the end."""
    folder = Path(tempfile.mkdtemp(prefix="klais-spool-"))
    it = None
    try:
        it = Stage(folder, **overrides)
        yield it
    finally:
        if it is not None:
            it.end()
        shutil.rmtree(folder, ignore_errors=True)


class Sending:
    """The simulator in a thread, sending to one port until the block ends."""

    def __init__(self, port: int, manifest: Path, frames_per_s: float = 3000, **options: Any) -> None:
        self._stop = threading.Event()
        given = StreamOptions(**{"devices": 300, "seed": 5, "malformed": 0.01} | options)
        stream = FrameStream(given, SteadyRate(frames_per_s))
        plan = Plan("127.0.0.1", port, manifest=manifest, stop=self._stop.is_set)
        self.summary: dict[str, Any] = {}
        self._thread = threading.Thread(target=lambda: self.summary.update(run(stream, plan)), daemon=True)

    def __enter__(self) -> "Sending":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30 * PATIENCE)
        assert not self._thread.is_alive()


def held_against(settings: Settings, manifest: Path) -> ManifestVerdict:
    """Outcome of the frames of a manifest: found in the clean records or the dead letters, or missing."""
    topics = Topics.of(settings)
    landed, dead = (
        read_topic_columns(settings, topic, begin_offsets(settings, topic), end_offsets(settings, topic))
        for topic in (topics.telemetry, topics.dead_letter)
    )
    return judge_manifest(sent_columns(read_manifest(manifest)), landed, dead)
