"""Packet fixtures: name, bytes, contents of the maps, expected verdict; for tests and benchmark.

Each row uses a separate device, so rows do not spend each other's tokens.
"""

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

from bench.harness.packets import ids as xdp_ids
from bench.harness.packets.monitor_rows import monitored_limits, monitored_packets
from bench.harness.packets.row import (
    AD,
    MORE,
    NO_LIMITS,
    PADDED,
    PLAIN,
    V4,
    V6,
    WIDE,
    Q,
    Row,
    changed,
    first_of,
    frame,
    sent,
    with_id,
)
from bench.harness.packets.source_rows import source_block, source_list, source_rate
from klais.xdp.layout import MAX_EXTENSIONS, Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps


def all_rows() -> list[Row]:
    """All rows."""
    by_bytes = (*_ways_in(), *_not_ours(), *_unparsable(), *_fragments(), *_headers(), *_ids(), *_lengths())
    by_source = (*source_list(), *source_block(), *source_rate())
    return [*by_bytes, *_rates(), *_lists(), *by_source, *monitored_packets(), *monitored_limits()]


def _row(name: str, payload: bytes, verdict: Verdict = PLAIN, source: str = V4, **more: Any) -> Row:
    return Row(name, sent(payload, source, **more), verdict, payload)


_TAGS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("untagged", ()),
    ("802.1Q", (Q,)),
    ("QinQ", (AD, Q)),
    ("two 802.1Q", (Q, Q)),
)
_HOP, _ROUTE, _DEST = (0, bytes(6)), (43, bytes(6)), (60, bytes(14))
_LONG = (60, bytes(8 * 32 - 2))
_WHOLE = (44, bytes(6))  # a fragment header on a packet that is not fragmented (RFC 6946)


def _ways_in() -> Iterator[Row]:
    """Good and bad frames after all possible headers."""
    for i, (tag, tags) in enumerate(_TAGS):
        for words in (0, 1, 3, 10):
            name = f"IPv4, {tag}, {4 * words} bytes of options"
            yield _row(name, frame(f"in4-{i}-{words}"), tags=tags, options=bytes([1]) * 4 * words)
        yield _row(f"IPv6, {tag}", frame(f"in6-{i}"), source=V6, tags=tags)
        yield _row(f"IPv4, {tag}, wrong magic", b"x" * 40, Verdict.BAD_MAGIC, tags=tags)
        yield _row(f"IPv6, {tag}, wrong magic", b"x" * 40, Verdict.BAD_MAGIC, V6, tags=tags)
    chains: tuple[tuple[tuple[int, bytes], ...], ...] = (
        (_HOP,),
        (_ROUTE,),
        (_DEST,),
        (_LONG,),
        (_WHOLE,),
        (_HOP, _DEST),
        (_HOP, _ROUTE, _DEST),
        (_HOP, _DEST, _ROUTE, _WHOLE, _DEST),
        (_HOP, _DEST, _ROUTE, _WHOLE, _DEST, _LONG),
    )
    for i, chain in enumerate(chains):
        kinds = ", ".join(f"{kind} ({len(body) + 2} bytes)" for kind, body in chain)
        yield _row(f"IPv6, extension headers {kinds}", frame(f"ext-{i}"), source=V6, extensions=chain)
        yield _row(f"IPv6, extension headers {kinds}, wrong magic", b"y" * 30, Verdict.BAD_MAGIC, V6, extensions=chain)
    yield _row("IPv4, padded by Ethernet", frame("padded", b"{}"), padding=bytes(10))
    yield _row("IPv6, padded by Ethernet", frame("padded6", b"{}"), source=V6, padding=bytes(3))
    yield _row("IPv4 with a type of service", frame("tos"))
    good = sent(frame("checksum"))
    yield Row("IPv4 with a UDP checksum", changed(good, 40, b"\x12\x34"), PLAIN, frame("checksum"))


def _not_ours() -> Iterator[Row]:
    """Packets that must pass untouched."""
    good, good6 = sent(frame("not-ours")), sent(frame("not-ours6"), V6)
    six = (*[_HOP] * 6,)
    rows: tuple[tuple[str, bytes], ...] = (
        ("14 bytes of Ethernet only", good[:12] + b"\x08\x00"),
        ("ARP", good[:12] + b"\x08\x06" + bytes(28)),
        ("LLDP", good[:12] + b"\x88\xcc" + bytes(50)),
        ("802.3 length instead of a type", good[:12] + b"\x00\x2e" + bytes(46)),
        ("tag without what it tags", good[:12] + b"\x81\x00\x00\x07"),
        ("tag cut in two", good[:12] + b"\x81\x00\x00"),
        ("second tag cut", good[:12] + b"\x88\xa8\x00\x07\x81\x00\x00\x07"),
        ("third tag cut", good[:12] + b"\x88\xa8\x00\x07\x81\x00\x00\x07\x08"),
        ("ARP in a VLAN", good[:12] + b"\x81\x00\x00\x07\x08\x06" + bytes(28)),
        ("IPv4 header cut", good[:33]),
        ("IPv4 that says version 6", changed(good, 14, b"\x65")),
        ("IPv4 header length below 20", changed(good, 14, b"\x44")),
        ("IPv4 options beyond the packet", changed(good, 14, b"\x4f")[:50]),
        ("IPv4 total length below its header", changed(good, 16, b"\x00\x13")),
        ("IPv4 total length beyond the packet", changed(good, 16, struct.pack(">H", len(good) - 13))),
        ("TCP", changed(good, 23, b"\x06")),
        ("ICMP", changed(good, 23, b"\x01")),
        ("GRE", changed(good, 23, b"\x2f")),
        ("SCTP", changed(good, 23, b"\x84")),
        ("another port", sent(frame("port"), to_port=5001)),
        ("port 0", sent(frame("port"), to_port=0)),
        ("port 65535", sent(frame("port"), to_port=65_535)),
        ("our port as the source only", sent(frame("port"), port=5000, to_port=53)),
        ("our port with its bytes swapped", sent(frame("port"), to_port=0x8813)),
        ("UDP header cut", changed(good[:40], 16, b"\x00\x1a")),
        ("UDP length below its header", changed(good, 38, b"\x00\x07")),
        ("UDP length 0, another port", changed(sent(frame("port"), to_port=5001), 38, b"\x00\x00")),
        ("UDP length beyond IP's", changed(good, 38, struct.pack(">H", len(good) - 33))),
        ("IPv6 header cut", good6[:53]),
        ("IPv6 that says version 4", changed(good6, 14, b"\x45")),
        ("IPv6 payload length beyond the packet", changed(good6, 18, struct.pack(">H", len(good6) - 53))),
        ("ICMPv6", changed(good6, 20, b"\x3a")),
        ("TCP over IPv6", changed(good6, 20, b"\x06")),
        ("no next header", changed(good6, 20, b"\x3b")),
        ("IPv6 authentication header", sent(frame("ah"), V6, extensions=((51, bytes(6)),))),
        ("IPv6 encapsulated in IPv6", changed(good6, 20, b"\x29")),
        ("TCP behind six extension headers", changed(sent(frame("tcp"), V6, extensions=six), 94, b"\x06")),
        ("extension header beyond the packet", changed(sent(frame("e"), V6, extensions=(_HOP,)), 55, b"\xff")),
        (
            "extension header behind the payload's end",
            changed(sent(frame("e"), V6, extensions=(_HOP,)), 18, b"\x00\x07"),
        ),
        ("another port over IPv6", sent(frame("port"), V6, to_port=5001)),
        ("another port in QinQ", sent(frame("port"), tags=(AD, Q), to_port=5001)),
    )
    for name, packet in rows:
        yield Row(name, packet, Verdict.NOT_OURS)


def _unparsable() -> Iterator[Row]:
    """Packets that the stack may deliver to our socket, and whose frame header the filter cannot find."""
    good6, whole = sent(frame("zero6"), V6), frame("cut-in-two", b"x" * 400)
    first, many = first_of(whole, 16), MAX_EXTENSIONS + 1
    first6 = (44, struct.pack(">HI", 1, 9))
    options = (60, bytes(14))
    rows: tuple[tuple[str, bytes], ...] = (
        ("three tags", sent(frame("three"), tags=(AD, Q, Q))),
        ("four tags", sent(frame("four"), tags=(AD, Q, Q, Q))),
        ("seven extension headers", sent(frame("seven"), V6, extensions=(PADDED,) * many)),
        (
            "seven extension headers before another port",
            sent(frame("seven"), V6, extensions=(PADDED,) * many, to_port=53),
        ),
        ("thirty extension headers", sent(frame("thirty"), V6, extensions=(PADDED,) * 30)),
        ("IPv6, UDP length 0: to the end of the packet", changed(good6, 58, b"\x00\x00")),
        ("IPv4, UDP length 0", changed(sent(frame("zero")), 38, b"\x00\x00")),
        ("IPv4, first fragment that cuts the header in two", first),
        ("IPv4, first fragment that Ethernet's padding completes", first + whole[16:40]),
        (
            "IPv4, first fragment of 8 bytes, padded with another id",
            first_of(whole, 8) + frame("innocent")[8:] + bytes(9),
        ),
        ("IPv4, first fragment without a UDP header", changed(sent(b"", fragment=MORE), 16, b"\x00\x14")),
        (
            "IPv6, first fragment that cuts the header in two",
            sent(whole[:16], V6, extensions=(first6,), udp_length=430),
        ),
        ("IPv6, first fragment without a UDP header", _cut6(sent(whole, V6, extensions=(first6,)), 8)),
        ("IPv6, first fragment with half a UDP header, padded", _cut6(sent(whole, V6, extensions=(first6,)), 12, 40)),
        ("IPv6, first fragment that ends in its options", _cut6(sent(whole, V6, extensions=(first6, options)), 16)),
        ("IPv6, first fragment that ends before its options", _cut6(sent(whole, V6, extensions=(first6, options)), 8)),
    )
    for name, packet in rows:
        yield Row(name, packet, Verdict.UNPARSABLE)


def _cut6(packet: bytes, rest: int, padding: int = 0) -> bytes:
    """An IPv6 packet with ``rest`` bytes after the IPv6 header, padded with the bytes that followed."""
    return changed(packet[: 54 + rest + padding], 18, struct.pack(">H", rest))


def _fragments() -> Iterator[Row]:
    """First fragments are judged by their headers, others pass to the stack."""
    whole = frame("first-fragment", b"x" * 400)
    first = first_of(whole, 200)
    yield Row("IPv4, first fragment, good", first, PLAIN)
    yield Row("IPv4, first fragment, wrong magic", first_of(b"z" * 400, 200), Verdict.BAD_MAGIC)
    yield Row("IPv4, first fragment with the header just whole", first_of(whole, 22), PLAIN)
    yield Row("IPv4, first fragment of a datagram that is too short", first_of(b"x" * 21, 16), Verdict.TOO_SHORT)
    yield Row("IPv4, second fragment", sent(b"q" * 64, fragment=25 | MORE), Verdict.FRAGMENT)
    yield Row("IPv4, last fragment", sent(b"q" * 64, fragment=50), Verdict.FRAGMENT)
    yield Row("IPv4, second fragment of another port", sent(b"q" * 64, fragment=25, to_port=1), Verdict.FRAGMENT)
    yield Row("IPv4, do not fragment", sent(frame("df"), fragment=0x4000), PLAIN, frame("df"))
    for tag, tags in _TAGS[1:]:
        yield Row(f"IPv4, second fragment, {tag}", sent(b"q" * 64, fragment=25, tags=tags), Verdict.FRAGMENT)
    for name, offset, verdict in (
        ("first", 1, PLAIN),
        ("second", 25 << 3 | 1, Verdict.FRAGMENT),
        ("last", 25 << 3, Verdict.FRAGMENT),
    ):
        packet = sent(frame("fragment6"), V6, extensions=((44, struct.pack(">HI", offset, 9)),))
        yield Row(f"IPv6, {name} fragment", packet, verdict)
        yield Row(
            f"IPv6, {name} fragment, fragments dropped", packet, Verdict.FRAGMENT_DROPPED, prepare=_drop_fragments
        )
    chain = (_HOP, (44, struct.pack(">HI", 8 << 3 | 1, 9)))
    yield Row("IPv6, hop-by-hop, then a second fragment", sent(b"q" * 64, V6, extensions=chain), Verdict.FRAGMENT)

    yield Row("IPv4, first fragment, fragments dropped", first, Verdict.FRAGMENT_DROPPED, prepare=_drop_fragments)
    later = sent(b"q" * 64, fragment=25)
    yield Row("IPv4, last fragment, fragments dropped", later, Verdict.FRAGMENT_DROPPED, prepare=_drop_fragments)
    alone = sent(frame("alone"))
    yield Row("no fragment, fragments dropped", alone, PLAIN, None, prepare=_drop_fragments)
    tcp = changed(later, 23, b"\x06")
    yield Row("IPv4, fragment of TCP, fragments dropped", tcp, Verdict.NOT_OURS, prepare=_drop_fragments)


def _drop_fragments(maps: XdpMaps) -> None:
    maps.set_fragments("drop")


def _headers() -> Iterator[Row]:
    for size in (0, 1, 2, 17, 18, 21):
        yield _row(f"{size} bytes of a good frame", frame("short")[:size], Verdict.TOO_SHORT)
        yield _row(f"{size} bytes of a good frame over IPv6", frame("short")[:size], Verdict.TOO_SHORT, V6)
    yield _row("21 bytes of rubbish", b"r" * 21, Verdict.TOO_SHORT)
    yield _row("22 bytes: a frame without payload", frame("bare", b""))
    yield _row(
        "short frame with padding that would complete it", frame("pad")[:21], Verdict.TOO_SHORT, padding=bytes(9)
    )
    for name, magic in (
        ("swapped", b"\x55\xaa"),
        ("first byte", b"\xab\x55"),
        ("second byte", b"\xaa\x54"),
        ("zero", b"\0\0"),
        ("ones", b"\xff\xff"),
    ):
        yield _row(f"magic: {name}", magic + frame("magic")[2:], Verdict.BAD_MAGIC)


def _ids() -> Iterator[Row]:
    """device_id: padding and UTF-8."""
    for text in xdp_ids.GOOD:
        yield _row(f"id {text!r}", with_id(text.encode()))
    for raw in xdp_ids.BAD:
        yield _row(f"id {raw!r}", with_id(raw), Verdict.BAD_DEVICE_ID)


def _lengths() -> Iterator[Row]:
    for size in (100, 512, 1000, 1400, 1450):
        yield _row(f"payload of {size} bytes", frame(f"size-{size}", b"x" * size))


def _rates() -> Iterator[Row]:
    """Buckets: one frame an hour and a burst, so the outcome does not depend on time."""
    slow = 0.001
    for burst in (1, 2, 5):
        device = f"burst-{burst}"
        packet, limits = sent(frame(device)), Limits(1e8, 1e9, slow, burst)
        yield Row(f"device, frame {burst} of a burst of {burst}", packet, PLAIN, None, limits, (packet,) * (burst - 1))
        other = sent(frame(device + "b"))
        yield Row(
            f"device, frame {burst + 1} of a burst of {burst}",
            other,
            Verdict.DEVICE_RATE,
            None,
            limits,
            (other,) * burst,
        )
    noisy, quiet = sent(frame("noisy")), sent(frame("quiet"))
    yield Row("one device over its rate, another is not", quiet, PLAIN, None, Limits(1e8, 1e9, slow, 1), (noisy,) * 3)
    first, second = sent(frame("global-1")), sent(frame("global-2"))
    yield Row("global, first of a burst of 1", first, PLAIN, None, Limits(1, 1, 1e6, 1e6))
    yield Row("global, second of a burst of 1", second, Verdict.GLOBAL_RATE, None, Limits(1, 1, 1e6, 1e6), (first,))
    yield Row("wrong magic takes no global token", first, PLAIN, None, Limits(1, 1, 1e6, 1e6), (sent(b"n" * 30),) * 3)
    own = sent(frame("own-rate"))
    yield Row(
        "a rate of its own: more",
        own,
        PLAIN,
        None,
        Limits(1e8, 1e9, slow, 1),
        (own,) * 3,
        lambda m: m.set_device("own-rate", 10, 9),
    )
    less = sent(frame("own-less"))
    yield Row(
        "a rate of its own: less",
        less,
        Verdict.DEVICE_RATE,
        None,
        WIDE,
        (less,),
        lambda m: m.set_device("own-less", slow, 1),
    )
    free = sent(frame("own-none"))
    yield Row(
        "no limit of its own",
        free,
        PLAIN,
        None,
        Limits(1e8, 1e9, slow, 1),
        (free,) * 9,
        lambda m: m.set_device("own-none", math.inf, 1),
    )
    anyone = sent(frame("no-limits"))
    yield Row("no limits at all", anyone, PLAIN, None, NO_LIMITS, (anyone,) * 9)


def _lists() -> Iterator[Row]:
    def blocked(device: str) -> Callable[[XdpMaps], Any]:
        return lambda maps: maps.block(device, 60)

    yield Row("blocked", sent(frame("blocked")), Verdict.BLOCKED, None, prepare=blocked("blocked"))
    yield Row(
        "blocked, over IPv6 in QinQ",
        sent(frame("blocked6"), V6, tags=(AD, Q)),
        Verdict.BLOCKED,
        None,
        prepare=blocked("blocked6"),
    )
    yield Row("blocked for ever", sent(frame("for-ever")), Verdict.BLOCKED, None, prepare=lambda m: m.block("for-ever"))
    yield Row("another device is blocked", sent(frame("innocent")), PLAIN, None, prepare=blocked("guilty"))
    twin = sent(frame("a.fhO!'2#Q3&84>*"))  # has the FNV-1a 64 hash of sensor-42
    yield Row("an id made to hash like a blocked one", twin, PLAIN, None, prepare=blocked("sensor-42"))
    yield Row("blocked id of 16 bytes", sent(frame("b" * 16)), Verdict.BLOCKED, None, prepare=blocked("b" * 16))
    yield Row("blocked, but the magic is wrong first", sent(b"m" * 40), Verdict.BAD_MAGIC, None, prepare=blocked("mmm"))

    def freed(maps: XdpMaps) -> None:
        maps.block("freed", 60)
        maps.unblock("freed")

    yield Row("blocked and unblocked", sent(frame("freed")), PLAIN, None, prepare=freed)

    def both(maps: XdpMaps) -> None:
        maps.block("both", 60)
        maps.allow("both", 60)

    yield Row("blocked and allowed", sent(frame("both")), PLAIN, None, prepare=both)
    vip = sent(frame("vip"))
    yield Row(
        "allowed, above its rate",
        vip,
        PLAIN,
        None,
        Limits(1e8, 1e9, 0.001, 1),
        (vip,) * 5,
        lambda m: m.allow("vip", 60),
    )
    vip2 = sent(frame("vip2"))
    yield Row(
        "allowed, above the global rate",
        vip2,
        PLAIN,
        None,
        Limits(1, 1, 1e6, 1e6),
        (vip2,) * 5,
        lambda m: m.allow("vip2"),
    )
    fake = sent(b"\xaa\x56" + frame("vip3")[2:])
    yield Row("allowed, but the magic is wrong", fake, Verdict.BAD_MAGIC, None, prepare=lambda m: m.allow("vip3"))
