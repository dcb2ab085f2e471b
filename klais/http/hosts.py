"""Host names of a server: a web page that points its own name at us (DNS rebinding) uses another one."""

import re
import socket
from collections.abc import Iterable

from klais.system.address import is_ip, split_port


class AllowedHosts:
    """IP addresses, ``localhost``, this host's name, the name that the server is bound to, and configured names.

    Parameters
    ----------
    bind : str
        Host on which the server listens.
    extra : iterable of str
        Additional names (``KLAIS_API_HOSTS``); a leading dot means all names below it.

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
        """Whether ``host`` or ``host:port`` of a request is a name of this server."""
        host = host_of(authority)
        if host is None:
            return False
        return is_ip(host, 4) or is_ip(host, 6) or host in self._names or host.endswith(self._below)


def host_of(authority: str) -> str | None:
    """The host of ``host[:port]`` in lower case, without brackets; None if the text is invalid."""
    try:
        host, port = split_port(authority)
    except ValueError:
        return None
    if port is not None and not re.fullmatch("[0-9]{1,5}", port):
        return None
    if authority.startswith("[") or ":" in host:  # only IPv6 addresses have brackets, and always
        return host.lower() if authority.startswith("[") and is_ip(host, 6) else None
    return _plain(host) if host else None


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")
