"""Fixtures of the rules about a packet's source: lists of allowed and of blocked ones, and a rate for each prefix."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.harness.packets.packet import udp_packet
from bench.harness.packets.row import AD, PLAIN, TO, V4, V6, WIDE, Q, Row, first_of, frame, sent
from klais.system.prefix import network_of
from klais.xdp.layout import Verdict
from klais.xdp.maps import XdpMaps
from klais.xdp.sources import SourceLimit


def _vip_from_elsewhere(maps: XdpMaps) -> None:
    maps.allow("from-vip", 60)
    maps.sources.allow("10.8.0.0/16")


def source_list() -> Iterator[Row]:
    """The list of allowed sources."""

    def only(*prefixes: str) -> Callable[[XdpMaps], Any]:
        def prepare(maps: XdpMaps) -> None:
            for prefix in prefixes:
                maps.sources.allow(prefix)

        return prepare

    good, denied = sent(frame("from")), Verdict.SOURCE_DENIED
    good6 = sent(frame("from6"), V6)
    for name, packet, prefixes, verdict in (
        ("the address itself", good, ("10.9.8.7",), PLAIN),
        ("its network", good, ("10.9.0.0/16",), PLAIN),
        ("all of IPv4", good, ("0.0.0.0/0",), PLAIN),
        ("another address", good, ("10.9.8.6",), denied),
        ("another network, and one of IPv6", good, ("10.8.0.0/16", "fd00::/8"), denied),
        ("all of IPv6, which IPv4 is no part of", good, ("::/0",), denied),
        ("IPv6 by its network", good6, ("fd77::/64",), PLAIN),
        ("IPv6, another network", good6, ("fd78::/64",), denied),
        ("IPv6, all of IPv4", good6, ("0.0.0.0/0",), denied),
        ("wrong magic comes first", sent(b"n" * 40), ("10.8.0.0/16",), Verdict.BAD_MAGIC),
    ):
        yield Row(f"allowed sources: {name}", packet, verdict, None, prepare=only(*prefixes))
    yield Row(
        "allowed sources: in QinQ with options",
        sent(frame("from"), tags=(AD, Q), options=bytes([1]) * 8),
        denied,
        None,
        prepare=only("10.8.0.0/16"),
    )
    yield Row(
        "allowed sources: a device on the allow list is denied too",
        sent(frame("from-vip")),
        denied,
        None,
        prepare=_vip_from_elsewhere,
    )
    yield Row("allowed sources: a fragment's source", first_of(frame("first", b"x" * 400), 200), denied, None,
              prepare=only("10.8.0.0/16"))  # fmt: skip

    def emptied(maps: XdpMaps) -> None:
        maps.sources.allow("10.8.0.0/16")
        maps.sources.disallow("10.8.0.0/16")

    yield Row("allowed sources: none any more", good, PLAIN, None, prepare=emptied)


def source_block() -> Iterator[Row]:
    """The list of blocked sources, with and without one of allowed sources."""

    def lists(blocked: tuple[str, ...], allowed: tuple[str, ...] = ()) -> Callable[[XdpMaps], Any]:
        def prepare(maps: XdpMaps) -> None:
            for prefix in allowed:
                maps.sources.allow(prefix)
            for prefix in blocked:
                maps.source_blocks.block(network_of(prefix), 60)

        return prepare

    good, good6, gone = sent(frame("by-source")), sent(frame("by-source6"), V6), Verdict.BLOCKED_SOURCE
    for name, packet, blocked, allowed, verdict in (
        ("the address itself", good, ("10.9.8.7",), (), gone),
        ("its network", good, ("10.9.0.0/16",), (), gone),
        ("another address", good, ("10.9.8.6",), (), PLAIN),
        ("another network, and one of IPv6", good, ("10.8.0.0/16", "fd00::/16"), (), PLAIN),
        ("IPv6 by its network", good6, ("fd77::/64",), (), gone),
        ("IPv6, another network", good6, ("fd78::/64",), (), PLAIN),
        ("IPv6, a block of IPv4", good6, ("10.0.0.0/8",), (), PLAIN),
        ("IPv4, a block of IPv6 that contains its mapped form", good, ("::/16",), (), PLAIN),
        ("two networks that contain it", good, ("10.0.0.0/8", "10.9.8.0/24"), (), gone),
        ("wrong magic comes first", sent(b"n" * 40), ("10.9.0.0/16",), (), Verdict.BAD_MAGIC),
        ("a longer allowed prefix", good, ("10.9.0.0/16",), ("10.9.8.0/24",), PLAIN),
        ("the same prefix is allowed", good, ("10.9.8.0/24",), ("10.9.8.0/24",), PLAIN),
        ("a shorter allowed prefix", good, ("10.9.8.7",), ("10.9.0.0/16",), gone),
        ("a longer allowed prefix of IPv6", good6, ("fd77::/32",), ("fd77::/64",), PLAIN),
        ("not allowed comes first", good, ("10.9.8.7",), ("10.8.0.0/16",), Verdict.SOURCE_DENIED),
    ):
        yield Row(f"blocked sources: {name}", packet, verdict, None, prepare=lists(blocked, allowed))
    hidden = sent(frame("by-source"), tags=(AD, Q), options=bytes([1]) * 8)
    yield Row("blocked sources: in QinQ with options", hidden, gone, None, prepare=lists(("10.9.0.0/16",)))
    first = first_of(frame("first", b"x" * 400), 200)
    yield Row("blocked sources: a fragment's source", first, gone, None, prepare=lists(("10.9.0.0/16",)))

    def vip(maps: XdpMaps) -> None:
        maps.allow("by-source-vip", 60)
        maps.source_blocks.block(network_of("10.9.8.7"), 60)

    yield Row("blocked sources: a device on the allow list", sent(frame("by-source-vip")), gone, None, prepare=vip)

    def unblocked(maps: XdpMaps) -> None:
        for prefix in ("10.9.0.0/16", "10.7.0.0/16"):
            maps.source_blocks.block(network_of(prefix), 60)
        assert maps.source_blocks.unblock(network_of("10.9.0.0/16"))

    yield Row("blocked sources: unblocked, another is not", good, PLAIN, None, prepare=unblocked)


def source_rate() -> Iterator[Row]:
    """A bucket for each source prefix."""

    def each(burst: int, ipv4_prefix: int = 32, ipv6_prefix: int = 56) -> Callable[[XdpMaps], Any]:
        return lambda maps: maps.sources.set_limit(SourceLimit(0.001, burst, ipv4_prefix, ipv6_prefix))

    over = Verdict.SOURCE_RATE
    for name, number, packets, prepare, verdict in (
        ("last of a burst of 3", 1, frames_from("10.1.0.1", 3), each(3), PLAIN),
        ("first above a burst of 3, ids of all kinds", 2, frames_from("10.1.0.2", 4), each(3), over),
        (
            "another address of the same network",
            3,
            [*frames_from("10.1.0.3", 3), *frames_from("10.1.0.4", 1)],
            each(3),
            PLAIN,
        ),
        ("IPv4 by /24", 4, [*frames_from("10.1.1.3", 3), *frames_from("10.1.1.4", 1)], each(3, 24), over),
        (
            "IPv4 by /24, the next network",
            5,
            [*frames_from("10.1.2.3", 3), *frames_from("10.1.3.3", 1)],
            each(3, 24),
            PLAIN,
        ),
        ("IPv6 by /56", 6, [*frames_from("fd01::1", 3), *frames_from("fd01:0:0:ff::2", 1)], each(3), over),
        (
            "IPv6 by /56, the next one",
            7,
            [*frames_from("fd02::1", 3), *frames_from("fd02:0:0:100::2", 1)],
            each(3),
            PLAIN,
        ),
        ("IPv6 by /128", 8, [*frames_from("fd03::1", 3), *frames_from("fd03::2", 1)], each(3, 32, 128), PLAIN),
    ):
        *before, last = packets
        yield Row(f"source rate: {name} ({number})", last, verdict, None, WIDE, tuple(before), prepare)
    (junk,) = [udp_packet(b"j" * 40, "10.1.0.9", to="10.0.0.1")]
    *_, last = frames_from("10.1.0.9", 1)
    yield Row("source rate: wrong magic takes no token", last, PLAIN, None, WIDE, (junk,) * 5, each(1))


def far_away(maps: XdpMaps) -> None:
    maps.sources.allow("192.0.2.0/24")


def frames_from(source: str, count: int) -> list[bytes]:
    """Frames of that many devices from one address."""
    to = TO[V6] if ":" in source else TO[V4]
    return [udp_packet(frame(f"s{number}-{source}"[:16]), source, to=to) for number in range(count)]
