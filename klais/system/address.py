"""Addresses ``host:port``: parse and format them, bind a UDP socket, name the process that holds a port."""

import errno
import ipaddress
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from klais.errors import ConfigError, KlaisError

HOST_NAME = re.compile(r"^(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?$")


def split_port(text: str) -> tuple[str, str | None]:
    """Host and port of ``host``, ``host:port``, ``[IPv6]``, ``[IPv6]:port`` or a bare IPv6 address, both unchecked: the
    host without brackets, the port None if there is none.

    Raises
    ------
    ValueError
        If a bracket is missing, or is followed by something other than a port.

    Examples
    --------
    >>> split_port("[::1]:80"), split_port("10.0.0.1:http"), split_port("::1")
    (('::1', '80'), ('10.0.0.1', 'http'), ('::1', None))
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise ValueError("an IPv6 address needs brackets, as in [::]:5000")
        return host, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        return text, None
    return host, port if colon else None


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[IPv6]:port``.

    Raises
    ------
    ValueError
        If it is not an address; the message has the reason.

    Examples
    --------
    >>> split_address("[::1]:5000"), split_address("localhost:80")
    (('::1', 5000), ('localhost', 80))
    """
    host, port = split_port(text)
    if text.startswith("["):
        if not is_ip(host, 6):
            raise ValueError(f"{host!r} in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in [::]:5000")
    if not host or port is None:
        raise ValueError("must be host:port, as in 127.0.0.1:5000 or [::]:5000")
    if ":" not in host and not is_ip(host, 4) and not HOST_NAME.match(host):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"port {port!r} is not a number from 0 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """``host:port``, with an IPv6 host in brackets; the inverse of :func:`split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_host(host: str) -> str:
    """The host at which this machine reaches a server that listens on ``host``: loopback for an unspecified address.

    Examples
    --------
    >>> local_host("0.0.0.0"), local_host("::"), local_host("10.0.0.5")
    ('127.0.0.1', '::1', '10.0.0.5')
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def destination(text: str) -> tuple[str, int]:
    """Host and port to send to, from ``host:port`` or ``[ipv6]:port``; an unspecified host means this machine.

    Raises
    ------
    ValueError
        If it does not have that form.

    Examples
    --------
    >>> destination("0.0.0.0:5000"), destination("[::]:5000")
    (('127.0.0.1', 5000), ('::1', 5000))
    """
    try:
        host, port = split_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not host:port: {error}") from error
    if not port:
        raise ValueError(f"{text!r} is not host:port: port 0 is not a port to send to")
    return local_host(host), port


def url_of(host: str, port: int) -> str:
    """URL at which this machine reaches an HTTP server that listens on ``host`` and ``port``.

    Examples
    --------
    >>> url_of("0.0.0.0", 8080), url_of("::", 80)
    ('http://127.0.0.1:8080', 'http://[::1]:80')
    """
    return f"http://{join_address(local_host(host), port)}"


def is_ip(text: str, version: int) -> bool:
    """Whether the text is an IP address of that version."""
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def http_host(bind: str) -> str:
    """The host in the URL of a server that listens on ``bind``: this host's name if it listens on all addresses.

    Examples
    --------
    >>> http_host("::1")
    '[::1]'
    """
    if bind in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{bind}]" if ":" in bind else bind


@dataclass(frozen=True, slots=True)
class Bind:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Bind":
        """Parse ``host:port``; an IPv6 host is in brackets.

        Examples
        --------
        >>> Bind.parse("[::1]:5000")
        Bind(host='::1', port=5000)
        """
        try:
            return cls(*split_address(text))
        except ValueError as error:
            raise ConfigError(f"{text!r} is not host:port: {error}") from error


def open_udp_socket(bind: Bind, share_port: bool, iface: str | None = None, rcvbuf_bytes: int = 0) -> socket.socket:
    """Open a bound, non-blocking UDP socket; IPv6 sockets also take IPv4, and a multicast group is joined.

    ``iface`` is the interface for joining a group; None = chosen by the kernel's routes. A link-local IPv6 group may
    name it itself (``[ff02::17%eth0]:5000``). ``rcvbuf_bytes`` is requested before the socket is bound: the kernel's
    default buffer could overflow before the process gets to run again. 0 = the default.

    Raises
    ------
    PortInUse
        If the port is in use; the message names it and, if readable, the process that holds it.
    ConfigError
        If the address cannot be bound or the group not be joined; the message has the reason and what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:
        raise bind_error(bind, "udp", "KLAIS_UDP_BIND", error) from error
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if share_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if rcvbuf_bytes:
            ask_receive_buffer(sock, rcvbuf_bytes)
        if iface and bind.host.lower().startswith("ff02:") and "%" not in bind.host:
            address = (*address[:2], 0, _index_of(iface, bind.host))  # each interface has its own link-local groups
        sock.bind(address)
        join_group(sock, iface)
    except OSError as error:
        sock.close()
        raise bind_error(bind, "udp", "KLAIS_UDP_BIND", error) from error
    except BaseException:
        sock.close()
        raise
    return sock


def join_group(sock: socket.socket, iface: str | None) -> bool:
    """Join the multicast group that a socket is bound to; False if it is bound to no group.

    Raises
    ------
    ConfigError
        If there is no such interface, or the kernel has no route for the group.
    """
    host, _, *scope = sock.getsockname()
    group = ipaddress.ip_address(host.partition("%")[0])
    if not group.is_multicast:
        return False
    index = _index_of(iface, str(group)) if iface else 0
    if len(scope) > 1 and scope[1]:
        index = scope[1]
    try:
        if group.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4xi", group.packed, index))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16sI", group.packed, index))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:  # an inherited socket is already a member
            raise ConfigError(
                f"cannot join {group}: {error.strerror}. Set KLAIS_IFACE to the interface that receives its frames"
            ) from error
    return True


def _index_of(iface: str, group: str) -> int:
    try:
        return socket.if_nametoindex(iface)
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise ConfigError(f"cannot join {group}: there is no interface {iface!r} (KLAIS_IFACE), only {known}") from None


def ask_receive_buffer(sock: socket.socket, asked: int, shrink: bool = True) -> int:
    """Request a receive buffer, beyond ``net.core.rmem_max`` if this user may; returns the bytes granted.

    ``shrink`` False: an inherited socket keeps the larger buffer that its owner could give it.
    """
    before = 0 if shrink else _receive_buffer(sock)
    if before >= asked:
        return before
    try:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), asked)
    except PermissionError:
        # The kernel limits requests of ordinary users, so the larger buffer of the owner could not be restored.
        if min(asked, int(Path("/proc/sys/net/core/rmem_max").read_text())) > before:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked)
    return _receive_buffer(sock)


def _receive_buffer(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles what it grants


def bind_error(bind: Bind, kind: Literal["tcp", "udp"], setting: str, error: Exception) -> KlaisError:
    """The exception for an address that cannot be bound; see :func:`klais.system.ports.cannot_listen`."""
    from klais.system.ports import cannot_listen  # psutil is only needed for this message

    return cannot_listen(bind.host, bind.port, kind, setting, error)


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
