"""Our own processes: how to start one, and how to identify one by more than its number, which the kernel reuses."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

OPEN_FILES = 65_536  # as in our systemd units; the usual soft limit, 1024, is one for programs with select(2)


def python_module(module: str, *words: str) -> list[str]:
    """The command that runs a module with this Python; never a module in the working folder (``-P``), which may be
    ``/tmp``.

    Examples
    --------
    >>> python_module("klais", "edge")[1:]
    ['-P', '-m', 'klais', 'edge']
    """
    return [sys.executable, "-P", "-m", module, *words]


def started_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it does not exist. Independent of clock changes.

    Source: ``proc_pid_stat(5)``, field 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # the name in field 2 may contain blanks and brackets


def has_ended(process: psutil.Process) -> bool:
    """Whether a process that is not a child of this one has ended: it is gone, or an unreaped zombie."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls; ZombieProcess is a NoSuchProcess
        return True


def raise_open_files(wanted: int = OPEN_FILES) -> int:
    """Raise this process's soft limit of open files up to its hard limit, at most to ``wanted``; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit_memory(max_bytes: int) -> None:
    """Limit the address space of this process for good, to ``max_bytes`` or to an existing lower limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def prefer_for_oom_kill(pid: int) -> None:
    """Make the kernel choose this process when memory runs out; if that is not permitted, the kernel decides."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
