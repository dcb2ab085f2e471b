"""How many of the kernel's drops at a socket its readers have counted: in a file, because the socket outlives them.

systemd keeps a socket open between two processes, and the kernel counts its drops from its creation on. The next
process has to know which of them a previous one has counted: those in the file of this socket. A socket without a file
is new, since boot or since somebody bound it, or has never dropped a datagram: nobody has counted a drop of it.

A supervisor of ours knows the figure itself (``LISTEN_DROPS``), but not if it is restarted.
"""

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
MOST_FILES = 64  # of sockets that dropped something since boot
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

    def keep(self, counted: int) -> None:
        """Store the figure. A folder that cannot be written to is logged once: the edge goes on."""
        if self._failed:
            return
        try:
            if self._fd is None:
                self._fd = self._open()
            os.pwrite(self._fd, b"%0*d" % (_DIGITS, counted), 0)
        except (OSError, NotPrivate) as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._failed = None, True

    def _open(self) -> int:
        folder = own_folder(named_folder(self._settings.state_dir, "KLAIS_STATE_DIR") / FOLDER)
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for place, file in enumerate(files):
            if file != self._path and (place >= MOST_FILES or not file.name.startswith(self._boot)):
                file.unlink(missing_ok=True)
        return open_own(self._path, os.O_WRONLY | os.O_CREAT)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        means = "the next process that inherits this socket counts its drops from the socket's creation on"
        log.warning("drop_record_failed", file=str(self._path), why=str(error), means=means)
