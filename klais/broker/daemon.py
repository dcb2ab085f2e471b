"""The broker without `klais up`: a supervisor process in the background owns it; other commands query and stop it."""

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from klais.broker.config import BrokerFiles
from klais.broker.embedded import START_TIMEOUT_S, STOP_GRACE_S, EmbeddedKafka, Owner, Progress, is_owner, running_owner
from klais.config.load import Settings, child_environ
from klais.errors import BrokerOwned, KafkaUnavailable
from klais.system.child import start_detached
from klais.system.private_files import open_own
from klais.system.processes import python_module
from klais.system.waiting import poll_until

RUN_COMMAND = "klais kafka run"


@dataclass(frozen=True, slots=True)
class Status:
    """The embedded broker of a state folder, as ``klais kafka status`` shows it."""

    running: bool
    ready: bool
    bootstrap: str
    version: str | None
    pid: int | None
    owner: str | None
    owner_pid: int | None
    rss_bytes: int | None
    data_bytes: int
    data_dir: str
    log: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Stopped(BaseException):
    """A signal ends the process. Not an Exception, so that no handler on the way catches it."""


def run(settings: Settings, say: Progress) -> None:
    """Own the broker until SIGTERM, SIGINT or SIGHUP; then stop it cleanly.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If the broker ended unexpectedly.
    klais.errors.KlaisError
        If it could not be started (see :meth:`EmbeddedKafka.start`).
    """
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def on_signal(number: int, frame: FrameType | None) -> None:
        for name in asked:  # a second Ctrl-C must not interrupt the clean stop
            signal.signal(name, signal.SIG_IGN)
        raise _Stopped

    broker = EmbeddedKafka(settings, say, RUN_COMMAND)
    for name in asked:
        signal.signal(name, on_signal)
    try:
        broker.start()
        say(f"Apache Kafka ready on {broker.bootstrap} (pid {broker.pid}); Ctrl-C stops it")
        while not broker.wait(3600):
            pass
        raise KafkaUnavailable(f"Apache Kafka ended unexpectedly:\n{broker.last_lines()}")
    except _Stopped:
        say("Apache Kafka: stopping")
    finally:
        broker.stop()


def start(settings: Settings, say: Progress) -> Status:
    """Start a supervisor in the background and return when the broker responds.

    Returns immediately if a supervisor already runs it.

    Raises
    ------
    klais.errors.BrokerOwned
        If ``klais up`` or a test owns the broker of this state folder.
    klais.errors.KafkaUnavailable
        If the supervisor ended; the message is the end of its log (for example, which port is in use).
    """
    owner = running_owner(settings)
    if owner is not None and owner.command != RUN_COMMAND:
        raise BrokerOwned(
            f"`{owner.command}` (pid {owner.pid}) already runs the broker, on {owner.bootstrap}: use that one"
        )
    if owner is not None and owner.ready:
        return status(settings)
    files = BrokerFiles(settings)
    files.make()
    process = None
    new = os.O_TRUNC if owner is None else 0  # a supervisor that is still starting writes to it
    with open(open_own(files.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | new), "a") as log:
        if owner is None:
            env = child_environ(settings) | {"KLAIS_STATE_DIR": str(files.root.parent)}
            process = start_detached(python_module("klais", "kafka", "run"), log, env)
    follower = _LogFollower(files.supervisor_log, say)
    deadline = time.monotonic() + START_TIMEOUT_S + 600  # a first start may have to fetch the jars
    while time.monotonic() < deadline:
        follower.pass_on()
        if process is not None and process.poll() is not None:
            raise KafkaUnavailable(f"the broker was not started: {follower.last.removeprefix('klais: ')}")
        owner = running_owner(settings)
        if owner is not None and owner.ready:
            return status(settings)
        time.sleep(0.1)
    raise KafkaUnavailable(f"the broker is not ready: see {files.supervisor_log}")


class _LogFollower:
    """Forwards the lines that the supervisor writes to its log."""

    def __init__(self, path: Path, say: Progress) -> None:
        self._path = path
        self._say = say
        self._seen = 0
        self.last = "(its log is empty)"

    def pass_on(self) -> None:
        lines = self._path.read_text(errors="replace").splitlines()
        for line in lines[self._seen :]:
            if not line.startswith("klais: "):  # the caller raises errors
                self._say(line)
        if len(lines) > self._seen:
            first = next((i for i, line in enumerate(lines) if line.startswith("klais: ")), len(lines) - 1)
            self.last = "\n".join(lines[first:])
            self._seen = len(lines)


def stop(settings: Settings) -> bool:
    """Stop the supervisor and with it the broker, and wait for the end. False if none ran.

    Raises
    ------
    klais.errors.BrokerOwned
        If the broker belongs to another command.
    klais.errors.KafkaUnavailable
        If it did not end in time.
    """
    owner = running_owner(settings)
    if owner is None:
        return False
    if owner.command != RUN_COMMAND:
        raise BrokerOwned(f"the broker belongs to `{owner.command}` (pid {owner.pid}): stop that instead")
    _end(settings, owner)
    if not poll_until(lambda: running_owner(settings) is None, STOP_GRACE_S + 10):
        raise KafkaUnavailable(f"pid {owner.pid} did not stop within {STOP_GRACE_S + 10:.0f} s")
    return True


def _end(settings: Settings, owner: Owner) -> None:
    """Send SIGTERM to the supervisor by a pidfd: between check and signal its pid cannot be reused."""
    try:
        fd = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return
    try:
        words = set(psutil.Process(owner.pid).cmdline())
        if not (is_owner(settings, owner) and set(RUN_COMMAND.split()[1:]) <= words):
            raise KafkaUnavailable(
                f"pid {owner.pid} is not the `{RUN_COMMAND}` that {BrokerFiles(settings).owner} names, so it gets no "
                f"signal: check with `klais kafka status` and `ps {owner.pid}`, and end the supervisor manually"
            )
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGTERM)
    except psutil.NoSuchProcess:
        return
    finally:
        os.close(fd)


def status(settings: Settings) -> Status:
    """State of the broker of this state folder, from its files and processes; the broker itself is not queried."""
    files = BrokerFiles(settings)
    owner = running_owner(settings)
    return Status(
        running=owner is not None,
        ready=owner is not None and owner.ready,
        bootstrap=owner.bootstrap if owner else f"127.0.0.1:{settings.kafka_port}",
        version=owner.version if owner else None,
        pid=owner.broker_pid if owner else None,
        owner=owner.command if owner else None,
        owner_pid=owner.pid if owner else None,
        rss_bytes=_rss_bytes(owner.broker_pid) if owner else None,
        data_bytes=_size_bytes(files.data),
        data_dir=str(files.data),
        log=str(files.server_log),
    )


def _rss_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _size_bytes(folder: Path) -> int:
    """Allocated blocks, not file lengths: Kafka's index files are sparse."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:  # Kafka may delete a segment in between
            continue
    return total
