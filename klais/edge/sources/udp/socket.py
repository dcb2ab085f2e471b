"""The bound UDP socket of every source, with the kernel's count of drops. Imports no compiled kernels."""

import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klais.system.activation import drop_count
from klais.system.address import Bind, ask_receive_buffer, open_udp_socket

NAME_BYTES = 28  # struct sockaddr_in6, the longer of the two

_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40


class DropClaims(Protocol):
    """Shares the drops of a socket out among the processes that read it, at once or in turn."""

    def claim(self, before: int, now: int) -> int | None:
        """How many of the kernel's drops up to ``now`` this process counts, None = ask again later.

        ``before``: its own last count.
        """

    def close(self) -> None:
        """The socket is closed in this process."""


class UdpSocket:
    """A bound, non-blocking UDP socket with its receive buffer.

    Parameters
    ----------
    sock : socket.socket
        Bound; owned by this object from now on.
    rcvbuf_bytes : int
        Requested receive buffer; ``granted_bytes`` is what the kernel granted.
    drops : int, optional
        The part of the kernel's count of drops at this socket that others have already reported; None = all up to
        now.
    inherited : bool
        Whether another process created the socket, perhaps with a larger buffer.
    timestamps : bool
        Whether the kernel reports the receive time of each datagram (socket(7), ``SO_TIMESTAMPNS``).
    claims : DropClaims, optional
        Shares the drops with other processes that read this socket; None = there is no other.
    """

    def __init__(
        self,
        sock: socket.socket,
        rcvbuf_bytes: int,
        drops: int | None = None,
        inherited: bool = False,
        timestamps: bool = False,
        claims: DropClaims | None = None,
    ) -> None:
        if sys.maxsize < 1 << 32 or sys.platform != "linux":
            raise OSError("the sources need 64-bit Linux (layouts of the kernel's structures)")
        self.socket = sock
        self.port: int = sock.getsockname()[1]
        self.granted_bytes = ask_receive_buffer(sock, rcvbuf_bytes, shrink=not inherited)
        self.is_v6 = sock.family == socket.AF_INET6
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self.timestamps = timestamps
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, int(timestamps))  # an inherited socket may have it enabled
        self._drops_word = drop_count(sock) if drops is None else drops
        self._drops, self._claims = 0, claims

    @classmethod
    def bind(
        cls,
        address: str,
        rcvbuf_bytes: int,
        share_port: bool = False,
        iface: str | None = None,
        timestamps: bool = False,
        claims_of: Callable[[socket.socket], DropClaims] | None = None,
    ) -> "UdpSocket":
        """Open a socket.

        Parameters
        ----------
        address : str
            ``host:port``; ``[::]:5000`` takes IPv6 and IPv4; a multicast group is joined. Port 0 selects a free port.
        share_port : bool
            Let other edge processes of this user bind the same port; the kernel distributes the senders over them.
        iface : str, optional
            Interface to join a multicast group on.
        timestamps : bool
            See :class:`UdpSocket`.
        claims_of : callable, optional
            Makes the claims of the new socket.

        Raises
        ------
        klais.errors.PortInUse
            If the port is in use; the message names it and, if readable, the process.
        klais.errors.ConfigError
            If the multicast group cannot be joined.
        """
        sock = open_udp_socket(Bind.parse(address), share_port, iface, rcvbuf_bytes)
        claims = None if claims_of is None else claims_of(sock)
        return cls(sock, rcvbuf_bytes, 0, timestamps=timestamps, claims=claims)  # a new socket: its drops are all ours

    @property
    def buffer_bytes(self) -> int:
        """Memory that the kernel may hold, by its own accounting, which includes an overhead for each datagram."""
        return 2 * self.granted_bytes

    def note_drops(self, now: int) -> None:
        """Record the kernel's 32-bit count of drops, either the present one or the one at a datagram's arrival."""
        if self._claims is not None:
            return  # drops() asks it
        step = (now - self._drops_word) & 0xFFFFFFFF
        if step < 1 << 31:  # a datagram's count may be older than the socket's own
            self._drops += step
            self._drops_word = now

    def drops(self) -> int:
        """Datagrams that this socket lost in the kernel: receive buffer full, or a bad checksum."""
        if self.socket.fileno() >= 0:
            now = drop_count(self.socket)
            if self._claims is not None and now != self._drops_word:
                claimed = self._claims.claim(self._drops_word, now)
                if claimed is not None:
                    self._drops += claimed
                    self._drops_word = now
            self.note_drops(now)
        return self._drops

    def sources(self, names: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Senders from socket addresses (uint8 [n, 28], written by the kernel), as in KFB1: uint8 [n, 18], copied."""
        out = np.zeros((len(names), 18), np.uint8)
        out[:, 16:] = names[:, 2:4]
        if self.is_v6:
            out[:, :16] = names[:, 8:24]
        else:
            out[:, 10:12] = 0xFF
            out[:, 12:16] = names[:, 4:8]
        return out

    def close(self) -> None:
        """Close the socket; the count of drops stays readable. A supervisor that holds it too keeps it open."""
        if self.socket.fileno() >= 0:
            self.drops()
            self.socket.close()
            if self._claims is not None:
                self._claims.close()


class OnSocket:
    """Common part of all sources that read only one :class:`UdpSocket` (``_udp``)."""

    _udp: UdpSocket

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """None: the kernel is not asked for receive times, so a batch gets the time of the call."""

    def kernel_drops(self) -> int:
        """Datagrams that this socket lost in the kernel: receive buffer full, or a bad checksum."""
        return self._udp.drops()

    def details(self) -> dict[str, Any]:
        """No facts beyond those of every source."""
        return {}

    def begin_drain(self) -> None:
        """Do nothing: no other process can receive these frames."""
