"""The bound UDP socket that every source has, with the kernel's count of what it dropped. Imports no kernel of ours."""

import socket
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.system.activation import drop_count
from klais.system.address import Bind, ask_receive_buffer, open_udp_socket

NAME_BYTES = 28  # struct sockaddr_in6, the longer of the two

_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40


class UdpSocket:
    """A bound, non-blocking UDP socket with its receive buffer.

    Parameters
    ----------
    sock : socket.socket
        Bound; belongs to this object from now on.
    rcvbuf_bytes : int
        Receive buffer asked of the kernel; ``granted_bytes`` says what it gave.
    drops : int, optional
        The kernel's count of drops at this socket that others have reported already; None = all that it has counted by
        now.
    inherited : bool
        Somebody else made the socket, and may have given it a larger buffer.
    timestamps : bool
        The kernel says of each datagram when it received it (socket(7), ``SO_TIMESTAMPNS``).
    """

    def __init__(
        self,
        sock: socket.socket,
        rcvbuf_bytes: int,
        drops: int | None = None,
        inherited: bool = False,
        timestamps: bool = False,
    ) -> None:
        if sys.maxsize < 1 << 32 or sys.platform != "linux":
            raise OSError("the sources need 64-bit Linux (layouts of the kernel's structures)")
        self.socket = sock
        self.port: int = sock.getsockname()[1]
        self.granted_bytes = ask_receive_buffer(sock, rcvbuf_bytes, shrink=not inherited)
        self.is_v6 = sock.family == socket.AF_INET6
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self.timestamps = timestamps
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, int(timestamps))  # an inherited socket may have it on
        self._drops_word = drop_count(sock) if drops is None else drops
        self._drops = 0

    @classmethod
    def bind(
        cls,
        address: str,
        rcvbuf_bytes: int,
        share_port: bool = False,
        iface: str | None = None,
        timestamps: bool = False,
    ) -> "UdpSocket":
        """Open one.

        Parameters
        ----------
        address : str
            ``host:port``; ``[::]:5000`` takes IPv6 and IPv4; a multicast group is joined. Port 0 takes a free one.
        share_port : bool
            Let other edge processes of this user bind the same port; the kernel spreads the senders over them.
        iface : str, optional
            Interface to join a multicast group on.
        timestamps : bool
            See the class.

        Raises
        ------
        klais.errors.PortInUse
            The port is taken; the message names it and, where readable, the process.
        klais.errors.ConfigError
            The multicast group cannot be joined.
        """
        sock = open_udp_socket(Bind.parse(address), share_port, iface)
        return cls(sock, rcvbuf_bytes, timestamps=timestamps)

    @property
    def buffer_bytes(self) -> int:
        """What the kernel may hold, by its own accounting: it books each datagram with its overhead."""
        return 2 * self.granted_bytes

    def note_drops(self, now: int) -> None:
        """Note the kernel's 32-bit count of drops, as it stands now or stood at a datagram's arrival."""
        step = (now - self._drops_word) & 0xFFFFFFFF
        if step < 1 << 31:  # a datagram's stamp may be older than the socket's own count
            self._drops += step
            self._drops_word = now

    def drops(self) -> int:
        """Datagrams this socket lost in the kernel: receive buffer full, or a bad checksum."""
        if self.socket.fileno() >= 0:
            self.note_drops(drop_count(self.socket))
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
        """Close it; the count of drops stays readable. A supervisor that holds the socket too keeps it open."""
        if self.socket.fileno() >= 0:
            self.drops()
            self.socket.close()


class OnSocket:
    """What all sources that read nothing but one :class:`UdpSocket` (``_udp``) have in common."""

    _udp: UdpSocket

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """None: the kernel is not asked for receive times: a batch gets the time of the call."""

    def kernel_drops(self) -> int:
        """Datagrams this socket lost in the kernel: receive buffer full, or a bad checksum."""
        return self._udp.drops()

    def details(self) -> dict[str, Any]:
        """Nothing beyond what every source reports."""
        return {}

    def begin_drain(self) -> None:
        """Nothing to leave to others."""
