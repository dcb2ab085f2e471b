"""Open the sources behind the XDP filter: ``af_xdp`` and ``ringbuf``."""

import array
import fcntl
import socket
import struct
from collections.abc import Callable

from klais.config.load import Settings
from klais.edge.sources.af_xdp.ring import XskRings
from klais.edge.sources.ringbuf.ring import SlotRing
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import UdpSource
from klais.edge.sources.xdp_filter.attachment import Filter, open_filter
from klais.edge.sources.xdp_filter.source import FilteredSource, Rings
from klais.text import numbers_of

_SIOCGIFMTU, _SIOCETHTOOL = 0x8921, 0x8946
_ETHTOOL_GCHANNELS = 0x3C
_CHANNELS_WORDS = 9  # struct ethtool_channels: command, four maxima, then rx, tx, other, combined
_RX, _COMBINED = 5, 8


def open_af_xdp(settings: Settings, udp: UdpSocket) -> FilteredSource:
    """The ``af_xdp`` source: one AF_XDP socket for each queue of the interface, or for those named in the settings."""

    def rings(xdp: Filter) -> Rings:
        queues = numbers_of(settings.xdp_queues) if settings.xdp_queues else list(range(queues_of(xdp.iface)))
        return XskRings(xdp, queues, mtu_of(xdp.iface), settings.udp_rcvbuf_bytes)

    return _open(settings, udp, rings)


def open_ringbuf(settings: Settings, udp: UdpSocket) -> FilteredSource:
    """The ``ringbuf`` source: the filter copies frames into its BPF ring buffer."""
    return _open(settings, udp, SlotRing)


def _open(settings: Settings, udp: UdpSocket, rings: Callable[[Filter], Rings]) -> FilteredSource:
    """Open the source on a bound socket, so that frames that the filter passes up are received from the start."""
    xdp = open_filter(settings, udp.port)
    try:
        opened = rings(xdp)
        try:
            return FilteredSource(opened, UdpSource(udp), xdp)
        except BaseException:
            opened.close()
            raise
    except BaseException:
        xdp.close()
        raise


def mtu_of(iface: str) -> int:
    """MTU of an interface in bytes."""
    return int(struct.unpack("=16si12x", _ask(_SIOCGIFMTU, struct.pack("=16si12x", iface.encode(), 0)))[1])


def queues_of(iface: str) -> int:
    """Number of active receive queues of an interface; 1 if its driver does not report it."""
    channels = array.array("I", [_ETHTOOL_GCHANNELS] + [0] * (_CHANNELS_WORDS - 1))
    try:
        _ask(_SIOCETHTOOL, struct.pack("=16sQ8x", iface.encode(), channels.buffer_info()[0]))
    except OSError:
        return 1
    return max(1, channels[_RX] + channels[_COMBINED])


def _ask(request: int, about: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return fcntl.ioctl(sock, request, about)
