"""Processes of our own: how one is started, and how it is known by more than its number, which the kernel gives to
another program one day."""

import sys
from contextlib import suppress
from pathlib import Path

import psutil


def python_module(module: str, *words: str) -> list[str]:
    """The command that runs a module with this Python; never one that lies in the working folder (``-P``), which may
    be ``/tmp``.

    Examples
    --------
    >>> python_module("klais", "edge")[1:]
    ['-P', '-m', 'klais', 'edge']
    """
    return [sys.executable, "-P", "-m", module, *words]


def started_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None when there is none. No change of the clock moves it.

    Source: ``proc_pid_stat(5)``, field 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # the name in field 2 may hold blanks and brackets


def has_ended(process: psutil.Process) -> bool:
    """Whether a process that is no child of this one has ended: it is gone, or a zombie that nobody has collected."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls; ZombieProcess is a NoSuchProcess
        return True


def kill_first(pid: int) -> None:
    """Let the kernel choose this process when memory runs out; where it must not be set, the kernel decides."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
