"""Child processes: one that cannot outlive its owner (``PR_SET_PDEATHSIG``), and one that does."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from klais.system.private_files import open_own

# Runs in the child, then becomes the program. The parent may have died before prctl, so getppid is checked.
# Inherited descriptors move to 3, 4, ... (sd_listen_fds(3)), by way of high numbers so that none overwrites another.
_SHIM = """
import ctypes, fcntl, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 256) for fd in sys.argv[3].split(",") if fd]
for place, fd in enumerate(high, 3):
    os.dup2(fd, place)
if high:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
os.execv(sys.argv[4], sys.argv[4:])
"""


def _nothing() -> None:
    """Does nothing."""


class OwnedChild:
    """A running program that gets SIGTERM when its owner dies; in its own session, so Ctrl-C reaches only the
    owner.

    Linux sends the signal when the *thread* that started the child ends. So a separate thread starts the child and
    waits for it: that thread lives as long as the child or the process.

    Parameters
    ----------
    command : sequence of str
        Absolute path of the program, and its arguments.
    log : Path or None
        File for standard output and error, appended; None = the child inherits them.
    env : dict, optional
        Environment; None = inherited.
    inherit : sequence of int
        Descriptors for the program, as described in :mod:`klais.system.activation`.
    on_end : callable
        Called in the keeper's thread when the program has exited.

    Raises
    ------
    OSError
        If it cannot be started.
    klais.errors.NotPrivate
        If another user owns the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None,
        env: dict[str, str] | None = None,
        inherit: Sequence[int] = (),
        on_end: Callable[[], None] = _nothing,
    ) -> None:
        self._command = list(command)
        self._log = log
        self._env = env
        self._inherit, self._on_end = tuple(inherit), on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        keeper = threading.Thread(target=self._keep, name=f"keeper of {Path(command[0]).name}", daemon=True)
        try:
            keeper.start()
        except RuntimeError as error:  # the system allows no more threads
            raise OSError(errno.EAGAIN, str(error)) from None
        self._started.wait()
        if self._error is not None:
            raise self._error

    def _keep(self) -> None:
        try:
            with _appended(self._log) if self._log else nullcontext() as log:
                fds = ",".join(map(str, self._inherit))
                shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(int(signal.SIGTERM)), fds]
                self._process = subprocess.Popen(
                    [*shim, *self._command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=self._env,
                    pass_fds=self._inherit,
                )
        except BaseException as error:  # whatever it is: the owner waits
            self._error = error
            self._started.set()
            return
        self._started.set()
        self._process.wait()
        try:
            self._on_end()
        finally:
            self._ended.set()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code (negative = signal), None while it runs."""
        return self._process.returncode if self._process is not None and self._ended.is_set() else None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the exit; returns whether it happened within ``timeout_s``."""
        return self._ended.wait(timeout_s)

    def stop(self, grace_s: float) -> bool:
        """Send SIGTERM, and SIGKILL after ``grace_s``; returns whether SIGTERM was enough."""
        if self._ended.is_set():
            return True
        self._signal(signal.SIGTERM)
        if self._ended.wait(grace_s):
            return True
        self._signal(signal.SIGKILL)
        self._ended.wait()
        return False

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.is_set() and self._process is not None:
            self._process.send_signal(number)


def _appended(path: Path) -> IO[bytes]:
    return open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def start_detached(command: Sequence[str], log: IO[Any], env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program that outlives this process, in its own session; ``log`` gets its output."""
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env
    )
    # This process reaps it while it lives, so that no zombie remains; init does so afterwards.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def last_line(path: Path) -> str:
    """The last line of a child's output; empty if there is none."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
