"""Processes by more than their number, which the kernel gives to another program one day."""

from pathlib import Path

import psutil


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
