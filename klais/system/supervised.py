"""Supervise a child process: start it, restart it with growing pauses, give up after too many failures in a row."""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from klais.errors import KlaisError
from klais.system.child import OwnedChild
from klais.system.private_files import own_folder

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
MAX_FAILURES = 5  # failures in a row
STEADY_S = 60.0  # a child that ran this long starts with a count of 0 failures
LAST_LINES = 15


class Child(Protocol):
    """The interface of :class:`OwnedChild`."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def stop(self, grace_s: float) -> bool: ...


Spawn = Callable[[Sequence[str], Path | None, dict[str, str]], Child]


class ServiceFailed(KlaisError):
    """A child failed repeatedly; the message ends with the last lines of its log."""


class Service:
    """One child process and its log.

    Parameters
    ----------
    name : str
        Its name in messages.
    command, env
        The command to run and its environment.
    log : Path or None
        File for its output; the previous run's log stays as ``<name>.log.1``. None = the child inherits the output.
    spawn, clock : callable
        How the child is started (:meth:`klais.system.activation.HeldSocket.spawn` passes it a socket); the clock, for
        tests.
    restart_at_once : bool
        Restart without a pause after the first failure: for a child whose input waits in a buffer.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: dict[str, str],
        log: Path | None,
        spawn: Spawn = OwnedChild,
        clock: Callable[[], float] = time.monotonic,
        restart_at_once: bool = False,
    ) -> None:
        self.name, self.log = name, log
        self._pauses_skipped = 1 if restart_at_once else 0
        self._command, self._env, self._spawn, self._clock = list(command), env, spawn, clock
        self._child: Child | None = None
        self._leaving: list[tuple[Child, float]] = []  # about to exit, and when they are killed
        self._started_s = 0.0
        self._again_s: float | None = None
        self._failures = 0
        self._stopped = False
        self.restarts = 0
        self._rotate()

    def _rotate(self) -> None:
        if self.log is None:
            return
        own_folder(self.log.parent)
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".1"))

    @property
    def pid(self) -> int | None:
        """Process id, None while it does not run."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def pids(self) -> list[int]:
        """Process ids of all that run: the child, and those that it has let go."""
        leaving = [child.pid for child, _ in self._leaving if child.returncode is None]
        return leaving if self.pid is None else [self.pid, *leaving]

    @property
    def running(self) -> bool:
        """Whether it runs, or a child that it has let go."""
        return self.pid is not None or any(child.returncode is None for child, _ in self._leaving)

    @property
    def returncode(self) -> int | None:
        """Exit code of a child that exited by itself, None while it runs."""
        return self._child.returncode if self._child is not None else None

    def start(self) -> None:
        """Start it."""
        self._started_s, self._again_s = self._clock(), None
        self._child = self._spawn(self._command, self.log, self._env)

    def poll(self) -> str | None:
        """Check the child and restart it when its pause is over; returns the events since the last call as
        text.

        Raises
        ------
        ServiceFailed
            If it failed too often in a row.
        """
        if self._stopped:
            return None
        now_s = self._clock()
        for child, until_s in self._leaving:
            if child.returncode is None and now_s > until_s:
                child.stop(0.0)
        self._leaving = [(child, until_s) for child, until_s in self._leaving if child.returncode is None]
        if self._again_s is not None:
            if now_s < self._again_s:
                return None
            try:
                self.start()
            except OSError as error:  # no memory, no process ids: others of this owner go on
                return self._failed(now_s, f"{self.name} cannot be started: {error.strerror or error}")
            self.restarts += 1
            return f"{self.name}: started again"
        if self._child is None or self._child.returncode is None:
            return None
        if now_s - self._started_s >= STEADY_S:
            self._failures = 0
        return self._failed(now_s, f"{self.name} ended unexpectedly, {ending(self._child.returncode)}")

    def _failed(self, now_s: float, what: str) -> str:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            ends = f"; {self.log} ends with:\n{self.last_lines()}" if self.log else ""
            raise ServiceFailed(f"{what}, {self._failures} times in a row{ends}")
        paused = self._failures - self._pauses_skipped
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (paused - 1)) if paused else 0.0
        self._again_s = now_s + pause_s
        return f"{what}: starting it again in {pause_s:g} s" + (f" (its log: {self.log})" if self.log else "")

    def replace(self, child: Child, command: Sequence[str]) -> None:
        """Switch to a child that the caller has started; the present one gets SIGTERM and time to exit.

        ``command`` starts later replacements of it.
        """
        if self._child is not None:
            self.let_go(self._child)
        self._child, self._command = child, list(command)
        self._started_s, self._again_s, self._failures = self._clock(), None, 0

    def let_go(self, child: Child, grace_s: float = float("inf")) -> None:
        """Send SIGTERM to a child, which may need until ``grace_s`` to exit; then it is killed."""
        _send(child, signal.SIGTERM)
        self._leaving.append((child, self._clock() + grace_s))

    def signal(self, number: signal.Signals, leaving: bool = False) -> None:
        """Send a signal to the child, if it runs; with ``leaving`` also to those that it has let go."""
        children = [self._child] if self._child is not None else []
        for child in [*children, *(child for child, _ in self._leaving if leaving)]:
            _send(child, number)

    def stop(self, grace_s: float) -> bool:
        """Stop it for good: SIGTERM, and SIGKILL after ``grace_s``; returns whether SIGTERM was enough."""
        self._stopped = True
        for child, _ in self._leaving:
            child.stop(grace_s)
        return self._child is None or self._child.stop(grace_s)

    def last_lines(self) -> str:
        """The end of its log, for a message."""
        if self.log is None:
            return ""
        try:
            with open(self.log, errors="replace") as file:
                lines = deque(file, LAST_LINES)
        except OSError:
            lines = deque()
        return "".join(f"  {line.rstrip()}\n" for line in lines).rstrip("\n") or "  (nothing)"


def _send(child: Child, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)


def ending(returncode: int) -> str:
    """An exit code as text.

    Examples
    --------
    >>> ending(1), ending(-9)
    ('exit code 1', 'killed by signal 9')
    """
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
