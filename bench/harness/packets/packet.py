"""Raw packets, and the plain definition of the position of UDP's payload in them (RFC 791, 8200, 768, IEEE 802.1Q)."""

import ipaddress
import struct

from klais.xdp.layout import MAX_EXTENSIONS, MAX_TAGS


def udp_packet(
    payload: bytes,
    source: str = "10.9.8.7",
    port: int = 40_000,
    to: str = "10.0.0.1",
    to_port: int = 5000,
    tags: tuple[int, ...] = (),
    options: bytes = b"",
    extensions: tuple[tuple[int, bytes], ...] = (),
    fragment: int = 0,
    padding: bytes = b"",
    udp_length: int | None = None,
) -> bytes:
    """An Ethernet packet with one UDP datagram; ``extensions`` are IPv6 headers: kind, 8 k bytes less two."""
    udp = struct.pack(">HHHH", port, to_port, udp_length or 8 + len(payload), 0) + payload
    where = ipaddress.ip_address(source), ipaddress.ip_address(to)
    ethernet = bytes(range(12)) + b"".join(struct.pack(">HH", tag, 7) for tag in tags)
    if where[0].version == 4:
        size = 20 + len(options)
        head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(udp), 1, fragment, 64, 17, 0)
        return ethernet + b"\x08\x00" + head + where[0].packed + where[1].packed + options + udp + padding
    kinds = [kind for kind, _ in extensions] + [17]
    chain = b"".join(
        bytes([after, 0 if kind == 44 else (len(body) + 2) // 8 - 1]) + body
        for (kind, body), after in zip(extensions, kinds[1:], strict=True)
    )
    head = struct.pack(">IHBB", 0x6000_0000, len(chain) + len(udp), kinds[0], 64)
    return ethernet + b"\x86\xdd" + head + where[0].packed + where[1].packed + chain + udp + padding


def payload_of(packet: bytes) -> tuple[bytes, bytes] | None:
    """Payload and source (16 bytes of address, 2 of port) of a packet, or None if it has no complete UDP datagram."""
    if len(packet) < 14:
        return None
    kind, rest = int.from_bytes(packet[12:14], "big"), packet[14:]
    for _ in range(MAX_TAGS):
        if kind not in (0x8100, 0x88A8):
            break
        if len(rest) < 4:
            return None
        kind, rest = int.from_bytes(rest[2:4], "big"), rest[4:]
    if kind == 0x0800:
        found = _ipv4(rest)
    elif kind == 0x86DD:
        found = _ipv6(rest)
    else:
        return None
    if found is None:
        return None
    udp, address = found
    if len(udp) < 8:
        return None
    size = int.from_bytes(udp[4:6], "big")
    return (udp[8:size], address + udp[:2]) if 8 <= size <= len(udp) else None


def _ipv4(rest: bytes) -> tuple[bytes, bytes] | None:
    if len(rest) < 20 or rest[0] >> 4 != 4 or rest[9] != 17:
        return None
    size, total = rest[0] % 16 * 4, int.from_bytes(rest[2:4], "big")
    fragment = int.from_bytes(rest[6:8], "big") % 0x4000
    if size < 20 or total < size or total > len(rest) or fragment:
        return None
    return rest[size:total], bytes(10) + b"\xff\xff" + rest[12:16]


def _ipv6(rest: bytes) -> tuple[bytes, bytes] | None:
    if len(rest) < 40 or rest[0] >> 4 != 6:
        return None
    kind, address, total = rest[6], rest[8:24], int.from_bytes(rest[4:6], "big")
    if 40 + total > len(rest):
        return None
    body = rest[40 : 40 + total]
    for _ in range(MAX_EXTENSIONS):
        if kind not in (0, 43, 44, 60):
            break
        if len(body) < 8 or (kind == 44 and int.from_bytes(body[2:4], "big") & 0xFFF9):
            return None
        size = 8 if kind == 44 else (body[1] + 1) * 8
        kind, body = body[0], body[size:]
    return (body, address) if kind == 17 else None
