"""Packet fixtures and the construction of their packets."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.harness.packets.packet import udp_packet
from klais.core.wire.constants import MAGIC_BYTES, encode_frame
from klais.xdp.layout import Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps

WIDE = Limits(1e8, 1e9, 1e6, 1e6)
NO_LIMITS = Limits(math.inf, math.inf, math.inf, math.inf)
V4, V6 = "10.9.8.7", "fd77::2"
TO = {V4: "10.0.0.1", V6: "fd77::1"}
Q, AD = 0x8100, 0x88A8
MORE = 0x2000
PAYLOAD = b'{"t":21.53,"h":48.2,"b":3.71,"s":1}'
PLAIN = Verdict.PASS
PADDED = (60, b"\x01\x04" + bytes(4))  # one option of padding: the stack accepts any number of these


@dataclass(frozen=True)
class Row:
    """``before`` are earlier packets; ``prepare`` sets the maps; ``frame`` None = the packet has no frame."""

    name: str
    packet: bytes
    verdict: Verdict
    frame: bytes | None = None
    limits: Limits = WIDE
    before: tuple[bytes, ...] = ()
    prepare: Callable[[XdpMaps], Any] | None = None
    rules: tuple[str, ...] = field(default=())

    @property
    def by_parsing(self) -> bool:
        """Whether the verdict follows from the bytes alone."""
        return not self.before and self.prepare is None and self.limits == WIDE


def frame(device: str | bytes, payload: bytes = PAYLOAD) -> bytes:
    """A good frame."""
    return encode_frame(device, 7, payload)


def with_id(raw: bytes) -> bytes:
    """A frame whose 16 bytes of device_id are ``raw``, padded."""
    return MAGIC_BYTES + raw.ljust(16, b"\0") + bytes(4) + PAYLOAD


def sent(payload: bytes, source: str = V4, **more: Any) -> bytes:
    """A packet to our port."""
    return udp_packet(payload, source, to=TO[source], **more)


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    """``packet`` with other bytes at an offset (negative: from the end)."""
    at %= len(packet)
    return packet[:at] + value + packet[at + len(value) :]


def first_of(payload: bytes, kept: int) -> bytes:
    """The first fragment of a datagram, with ``kept`` bytes of its payload."""
    packet = sent(payload[:kept], fragment=MORE)
    return changed(packet, 38, struct.pack(">H", 8 + len(payload)))
