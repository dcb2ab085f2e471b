"""What the filter does not judge, against what this kernel's stack delivers to a socket."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.harness.packets.netns import inside, run
from bench.harness.packets.packet import udp_packet
from bench.harness.packets.row import MORE, TO, V4, V6, changed, frame, sent
from bench.harness.packets.rows import all_rows
from klais.core.wire.constants import encode_frame
from klais.xdp.layout import Verdict
from tests.support.xdp import PORT, Raw, Rig, rig
from tests.support.xdp_native import Native

_UDP_NO_CHECK6_RX = 102  # the fixtures have no UDP checksum, which IPv6 refuses otherwise
UNJUDGED = (Verdict.NOT_OURS, Verdict.FRAGMENT)
LAST = encode_frame("last", 0, b"{}")
TAGGED = ("802.1Q", "QinQ", "VLAN")


class Stack:
    """The stack at the edge's end, reachable at the fixtures' addresses, and a socket at our port."""

    def __init__(self, found: Rig, raw: Raw) -> None:
        edge = found.pair.edge
        for command in ("addr add 10.0.0.1/32 dev in0", "route add default dev in0", "-6 route add default dev in0"):
            run("ip", "-n", edge, *command.split())
        with inside(edge):
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self.socket.bind(("::", PORT))
            self.socket.settimeout(10)
        self._raw, self._last = raw, raw.addressed(sent(LAST))

    def delivers(self, *packets: bytes) -> list[bytes]:
        """The payloads that the socket gets of these packets."""
        for packet in packets:
            self._raw.send(self._raw.addressed(packet))
        self._raw.send(self._last)
        got = []
        while (payload := self.socket.recv(65_536)) != LAST:
            got.append(payload)
        return got


@contextmanager
def stack(load: bool = False) -> Iterator[tuple[Stack, Rig]]:
    with rig(load=load) as found, found.raw() as raw:
        it = Stack(found, raw)
        try:
            yield it, found
        finally:
            it.socket.close()


def test_the_stack_delivers_nothing_that_the_filter_calls_not_ours() -> None:
    rows = [row for row in all_rows() if row.by_parsing and not row.rules]
    with stack() as (it, _):
        delivered = {row.name for row in rows if it.delivers(row.packet)}
    assert [row.name for row in rows if row.verdict == Verdict.NOT_OURS and row.name in delivered] == []
    plain = [
        row.name for row in rows if row.verdict == Verdict.PASS and row.frame and not any(t in row.name for t in TAGGED)
    ]
    assert len(plain) > 30 and len([name for name in plain if name in delivered]) > 0.8 * len(plain), (
        "else this shows nothing"
    )
    # These three are why such packets are judged at all.
    assert delivered >= {
        "seven extension headers",
        "thirty extension headers",
        "IPv6, UDP length 0: to the end of the packet",
    }


def test_of_all_kinds_of_headers_before_udp_the_stack_delivers_only_what_is_judged(native: Native) -> None:
    whole = frame("kinds")
    ipv4, ipv6 = sent(whole), sent(whole, V6)
    packets = [changed(ipv4, 23, bytes([kind])) for kind in range(256)]
    packets += [changed(ipv6, 20, bytes([kind])) for kind in range(256)]
    for kind in range(256):
        packets.append(sent(whole, V6, extensions=((kind, bytes(6)),)))
        packets.append(sent(whole, V6, extensions=((60, b"\x01\x04" + bytes(4)), (kind, bytes(6)))))
        ah = struct.pack(">BBHII", kind, 1, 0, 1, 1) if kind == 17 else b""  # an IPsec authentication header
        packets.append(changed(udp_packet(ah + whole, to=TO[V4]), 23, b"\x33"))
    with stack() as (it, _):
        unjudged = [packet for packet in packets if native.judge(packet).verdict in UNJUDGED]
        assert it.delivers(*unjudged) == []
        assert it.delivers(ipv4, ipv6) == [whole, whole]


def test_of_all_ethernet_types_the_stack_delivers_only_what_is_judged(native: Native) -> None:
    good = sent(frame("types"))
    packets = (good[:12] + struct.pack(">H", kind) + good[14:] for kind in range(65_536))
    with stack() as (it, _):
        assert it.delivers(*(packet for packet in packets if native.judge(packet).verdict in UNJUDGED)) == []


EVIL = encode_frame("evil", 7, b'{"t":1,"pad":"' + b"x" * 64 + b'"}')
OTHER = encode_frame("good", 7, b"")


def fragments(cut: int, padding: bytes = b"") -> tuple[bytes, bytes]:
    """The frame of the blocked device in two IPv4 packets; ``cut`` counts bytes of the UDP datagram."""
    whole = sent(EVIL)
    udp = whole[34:]
    return tuple(
        changed(whole[:34], 16, struct.pack(">HHH", 20 + len(part), 9, bits)) + part + more
        for part, bits, more in ((udp[:cut], MORE, padding), (udp[cut:], cut // 8, b""))
    )  # type: ignore[return-value]


def fragments6(cut: int) -> tuple[bytes, bytes]:
    whole = sent(EVIL, V6)
    udp = whole[54:]
    parts = ((udp[:cut], 1), (udp[cut:], cut))
    packets = []
    for part, offset in parts:
        rest = struct.pack(">BBHI", 17, 0, offset, 9) + part
        packets.append(changed(whole[:54], 18, struct.pack(">HB", len(rest), 44)) + rest)
    return packets[0], packets[1]


HOP = (60, b"\x01\x04" + bytes(4))
DISGUISES: dict[str, tuple[bytes, ...]] = {
    "none": (sent(EVIL),),
    "IPv6": (sent(EVIL, V6),),
    "six extension headers": (sent(EVIL, V6, extensions=(HOP,) * 6),),
    "seven extension headers": (sent(EVIL, V6, extensions=(HOP,) * 7),),
    "thirty extension headers": (sent(EVIL, V6, extensions=(HOP,) * 30),),
    "UDP length 0 over IPv6": (changed(sent(EVIL, V6), 58, b"\0\0"),),
    "a first fragment with the whole header": fragments(32),
    "a first fragment that cuts the header": fragments(24),
    "a first fragment that cuts the id": fragments(16),
    "a first fragment of UDP only": fragments(8),
    "padding that completes the header with another id": fragments(8, OTHER),
    "padding that completes the cut id": fragments(16, OTHER[8:]),
    "the second fragment first": fragments(24)[::-1],
    "IPv6, a first fragment that cuts the header": fragments6(24),
    "IPv6, a first fragment of UDP only": fragments6(8),
}


def test_a_blocked_device_comes_through_in_no_disguise() -> None:
    with stack(load=True) as (it, found), found.maps() as maps:
        maps.block("evil", 60)
        assert {name: it.delivers(*packets) for name, packets in DISGUISES.items() if it.delivers(*packets)} == {}
        maps.unblock("evil")
        maps.set_monitor("headers", True)
        assert it.delivers(*DISGUISES["thirty extension headers"]) == [EVIL], "or this shows nothing"
        assert it.delivers(*DISGUISES["padding that completes the header with another id"]) == [EVIL]
        assert it.delivers(*DISGUISES["IPv6, a first fragment that cuts the header"]) == [EVIL]


@pytest.mark.parametrize("what", ["pass", "drop"])
def test_fragments_pass_or_are_dropped_as_the_loader_is_told(what: str) -> None:
    with stack(load=False) as (it, found):
        found.load(fragments=what)
        got = it.delivers(*DISGUISES["a first fragment with the whole header"])
        assert got == ([EVIL] if what == "pass" else [])
        assert found.counts()["fragment_dropped"] == (0 if what == "pass" else 2)
        found.load(fragments="pass")
        assert it.delivers(*DISGUISES["a first fragment with the whole header"]) == [EVIL]
