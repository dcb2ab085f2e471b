"""Names under which a server answers: a web page that points a name of its own at us (DNS rebinding) uses another
one.
"""

import ipaddress
import socket
from collections.abc import Iterable


class AllowedHosts:
    """IP addresses, ``localhost``, this host's name, the name that the server is bound to, and those that are given.

    Parameters
    ----------
    bind : str
        Host that the server listens on.
    extra : iterable of str
        More names (``KLAIS_API_HOSTS``); one that begins with a dot stands for all names below it.

    Examples
    --------
    >>> hosts = AllowedHosts("127.0.0.1", ["gateway.example", ".internal"])
    >>> [hosts.allows(name) for name in ("gateway.example:8080", "a.internal", "[::1]:80", "evil.example")]
    [True, True, True, False]
    """

    def __init__(self, bind: str, extra: Iterable[str] = ()) -> None:
        own = socket.gethostname()
        names = {_plain(name) for name in ("localhost", bind, own, own.partition(".")[0], *extra)} - {""}
        self._names = frozenset(name for name in names if not name.startswith("."))
        self._below = tuple(name for name in names if name.startswith("."))

    def allows(self, authority: str) -> bool:
        """Whether ``host`` or ``host:port`` of a request is one of ours."""
        host = host_of(authority)
        if host is None:
            return False
        return is_ip(host) or host in self._names or host.endswith(self._below)


def host_of(authority: str) -> str | None:
    """The host of ``host[:port]`` in lower case, without brackets; None when it is no such text."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or not _is_port(port) or ":" not in host or not is_ip(host):
            return None
        return host.lower()
    host, colon, port = authority.partition(":")
    return _plain(host) if host and _is_port(colon + port) else None


def is_ip(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, written out."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text == "" or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6)


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")
