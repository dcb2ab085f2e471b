"""A socket that is bound to a multicast group joins it, on the interface that is named; loopback stands for one."""

import ipaddress
import socket
import struct

import pytest

from klais.errors import ConfigError
from klais.system.address import Bind, join_group, open_udp_socket

GROUPS = ["239.99.7.1", "ff02::7:1", "ff02::7:1%lo"]


def send(group: str, port: int, data: bytes) -> None:
    """To the group, by loopback."""
    bare = ipaddress.ip_address(group.partition("%")[0])
    index = socket.if_nametoindex("lo")
    if bare.version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
            sock.sendto(data, (str(bare), port))
    else:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.sendto(data, (str(bare), port, 0, index))


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("group", GROUPS)
def test_frames_to_a_group_arrive(group: str) -> None:
    if ":" in group and not has_ipv6():
        pytest.skip("no IPv6 here")
    with open_udp_socket(Bind(group, 0), share_port=False, iface=None if "%" in group else "lo") as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        send(group, sock.getsockname()[1], b"hello")
        assert sock.recv(100) == b"hello"


def test_joining_again_is_no_error_and_other_addresses_join_nothing() -> None:
    with open_udp_socket(Bind("239.99.7.2", 0), share_port=False, iface="lo") as sock:
        assert join_group(sock, "lo")
    with open_udp_socket(Bind("127.0.0.1", 0), share_port=False, iface="no-such-iface") as sock:
        assert not join_group(sock, None)


def test_a_group_that_cannot_be_joined_says_why() -> None:
    with pytest.raises(ConfigError, match=r"there is no interface 'eth77'.*KLAIS_IFACE.*lo"):
        open_udp_socket(Bind("239.99.7.1", 0), share_port=False, iface="eth77")
