"""Child processes and waiting for conditions, so that no test depends on the speed of the machine."""

import os
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

from klais.system import processes
from klais.system.waiting import poll_until

T = TypeVar("T")

# Tests state their deadlines for an idle machine. A deadline matters only in a failure, so a long one costs nothing,
# while a short one fails on a slow or busy machine.
PATIENCE = float(os.environ.get("KLAIS_TEST_PATIENCE", "10"))
# Timeout of a request to a running process, in seconds: long for the same reason.
HTTP_S = 2 * PATIENCE


def wait_for(condition: Callable[[], T], timeout_s: float, what: str | Callable[[], str], every_s: float = 0.02) -> T:
    """Return the first truthy value of ``condition()``.

    Parameters
    ----------
    condition : callable
        Called until its value is truthy; its exceptions propagate.
    timeout_s : float
        Deadline on an idle machine, in seconds; ``PATIENCE`` multiplies it.
    what : str or callable
        The awaited condition, for the error. Pass a callable if the text shows state: it is called at the end.
    every_s : float
        Pause between two calls.

    Raises
    ------
    AssertionError
        If the deadline passes; the text names ``what``.
    """
    if value := poll_until(condition, timeout_s * PATIENCE, every_s):
        return value
    raise AssertionError(f"not within {timeout_s * PATIENCE:g} s: {what() if callable(what) else what}")


def has_ended(process: psutil.Process | subprocess.Popen[Any]) -> bool:
    """Whether a process has ended: it does not exist, or is a zombie."""
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    return processes.has_ended(process)


def wait_ended(process: psutil.Process, timeout_s: float, what: str | Callable[[], str]) -> None:
    """Wait until a process that is not a child of this one has ended."""
    wait_for(lambda: has_ended(process), timeout_s, what)


def exit_code(process: subprocess.Popen[Any], timeout_s: float, what: str | Callable[[], str] = "its end") -> int:
    """Wait for a child to exit; return its exit code (negative: the signal that killed it)."""
    wait_for(lambda: process.poll() is not None, timeout_s, what)
    return int(process.returncode)


def kill_hard(process: subprocess.Popen[Any]) -> None:
    """Send SIGKILL to a running or stopped child, and reap it."""
    if process.poll() is None:
        process.kill()
    process.wait()


def clean_environ() -> dict[str, str]:
    """This process's environment without a developer's KLAIS settings, except the folder of compiled kernels."""
    kept = ("KLAIS_CACHE_DIR", "KLAIS_JIT")
    return {name: value for name, value in os.environ.items() if not name.startswith("KLAIS_") or name in kept}
