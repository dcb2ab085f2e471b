"""The bound UDP socket that every source has: opened once, with the kernel's count of what it dropped."""

import socket
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.system.address import Bind, open_udp_socket

NAME_BYTES = 28  # struct sockaddr_in6, the longer of the two

_SO_RXQ_OVFL = 40
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # index of SK_MEMINFO_DROPS (linux/sock_diag.h)
_MEMINFO_SIZE = 9 * 4


class UdpSocket:
    """A bound, non-blocking UDP socket with its receive buffer.

    Parameters
    ----------
    bind : str
        ``host:port``; ``[::]:5000`` takes IPv6 and IPv4. Port 0 takes a free one (see ``port``).
    rcvbuf_bytes : int
        Receive buffer asked of the kernel; ``granted_bytes`` says what it gave.
    share_port : bool
        Let other edge processes of this user bind the same port.

    Raises
    ------
    klais.errors.PortInUse
        The port is taken; the message names it and, where readable, the process.
    """

    def __init__(self, bind: str, rcvbuf_bytes: int, share_port: bool = False) -> None:
        if sys.maxsize < 1 << 32 or sys.platform != "linux":
            raise OSError("the sources need 64-bit Linux (layouts of the kernel's structures)")
        self.socket = open_udp_socket(Bind.parse(bind), share_port)
        self.port: int = self.socket.getsockname()[1]
        self.granted_bytes = _ask_rcvbuf(self.socket, rcvbuf_bytes)
        self.is_v6 = self.socket.family == socket.AF_INET6
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self._drops_word = 0
        self._drops = 0

    @property
    def buffer_bytes(self) -> int:
        """What the kernel may hold, by its own accounting: it books each datagram with its overhead."""
        return 2 * self.granted_bytes

    def note_drops(self, word: bytes) -> None:
        """Take the kernel's 32-bit count of drops, as it stands now or stood at a datagram's arrival."""
        now = int.from_bytes(word, sys.byteorder)
        step = (now - self._drops_word) & 0xFFFFFFFF
        if step < 1 << 31:  # a datagram's stamp may be older than the socket's own count
            self._drops += step
            self._drops_word = now

    def drops(self) -> int:
        """Datagrams this socket lost in the kernel: receive buffer full, or a bad checksum."""
        if self.socket.fileno() >= 0:
            info = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE)
            self.note_drops(info[4 * _MEMINFO_DROPS :])
        return self._drops

    def sources(self, names: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Senders from socket addresses (uint8 [n, 28], as the kernel wrote them) as in KFB1: uint8 [n, 18], a copy."""
        out = np.zeros((len(names), 18), np.uint8)
        out[:, 16:] = names[:, 2:4]
        if self.is_v6:
            out[:, :16] = names[:, 8:24]
        else:
            out[:, 10:12] = 0xFF
            out[:, 12:16] = names[:, 4:8]
        return out

    def close(self) -> None:
        """Close it; the count of drops stays readable."""
        if self.socket.fileno() >= 0:
            self.drops()
            self.socket.close()


class OnSocket:
    """What all sources that read nothing but one :class:`UdpSocket` (``_udp``) have in common."""

    _udp: UdpSocket

    def times(self, n: int) -> None:
        """The kernel is not asked for receive times: a batch gets the time of the call."""

    def kernel_drops(self) -> int:
        """Datagrams this socket lost in the kernel: receive buffer full, or a bad checksum."""
        return self._udp.drops()

    def details(self) -> dict[str, Any]:
        """Nothing beyond what every source tells."""
        return {}

    def wind_down(self) -> None:
        """Nothing to leave to others."""


def _ask_rcvbuf(sock: socket.socket, asked: int) -> int:
    """Ask for a receive buffer, past ``net.core.rmem_max`` where we may; returns the bytes granted."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), asked)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles what it grants
