"""Sockets that outlive a process: inherited from systemd or a supervisor, and passed to the next child.

A datagram that arrives while no process reads waits in the socket's receive buffer, as long as some process keeps the
socket open. So the socket belongs to a process that outlives the reader: systemd (``klais-edge.socket``, or its
descriptor store) or the supervisor of ``klais edge --workers`` and ``klais up``. The reader gets it by the protocol of
``sd_listen_fds(3)``: descriptors from 3 on, ``LISTEN_PID`` names the process they are for, ``LISTEN_FDS`` is their
number, ``LISTEN_FDNAMES`` their names. Our own supervisors add ``LISTEN_DROPS``: the kernel's count of drops of each
socket when its last reader ended, so that the next reader counts the drops since then.

Imports nothing heavy: a process takes over its sockets before it loads anything else.
"""

import errno
import os
import socket
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from klais.errors import ConfigError
from klais.system.address import ask_receive_buffer
from klais.system.child import OwnedChild

FIRST_FD = 3
MAX_DIGITS = 10  # of a number in the variables: 32 bits
UDP_NAME = "klais-udp"
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_DROPS")

_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # index of SK_MEMINFO_DROPS (linux/sock_diag.h)
_MEMINFO_SIZE = 9 * 4


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A socket passed to this process at its start.

    Attributes
    ----------
    socket : socket.socket
        Non-blocking, and closed on exec.
    name : str
        From ``LISTEN_FDNAMES``; ``unknown`` if the manager sets none.
    drops : int or None
        The part of the kernel's count of drops that other processes have reported; None if unknown.
    """

    socket: socket.socket
    name: str
    drops: int | None


def inherited_sockets(environ: MutableMapping[str, str] | None = None) -> list[InheritedSocket]:
    """The sockets that this process inherited, in order; none if the variables are for another process.

    Removes the variables, so that a second call returns nothing and children do not see them. Descriptors that are not
    sockets (``OpenFile=`` of a unit) are skipped.

    Raises
    ------
    ConfigError
        If the variables name descriptors that this process does not have.
    """
    env = os.environ if environ is None else environ
    pid, count, names, drops = (env.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or (number := _number(count)) is None:
        return []
    all_names, all_drops = names.split(":") if names else [], drops.split(":") if drops else []
    out: list[InheritedSocket] = []
    for at in range(number):
        try:
            sock = socket.socket(fileno=FIRST_FD + at)
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                continue
            for one in out:
                one.socket.close()
            raise ConfigError(
                f"LISTEN_FDS={count}: descriptor {FIRST_FD + at} cannot be used: {error.strerror}: the service manager "
                "must pass as many sockets as it names"
            ) from None
        sock.setblocking(False)
        sock.set_inheritable(False)
        known = all_drops[at] if at < len(all_drops) else ""
        name = all_names[at] if at < len(all_names) else "unknown"
        out.append(InheritedSocket(sock, name, _number(known)))
    return out


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def drop_count(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket since it was created, for any reason (32 bits, wraps)."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE)
    return int.from_bytes(info[4 * _MEMINFO_DROPS :], sys.byteorder)


class HeldSocket:
    """Keeps a UDP socket open for a child that may die and be restarted; :meth:`spawn` starts the child with it.

    Parameters
    ----------
    sock : socket.socket
        Bound. This process does not read from it.
    rcvbuf_bytes : int
        Requested receive buffer: it must hold the frames that arrive while the child starts.
    counted : int, optional
        The part of the kernel's count of drops that other processes have reported (0: this process bound the socket);
        None = all up to now.
    """

    def __init__(self, sock: socket.socket, rcvbuf_bytes: int, counted: int | None = None) -> None:
        self.socket = sock
        ask_receive_buffer(sock, rcvbuf_bytes, shrink=False)
        self._drops = drop_count(sock) if counted is None else counted

    def spawn(self, command: Sequence[str], log: Path | None, env: dict[str, str], beside: bool = False) -> OwnedChild:
        """Start the command as a child that inherits the socket (``Service`` calls it).

        ``beside``: another child still reads, and counts the drops up to now.
        """
        drops = drop_count(self.socket) if beside else self._drops
        more = {"LISTEN_FDNAMES": UDP_NAME, "LISTEN_DROPS": str(drops)}
        return OwnedChild(command, log, env | more, inherit=(self.socket.fileno(),), on_end=self._note_drops)

    def _note_drops(self) -> None:
        self._drops = drop_count(self.socket)

    def close(self) -> None:
        """Close the socket: frames that arrive from now on are refused."""
        self.socket.close()
