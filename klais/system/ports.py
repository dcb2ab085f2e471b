"""Ports: check whether one is free, name the process that holds it, find a free one."""

import contextlib
import errno
import ipaddress
import random
import socket
from collections import deque
from collections.abc import Sequence
from typing import Literal

from klais.errors import ConfigError, KlaisError, PortInUse
from klais.text import escape

Kind = Literal["tcp", "udp"]
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def check_port(host: str, port: int, kind: Kind = "tcp", setting: str = "", host_setting: str = "") -> None:
    """Return when ``host:port`` can be bound now.

    Parameters
    ----------
    host : str
        Address or name to listen on.
    port : int
        0 is always free: the kernel chooses a port.
    kind : {"tcp", "udp"}
        Protocol.
    setting : str
        Name of the variable that chooses the port, for the message.
    host_setting : str
        Name of the variable that chooses the address, if it is a different one.

    Raises
    ------
    klais.errors.PortInUse, klais.errors.ConfigError
        As raised by :func:`cannot_listen`.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=_TYPES[kind], flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, _TYPES[kind]) as probe:
            if kind == "tcp":  # like every server: closing connections do not block the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port, kind, setting, error, host_setting) from error


def cannot_listen(
    host: str, port: int, kind: Kind, setting: str, error: Exception, host_setting: str = ""
) -> KlaisError:
    """The exception for ``host:port`` that could not be bound because of ``error``.

    PortInUse if another process listens there: it names the port, the process if this user may read it, and the
    setting. Else ConfigError: the name does not resolve, the address is not of this machine, or this user may not use
    the port. The message names the wrong setting: ``host_setting`` (if given) for the address, ``setting`` for the
    port.
    """
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        held = holder(port, kind, host)
        who = f"by {held}" if held else "(by a process of another user, or by a connection that is still closing)"
        hint = f": stop it, or choose another port with {setting}" if setting else ""
        return PortInUse(f"{kind} port {port} on {host} is taken {who}{hint}")
    wrong = host_setting or setting
    if isinstance(error, socket.gaierror | UnicodeError):
        why = "no such host name or address"
    elif number == errno.EADDRNOTAVAIL:
        why = "no interface of this machine has this address (0.0.0.0 listens on all)"
    elif number in (errno.EACCES, errno.EPERM):
        wrong = setting
        why = "permission denied: ports below 1024 need CAP_NET_BIND_SERVICE"
    else:
        why = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"cannot listen on {kind} port {port} of {host!r}: {why}" + (f" ({wrong})" if wrong else ""))


def holder(port: int, kind: Kind = "tcp", host: str = "0.0.0.0") -> str | None:
    """``name (pid 123)`` of the process because of which ``port`` cannot be bound on ``host``.

    None if there is no such process, or this user may not read which one. The same number on another address of this
    machine, or of the other protocol, is another port.
    """
    import psutil  # here: a start that finds its port free does not need it

    try:
        connections = psutil.net_connections(kind)
    except psutil.Error:
        return None
    for entry in connections:
        listens = kind == "udp" or entry.status == psutil.CONN_LISTEN
        if entry.laddr and entry.laddr.port == port and listens and entry.pid and _overlap(entry.laddr.ip, host):
            try:
                process = psutil.Process(entry.pid)
                return f"{_title(process.name(), process.cmdline())} (pid {entry.pid})"
            except psutil.Error:
                return f"pid {entry.pid}"
    return None


SERVER_PORTS = range(10_000, 22_000)


_returned: deque[int] = deque(maxlen=1000)


def free_port(host: str = "127.0.0.1", kind: Kind = "tcp", among: range = SERVER_PORTS) -> int:
    """A port that is free now, and not one of the last 1,000 that this process asked for.

    Another process may bind it before you do: be ready to retry.

    It is below the ports that the system assigns to outgoing connections, so no client gets it while a server restarts.
    """
    family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
    for port in random.SystemRandom().sample(among, 100):
        if port in _returned:  # its user has perhaps not bound it yet
            continue
        with socket.socket(family, _TYPES[kind]) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            _returned.append(port)
            return port
    raise PortInUse(f"none of 100 ports from {among.start} to {among.stop - 1} on {host} is free")


def _title(name: str, command: Sequence[str]) -> str:
    """The program's name; for interpreters also the script, because ``python3`` alone identifies no program. One
    line, escaped: another user may have chosen the arguments."""
    words = [escape(word) for word in command[1:] if not word.startswith("-")]
    name = escape(name)
    if name.startswith("python") and words:
        return f"{name} {' '.join(words[:3])}"[:80]
    if name == "java" and words:
        return f"java {next((word for word in words if word.startswith('kafka.')), words[-1])}"[:80]
    return name


def _is_ipv6(host: str) -> bool:
    return ":" in host


def _overlap(held: str, asked: str) -> bool:
    """Whether a socket on one address keeps a port from being bound on the other; names overlap with any address."""
    first, second = _address(held), _address(asked)
    if first is None or second is None:
        return True
    same_family = first.version == second.version
    for one in (first, second):  # 0.0.0.0 means all of IPv4, :: all of both
        if one.is_unspecified and (same_family or one.version == 6):
            return True
    return first == second


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
