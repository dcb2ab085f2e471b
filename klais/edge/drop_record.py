"""How many of the kernel's drops at a socket its readers have counted: in a file, because the socket outlives them.

systemd and a supervisor keep a socket open between two processes, the kernel counts its drops from its creation on, and
during a rolling upgrade two processes read it at once. So each claims the drops since the newest claim, under a lock,
and counts only those: each drop is counted by one process. A socket without a file is new (since boot, or since a
process bound it), or has never dropped a datagram.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

from klais.config.load import Settings
from klais.errors import NotPrivate
from klais.system.private_files import named_folder, open_own, own_folder
from klais.telemetry import log as logs

log = logs.get("klais.edge.drop_record")

FOLDER = "udp-drops"
MAX_FILES = 64  # of sockets that dropped something since boot
_DIGITS = 10  # always as many, so that one write replaces the figure and a kill leaves the old or the new one
_SO_COOKIE = 57
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DropRecord:
    """The file of one socket.

    Parameters
    ----------
    settings : Settings
        With the state folder.
    sock : socket.socket
        Kernel and boot identify it; every descriptor of it has the same file.
    """

    def __init__(self, settings: Settings, sock: socket.socket) -> None:
        self._settings, self._boot, self._path = settings, "", settings.state_dir / FOLDER
        self._fd: int | None = None
        self._failed = False
        try:
            cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)
            self._boot = _BOOT_ID.read_text().strip()
        except OSError as error:  # not every sandbox has them
            self._fail(error)
        else:
            self._path /= f"{self._boot}-{cookie:x}"

    def counted(self) -> int:
        """Drops at this socket that its readers have counted (32 bits, wraps); 0 if there is no file."""
        if self._failed:
            return 0
        try:
            fd = open_own(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        except (OSError, NotPrivate) as error:
            self._fail(error)
            return 0
        with open(fd, "rb") as file:
            text = file.read(_DIGITS)
        return int(text) if text.isdigit() else 0

    def claim(self, before: int, now: int) -> int | None:
        """How many of the drops up to ``now`` are still uncounted; from here on this process has counted them.

        None if another process holds the lock, which may be stopped: the reader of the socket must not wait for it.

        ``before``: the newest count that this process knows, for a socket without a file. A folder that cannot be
        written to is logged once: the edge goes on.
        """
        if not self._failed:
            try:
                if self._fd is None:
                    self._fd = self._open()
                before = self._claim(self._fd, before, now)
            except BlockingIOError:
                return None
            except (OSError, NotPrivate) as error:
                self._fail(error)
        step = (now - before) & 0xFFFFFFFF
        return step if step < 1 << 31 else 0

    def _claim(self, fd: int, before: int, now: int) -> int:
        """Write the new claim if it is above the one before; returns that."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            text = os.pread(fd, _DIGITS, 0)
            before = int(text) if text.isdigit() else before
            if (now - before) & 0xFFFFFFFF < 1 << 31:
                os.pwrite(fd, b"%0*d" % (_DIGITS, now), 0)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        return before

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._failed = None, True

    def _open(self) -> int:
        folder = own_folder(named_folder(self._settings.state_dir, "KLAIS_STATE_DIR") / FOLDER)
        files = sorted(folder.iterdir(), key=_changed_s, reverse=True)
        for place, file in enumerate(files):
            if file != self._path and (place >= MAX_FILES or not file.name.startswith(self._boot)):
                file.unlink(missing_ok=True)
        return open_own(self._path, os.O_RDWR | os.O_CREAT)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        means = "the next process that inherits this socket counts its drops from the socket's creation on"
        log.warning("drop_record_failed", file=str(self._path), why=str(error), means=means)


def _changed_s(file: Path) -> float:
    """When the file was last written to; 0 if another process of the fleet has just removed it."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
