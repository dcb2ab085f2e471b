"""The embedded broker: a real Apache Kafka (one KRaft node on loopback) as a child process of its owner.

Its data is in ``<state_dir>/kafka`` and survives restarts. An advisory lock on that folder admits one owner at a time.
If the owner dies, even by SIGKILL, the kernel sends SIGTERM to the broker (see :mod:`klais.system.child`).
"""

import base64
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from klais.broker import jars
from klais.broker.config import HOST, BrokerFiles, jvm_flags, server_properties
from klais.config.load import Settings
from klais.errors import BrokerOwned, KafkaUnavailable, LockHeld
from klais.system.child import OwnedChild
from klais.system.file_lock import holder_pid, lock_file, try_lock
from klais.system.ports import check_port, free_port
from klais.system.private_files import open_own, write_own
from klais.system.processes import started_ticks

Progress = Callable[[str], None]
STOP_GRACE_S = 20.0
START_TIMEOUT_S = 120.0
LOCK_WAIT_S = 1.0  # a process that only reads the owner holds the lock for a moment


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that runs the broker of a state folder, as stored in ``owner.json``.

    ``pid_ticks`` and ``broker_ticks`` are the start times of these processes, because a pid can be reused.
    """

    pid: int
    pid_ticks: int
    broker_pid: int
    broker_ticks: int
    bootstrap: str
    version: str
    command: str
    ready: bool


class EmbeddedKafka:
    """Apache Kafka owned by this process.

    Parameters
    ----------
    settings : Settings
        ``state_dir``, ``kafka_port``, ``kafka_heap_mb`` and ``cache_dir`` are used.
    progress : callable, optional
        Called with a line of text for each event, and while it waits.
    command : str
        Name of the owner in messages of other processes.

    Examples
    --------
    >>> with EmbeddedKafka(settings) as kafka:            # doctest: +SKIP
    ...     Producer({"bootstrap.servers": kafka.bootstrap})
    """

    def __init__(self, settings: Settings, progress: Progress | None = None, command: str = "klais up") -> None:
        self._settings = settings
        self._files = BrokerFiles(settings)
        self._say: Progress = progress or (lambda text: None)
        self._command = command
        self._child: OwnedChild | None = None
        self._lock: int | None = None
        self.bootstrap = f"{HOST}:{settings.kafka_port}"

    def __enter__(self) -> "EmbeddedKafka":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None if it does not run."""
        return self._child.pid if self.running and self._child else None

    @property
    def running(self) -> bool:
        """Whether the broker's process runs."""
        return self._child is not None and self._child.returncode is None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the broker's process ends; whether it did within ``timeout_s``."""
        return self._child is None or self._child.wait(timeout_s)

    def start(self) -> None:
        """Start the broker and return when it responds.

        Raises
        ------
        klais.errors.SetupMissing
            If Java is missing, or Maven while there are no jars.
        klais.errors.PortInUse
            If ``kafka_port`` is in use.
        klais.errors.BrokerOwned
            If another process runs a broker on this state folder.
        klais.errors.NotPrivate
            If another user owns the state folder or a file in it, or has write access.
        klais.errors.KafkaUnavailable
            If it ended, or did not respond in time; with the last lines of its log.
        """
        if self.running:
            return
        java = jars.find_java()
        folder = jars.fetch(self._settings.cache_dir, self._say)
        self._files.make()
        self._acquire_lock()
        try:
            self._end_left_over()
            check_port(HOST, self._settings.kafka_port, "tcp", "KLAIS_KAFKA_PORT")
            write_own(self._files.properties, server_properties(self._settings, self._files, free_port(HOST)).encode())
            base = [java, *jvm_flags(self._settings, self._files), "-cp", f"{folder}/*"]
            self._format(base)
            self._say(f"Apache Kafka {jars.kafka_version()}: starting on {self.bootstrap}")
            self._child = OwnedChild([*base, "kafka.Kafka", str(self._files.properties)], self._files.jvm_log)
            self._write_owner(ready=False)
            self._wait_ready()
            self._write_owner(ready=True)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the broker cleanly (SIGTERM; SIGKILL after 20 s) and unlock the state folder. It may be called twice."""
        if self._child is not None:
            if not self._child.stop(STOP_GRACE_S):
                self._say(f"Apache Kafka did not stop within {STOP_GRACE_S:.0f} s and was killed")
            self._child = None
        if self._lock is not None:
            self._files.owner.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _acquire_lock(self) -> None:
        try:
            self._lock = lock_file(self._files.lock, str(self._files.lock), LOCK_WAIT_S)
        except LockHeld as error:
            owner = read_owner(self._settings)
            who = f"`{owner.command}` (pid {owner.pid}), on {owner.bootstrap}" if owner else f"another process: {error}"
            raise BrokerOwned(
                f"the broker of {self._files.root} already runs, owned by {who}: use that one, stop it "
                "(`klais kafka stop`), or choose another folder with KLAIS_STATE_DIR"
            ) from None

    def _end_left_over(self) -> None:
        """Wait for a broker that is still stopping after its owner was killed, so that data and port are free."""
        owner = read_owner(self._settings)
        if owner is None:
            return
        process = _broker_process(owner, self._files)
        if process is not None:
            self._say(f"Apache Kafka of a killed owner (pid {process.pid}) still runs: waiting for its end")
            process.terminate()
            try:
                process.wait(STOP_GRACE_S)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(STOP_GRACE_S)
        self._files.owner.unlink(missing_ok=True)

    def _format(self, base: list[str]) -> None:
        """Write the cluster id to an empty data folder; others are unchanged."""
        if (self._files.data / "meta.properties").exists():
            return
        self._say("Apache Kafka: formatting its new data folder")
        tool = [*base, "kafka.tools.StorageTool"]
        config = ["-c", str(self._files.properties)]
        # Kafka's format of a UUID: base64url, without a leading dash (its tool would read an option).
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        _run([*tool, "format", "--cluster-id", cluster, "--ignore-formatted", *config])

    def _write_owner(self, ready: bool) -> None:
        assert self._child is not None
        us, broker = os.getpid(), self._child.pid
        ticks = started_ticks(us) or 0, started_ticks(broker) or 0
        owner = Owner(us, ticks[0], broker, ticks[1], self.bootstrap, jars.kafka_version(), self._command, ready)
        write_own(self._files.owner, json.dumps(asdict(owner)).encode())

    def _wait_ready(self) -> None:
        assert self._child is not None
        started = time.monotonic()
        reported = 0
        while not answers(self._settings.kafka_port):
            waited = time.monotonic() - started
            if self._child.wait(0.05):
                raise KafkaUnavailable(f"Apache Kafka ended with code {self._child.returncode}:\n{self.last_lines()}")
            if waited > START_TIMEOUT_S:
                raise KafkaUnavailable(f"Apache Kafka did not answer within {waited:.0f} s:\n{self.last_lines()}")
            if waited > 5 * (reported + 1):
                reported += 1
                self._say(f"Apache Kafka: still starting, {waited:.0f} s")

    def last_lines(self, count: int = 15) -> str:
        """The end of the broker's logs, for a message."""
        lines: list[str] = []
        for path in (self._files.server_log, self._files.jvm_log):
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-count:]
        return "\n".join(f"  {line}" for line in lines) or f"  (nothing in {self._files.root}/*.log)"


def read_owner(settings: Settings) -> Owner | None:
    """Contents of ``owner.json``, current or stale; None if there is none.

    Raises
    ------
    klais.errors.NotPrivate
        If another user could have written it.
    """
    try:
        return Owner(**json.loads(_text(BrokerFiles(settings).owner)))
    except (OSError, ValueError, TypeError):
        return None


def running_owner(settings: Settings) -> Owner | None:
    """The process that runs the broker of this state folder now, or None."""
    try:
        fd = open_own(BrokerFiles(settings).lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if try_lock(fd, shared=True) else read_owner(settings)
    finally:
        os.close(fd)


def is_owner(settings: Settings, owner: Owner) -> bool:
    """Whether the process with the owner's pid is the owner: same start time and, if visible, holder of the lock."""
    if started_ticks(owner.pid) != owner.pid_ticks:
        return False
    try:
        fd = open_own(BrokerFiles(settings).lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        return holder_pid(fd) in (None, owner.pid)
    finally:
        os.close(fd)


def answers(port: int, host: str = HOST, timeout_s: float = 2.0) -> bool:
    """Whether a Kafka broker on ``host:port`` serves requests and lists itself as a live broker."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    # The client would log each failed connection while the broker starts.
    unlogged: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: None, "socket.timeout.ms": 2000}
    admin = AdminClient({"bootstrap.servers": f"{host}:{port}", **unlogged})
    try:
        return bool(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def _broker_process(owner: Owner, files: BrokerFiles) -> psutil.Process | None:
    """The broker process with that pid, unless another program has reused the pid."""
    try:
        process = psutil.Process(owner.broker_pid)
        same = started_ticks(process.pid) == owner.broker_ticks and process.uids().effective == os.geteuid()
        return process if same and str(files.properties) in process.cmdline() else None
    except psutil.Error:
        return None


def _text(path: Path) -> str:
    with open(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise KafkaUnavailable(f"Apache Kafka's storage tool failed:\n{done.stdout}{done.stderr}")
    return done.stdout
