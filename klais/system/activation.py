"""Sockets that outlive a process: inherited from systemd or a supervisor, and handed to the next child.

A datagram that arrives while nobody reads waits in the socket's receive buffer, as long as some process keeps the
socket open. So the socket belongs to whoever outlives the reader: systemd (``klais-edge.socket``, or its descriptor
store) or the supervisor of ``klais edge --workers`` and ``klais up``. The reader gets it by the protocol of
``sd_listen_fds(3)``: descriptors from 3 on, ``LISTEN_PID`` names the process they are for, ``LISTEN_FDS`` how many,
``LISTEN_FDNAMES`` what each is. Our own supervisors add ``LISTEN_DROPS``: what the kernel had dropped of each socket
when its last reader ended, so that the next reader counts what was dropped in between.

Imports nothing heavy: a process takes its sockets over before it loads anything else.
"""

import os
import socket
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from klais.system.address import ask_receive_buffer
from klais.system.child import OwnedChild

FIRST_FD = 3
UDP_NAME = "klais-udp"
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_DROPS")

_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # index of SK_MEMINFO_DROPS (linux/sock_diag.h)
_MEMINFO_SIZE = 9 * 4


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A socket that this process was started with.

    Attributes
    ----------
    socket : socket.socket
        Non-blocking, and closed on exec.
    name : str
        From ``LISTEN_FDNAMES``; ``unknown`` where the manager names none.
    drops : int or None
        The kernel's count of dropped datagrams that other processes have reported; None where nobody knows.
    """

    socket: socket.socket
    name: str
    drops: int | None


def inherited_sockets(environ: MutableMapping[str, str] | None = None) -> list[InheritedSocket]:
    """The sockets this process inherited, in order; none where the variables are for another process.

    Removes the variables, so that a second call returns nothing and children do not see them.
    """
    env = os.environ if environ is None else environ
    pid, count, names, drops = (env.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    all_names, all_drops = names.split(":") if names else [], drops.split(":") if drops else []
    out = []
    for at in range(int(count)):
        sock = socket.socket(fileno=FIRST_FD + at)
        sock.setblocking(False)
        sock.set_inheritable(False)
        known = all_drops[at] if at < len(all_drops) else ""
        name = all_names[at] if at < len(all_names) else "unknown"
        out.append(InheritedSocket(sock, name, int(known) if known.isdigit() else None))
    return out


def drop_count(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket since it was made, for any reason (32 bits, wraps)."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE)
    return int.from_bytes(info[4 * _MEMINFO_DROPS :], sys.byteorder)


class HeldSocket:
    """Keeps a UDP socket open for a child that may die and come back; :meth:`spawn` starts the child with it.

    Parameters
    ----------
    sock : socket.socket
        Bound. Nobody reads from it in this process.
    rcvbuf_bytes : int
        Receive buffer asked of the kernel: it has to hold what arrives while the child starts.
    """

    def __init__(self, sock: socket.socket, rcvbuf_bytes: int) -> None:
        self.socket = sock
        ask_receive_buffer(sock, rcvbuf_bytes, shrink=False)
        self._drops = drop_count(sock)

    def spawn(self, command: Sequence[str], log: Path | None, env: dict[str, str], beside: bool = False) -> OwnedChild:
        """Start the command as a child that inherits the socket (``Service`` calls it).

        ``beside``: another child still reads, and counts what the kernel has dropped by now.
        """
        drops = drop_count(self.socket) if beside else self._drops
        more = {"LISTEN_FDNAMES": UDP_NAME, "LISTEN_DROPS": str(drops)}
        return OwnedChild(command, log, env | more, inherit=(self.socket.fileno(),), on_end=self._note_drops)

    def _note_drops(self) -> None:
        self._drops = drop_count(self.socket)

    def close(self) -> None:
        """Give the socket up: what arrives from now on is refused."""
        self.socket.close()
