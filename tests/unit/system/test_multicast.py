"""A socket that is bound to a multicast group joins it; see also ``tests/kernel/test_multicast.py``."""

import socket
import struct

import pytest

from klais.errors import ConfigError
from klais.system.address import Bind, join_group, open_udp_socket


def test_frames_to_a_group_arrive() -> None:
    with open_udp_socket(Bind("239.99.7.1", 0), share_port=False, iface="lo") as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            lo = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("lo"))
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, lo)
            sender.sendto(b"hello", sock.getsockname())
        assert sock.recv(100) == b"hello"


def test_joining_again_is_no_error_and_other_addresses_join_nothing() -> None:
    with open_udp_socket(Bind("239.99.7.2", 0), share_port=False, iface="lo") as sock:
        assert join_group(sock, "lo")
    with open_udp_socket(Bind("127.0.0.1", 0), share_port=False, iface="no-such-iface") as sock:
        assert not join_group(sock, None)


def test_a_group_that_cannot_be_joined_says_why() -> None:
    with pytest.raises(ConfigError, match=r"there is no interface 'eth77'.*KLAIS_IFACE.*lo"):
        open_udp_socket(Bind("239.99.7.1", 0), share_port=False, iface="eth77")
