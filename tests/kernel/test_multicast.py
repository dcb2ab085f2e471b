"""Frames that devices send to a multicast group reach the edge, which joined it: real interfaces, in namespaces."""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bench.harness.packets.netns import Pair, inside, veth_pair
from klais.config.load import Settings
from klais.edge.listener import listen
from klais.edge.sources.udp.source import UdpSource
from tests.support.needs import need_missing
from tests.support.source import receive

FRAMES = [b"frame %d" % number for number in range(20)]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    if os.geteuid() != 0:
        need_missing("kernel", "namespaces need root")
    try:
        with veth_pair() as made:
            yield made
    except OSError as error:
        need_missing("kernel", str(error))


def send(pair: Pair, group: str, port: int) -> None:
    with inside(pair.devices):
        index = socket.if_nametoindex("out0")
        to: tuple[Any, ...]
        if ipaddress.ip_address(group).version == 4:
            sock, to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), (group, port)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
        else:
            sock, to = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), (group, port, 0, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    with sock:
        for each in FRAMES:
            sock.sendto(each, to)


@pytest.mark.parametrize(
    ("group", "bind", "named"),
    [
        ("239.99.7.1", "239.99.7.1:0", True),
        ("ff15::7:1", "[ff15::7:1]:0", True),
        ("ff15::7:1", "[ff15::7:1]:0", False),
        ("ff02::7:1", "[ff02::7:1]:0", True),
        ("ff02::7:1", "[ff02::7:1%in0]:0", False),
    ],
)
def test_frames_to_a_group_are_received(pair: Pair, group: str, bind: str, named: bool) -> None:
    with inside(pair.edge):
        settings = Settings(udp_bind=bind, udp_rcvbuf_bytes=1 << 20, iface=pair.iface if named else None)
        source = UdpSource(listen(settings))
    try:
        send(pair, group, source.port)
        assert [frame for frame, _, _ in receive(source, len(FRAMES))] == FRAMES
    finally:
        source.close()
