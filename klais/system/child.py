"""A child process that cannot outlive its owner: Linux tells it when the owner is gone (``PR_SET_PDEATHSIG``)."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

# Runs in the child, then becomes the program. The parent may have died before prctl: hence the second look.
_SHIM = """
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


class OwnedChild:
    """A running program, in a session of its own (Ctrl-C reaches its owner only), that gets SIGTERM when the owner dies.

    The signal comes when the *thread* that started the child ends. So a thread of ours starts it and waits for it: that
    thread lives as long as the child or the process, whoever calls the constructor.

    Parameters
    ----------
    command : sequence of str
        Absolute path of the program, and its arguments.
    log : Path or None
        Gets standard output and error, appended; None = they go where ours go.
    env : dict, optional
        Environment; None = the owner's.
    """

    def __init__(self, command: Sequence[str], log: Path | None, env: dict[str, str] | None = None) -> None:
        self._command = list(command)
        self._log = log
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._keep, name=f"keeper of {Path(command[0]).name}", daemon=True).start()
        self._started.wait()
        if self._error is not None:
            raise self._error

    def _keep(self) -> None:
        try:
            with open(self._log, "ab") if self._log else nullcontext() as log:
                shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(int(signal.SIGTERM))]
                self._process = subprocess.Popen(
                    [*shim, *self._command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=self._env,
                )
        except OSError as error:
            self._error = error
            self._started.set()
            return
        self._started.set()
        self._process.wait()
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
        """Wait for the end; whether it came within ``timeout_s``."""
        return self._ended.wait(timeout_s)

    def stop(self, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL after ``grace_s``; whether the first was enough."""
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
