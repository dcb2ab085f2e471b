"""The ``af_xdp`` source: AF_XDP sockets behind the XDP filter."""

# Not named `socket`: importing the submodule of that name would replace it here.
from socket import SOCK_RAW
from socket import socket as new_socket

from klais.config.load import Settings
from klais.edge.sources import xdp_filter

_AF_XDP = 44


def unavailable(settings: Settings) -> str | None:
    """Why this source does not work here, or None."""
    try:
        new_socket(_AF_XDP, SOCK_RAW).close()
    except PermissionError:
        return "AF_XDP needs root (CAP_NET_RAW)"
    except OSError:
        return "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
    return xdp_filter.unavailable(settings)
