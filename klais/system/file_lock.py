"""Locks between processes (``flock``) that other users cannot hold, with a limited wait that names the holder.

``flock`` requires no write permission: any user who can open a file for reading can hold its lock. So a lock file is
0600, in a folder that is 0700 (:mod:`klais.system.private_files`).
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from klais.errors import LockHeld
from klais.system.private_files import open_own
from klais.text import escape

FIRST_PAUSE_S, MAX_PAUSE_S = 0.001, 0.05
REPORT_AFTER_S = 10.0
_COMMAND_CHARACTERS = 100
Report = Callable[[str], None]


def lock_file(path: Path, what: str, wait_s: float, report_waiting: Report | None = None) -> int:
    """Open a private lock file and lock it: returns its descriptor. Closing it, or the process's exit, releases it.

    Parameters
    ----------
    path : Path
        In a private folder; created if it is missing.
    what : str
        The protected resource, for messages.
    wait_s : float
        How long to wait for one holder. The time restarts whenever another process gets the lock.
    report_waiting : callable, optional
        Called once, with a text, when the wait is long.

    Raises
    ------
    LockHeld
        If another process held it for that long; the message names the process if it can be read.
    NotPrivate
        If another user owns the file or may write to it.
    """
    fd = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        lock(fd, what, wait_s, report_waiting)
        with contextlib.suppress(OSError):  # a new turn has begun: waiting processes restart their time
            os.utime(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def lock(fd: int, what: str, wait_s: float, report_waiting: Report | None = None) -> None:
    """Lock an open file or folder. See :func:`lock_file`."""
    began_s = turn_s = time.monotonic()
    turn, pause_s, reported = _turn(fd), FIRST_PAUSE_S, False
    while not try_lock(fd):
        now_s = time.monotonic()
        if (seen := _turn(fd)) != turn:
            turn, turn_s = seen, now_s
        if now_s - turn_s >= wait_s:
            raise LockHeld(f"{what} is held by {holder(fd)}, and was not released within {wait_s:g} s")
        if report_waiting is not None and not reported and now_s - began_s > REPORT_AFTER_S:
            reported = True
            report_waiting(f"waiting for {what}, which {holder(fd)} holds")
        time.sleep(pause_s)
        pause_s = min(MAX_PAUSE_S, 2 * pause_s)


def try_lock(fd: int, shared: bool = False) -> bool:
    """Acquire the lock if it is free; returns whether it was acquired."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def holder(fd: int) -> str:
    """The holder of the lock of an open file: ``pid 123 (its command)``, as far as it can be read."""
    pid = holder_pid(fd)
    if pid is None:
        return "a process that is not visible here (in another container, or already ended)"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="backslashreplace").split("\0")
    except OSError:
        words = []
    command = escape(" ".join(words).strip())[:_COMMAND_CHARACTERS]
    return f"pid {pid} ({command})" if command else f"pid {pid}"


def holder_pid(fd: int) -> int | None:
    """The process that holds the lock of an open file; None if there is none, or it is not visible."""
    info = os.fstat(fd)
    exact = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    by_number = None  # layered file systems report another device
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()  # 1: FLOCK ADVISORY WRITE 123 fd:00:456 0 EOF; a waiting one has an arrow before its kind
        if len(words) < 6 or words[1] != "FLOCK" or int(words[4]) <= 0:
            continue
        if words[5] == exact:
            return int(words[4])
        if words[5].rpartition(":")[2] == str(info.st_ino):
            by_number = int(words[4])
    return by_number


def _turn(fd: int) -> int:
    return os.fstat(fd).st_mtime_ns
