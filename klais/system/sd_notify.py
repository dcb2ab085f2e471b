"""systemd's notification protocol, sd_notify(3): ready, reloading, stopping, watchdog; silent without
``NOTIFY_SOCKET``."""

import array
import contextlib
import os
import socket
import time
from collections.abc import Mapping

MAX_DIGITS = 20  # of a number in the variables: 64 bits


class Notifier:
    """Sends datagrams to the service manager; errors are ignored.

    Parameters
    ----------
    environ : mapping of str to str, optional
        ``NOTIFY_SOCKET`` (a path, or ``@name`` for the abstract namespace), ``WATCHDOG_USEC``, ``WATCHDOG_PID``.

    Attributes
    ----------
    watchdog_s : float
        The manager kills the process after this time without :meth:`ping_watchdog`; 0 = no watchdog.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        name = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        mine = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = env.get("WATCHDOG_USEC", "")
        is_number = usec.isascii() and usec.isdigit() and len(usec) <= MAX_DIGITS
        self.watchdog_s = int(usec) / 1e6 if is_number and mine and name else 0.0
        self._beat_s = float("-inf")
        self._status = ""

    def send(self, **fields: str | int) -> None:
        """Send ``NAME=value`` lines; names are given in lower case."""
        if not self._address:
            return
        text = "\n".join(f"{name.upper()}={value}" for name, value in fields.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)

    def store(self, sock: socket.socket, name: str) -> None:
        """Store a socket with the manager, which keeps it open and passes it to the next process of this unit
        (``FileDescriptorStoreMax=``)."""
        if not self._address:
            return
        text = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"  # an ICMP error must not make the manager close it
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))
            manager.sendmsg([text.encode()], [rights], 0, self._address)

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is complete."""
        self._status = status
        self.send(ready=1, status=status)

    def status(self, text: str, still_starting_s: float = 0.0) -> None:
        """Set the text of ``systemctl status``; ``still_starting_s`` extends the time limit of the start."""
        if text != self._status or still_starting_s:
            self._status = text
            more = {"extend_timeout_usec": int(still_starting_s * 1e6)} if still_starting_s else {}
            self.send(status=text, **more)

    def reloading(self) -> None:
        """Report that a reload begins (``Type=notify-reload`` requires its time); :meth:`ready` ends it."""
        self.send(reloading=1, monotonic_usec=time.monotonic_ns() // 1000)

    def stopping(self, status: str) -> None:
        """Report that the process is stopping."""
        self.send(stopping=1, status=status)

    def ping_watchdog(self, now_s: float) -> None:
        """Report that the process is alive. Call it often; it sends at a third of the watchdog's time (``now_s``
        monotonic)."""
        if self.watchdog_s and now_s - self._beat_s >= self.watchdog_s / 3:
            self._beat_s = now_s
            self.send(watchdog=1)
