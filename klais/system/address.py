"""``host:port`` of the edge's sockets: parsing, binding, and saying who holds a port that is taken."""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Literal

from klais.config.checks import split_address
from klais.errors import ConfigError, PortInUse


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Bind":
        """From ``host:port``; an IPv6 host stands in brackets.

        Examples
        --------
        >>> Bind.parse("[::1]:5000")
        Bind(host='::1', port=5000)
        """
        try:
            return cls(*split_address(text))
        except ValueError as error:
            raise ConfigError(f"{text!r} is not host:port: {error}") from error


def open_udp_socket(bind: Bind, share_port: bool) -> socket.socket:
    """A bound, non-blocking UDP socket; IPv6 sockets take IPv4 too.

    Raises
    ------
    PortInUse
        Naming the port and, where readable, the process that holds it.
    """
    family, _, _, _, address = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if share_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise taken(bind, "udp", "KLAIS_UDP_BIND") from error
    return sock


def taken(bind: Bind, kind: Literal["tcp", "udp"], setting: str) -> PortInUse:
    """The error of a port that is taken, naming who holds it."""
    from klais.system.ports import holder  # psutil is only needed for this message

    who = holder(bind.port, kind) or "a process of another user"
    return PortInUse(f"{kind} port {bind.port} on {bind.host} is taken by {who}: stop it, or choose another with {setting}")


def source_text(row: bytes) -> str:
    """The 18 bytes of a source as ``ip:port`` (v4-mapped addresses as IPv4, IPv6 in brackets).

    Examples
    --------
    >>> source_text(bytes(10) + b"\\xff\\xff\\x7f\\0\\0\\x01" + b"\\x13\\x88")
    '127.0.0.1:5000'
    """
    ip = ipaddress.IPv6Address(row[:16])
    port = int.from_bytes(row[16:18], "big")
    return f"{ip.ipv4_mapped}:{port}" if ip.ipv4_mapped else f"[{ip}]:{port}"
