"""The first step of the edge: bind the UDP port, or take over the socket that systemd or a supervisor holds.

This module imports no kernels. Once :func:`listen` returns, the operating system buffers the frames of devices, while
the process loads its compiled code for a second or two.
"""

import socket
from collections.abc import Sequence
from functools import partial

from klais.config.load import Settings
from klais.edge.drop_record import DropRecord
from klais.edge.sources.udp.socket import UdpSocket
from klais.errors import ConfigError
from klais.system.activation import UDP_NAME, InheritedSocket, inherited_sockets
from klais.system.address import Bind, join_group
from klais.system.sd_notify import Notifier
from klais.telemetry import log as logs

log = logs.get("klais.edge.listener")


def udp_sockets(settings: Settings, inherited: Sequence[InheritedSocket]) -> list[InheritedSocket]:
    """The inherited sockets that devices send to.

    Raises
    ------
    ConfigError
        If there is a UDP socket, but none on the port of ``KLAIS_UDP_BIND``: no process would read its frames.
    """
    port = Bind.parse(settings.udp_bind).port
    udp = [one for one in inherited if one.socket.type == socket.SOCK_DGRAM and one.socket.family != socket.AF_UNIX]
    fit = [one for one in udp if port in (0, one.socket.getsockname()[1])]
    if udp and not fit:
        ports = ", ".join(str(one.socket.getsockname()[1]) for one in udp)
        raise ConfigError(
            f"the service manager passes a UDP socket on port {ports}, but KLAIS_UDP_BIND is {settings.udp_bind}: "
            "make the port the same in both"
        )
    return fit


def counted_drops(settings: Settings, one: InheritedSocket) -> int:
    """The kernel's drops at an inherited socket that earlier processes have counted."""
    return DropRecord(settings, one.socket).counted() if one.drops is None else one.drops


def listen(settings: Settings, notifier: Notifier | None = None) -> UdpSocket:
    """The socket to receive on: inherited, or bound now and stored in systemd's descriptor store.

    Raises
    ------
    klais.errors.PortInUse, ConfigError
        If the port is in use, the multicast group cannot be joined, or an inherited socket has another port.
    """
    found = udp_sockets(settings, inherited_sockets())
    if not found:
        udp = UdpSocket.bind(
            settings.udp_bind,
            settings.udp_rcvbuf_bytes,
            settings.udp_share_port,
            settings.iface,
            settings.udp_timestamps,
            partial(DropRecord, settings),
        )
        (notifier or Notifier()).store(udp.socket, UDP_NAME)
        return udp
    first, *others = found
    for other in others:
        other.socket.close()
    join_group(first.socket, settings.iface)
    udp = UdpSocket(
        first.socket,
        settings.udp_rcvbuf_bytes,
        counted_drops(settings, first),
        True,
        settings.udp_timestamps,
        DropRecord(settings, first.socket),
    )
    log.info("socket_inherited", name=first.name, port=udp.port, receive_buffer_bytes=udp.granted_bytes)
    if others:
        log.warning(
            "sockets_closed", count=len(others), why="one edge process reads one socket", do="KLAIS_EDGE_WORKERS"
        )
    return udp
