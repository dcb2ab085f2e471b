"""Which prefixes may be blocked, and what the applier writes of them into a host's map."""

import time
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import orjson
import pytest

from klais.config.load import Settings
from klais.control.filter_figures import MAX_REPORTED
from klais.control.setpoints import ControlFollower
from klais.control.source_applier import TTL_S, SourceApplier
from klais.control.source_blocks import MAX_BLOCKED_SOURCES, need_room, source_of_scope, source_prefix, source_scope
from klais.errors import SourceBlocksFull
from klais.system.prefix import Network
from klais.xdp.layout import BLOCKED_SOURCES


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("192.0.2.0/24", "source/192.0.2.0/24"),
        ("192.0.2.7", "source/192.0.2.7/32"),
        ("::ffff:192.0.2.7", "source/192.0.2.7/32"),
        ("2001:DB8:0:0::/32", "source/2001:db8::/32"),
        ("10.0.0.0/8", "source/10.0.0.0/8"),
        ("2000::/16", "source/2000::/16"),
    ],
)
def test_a_prefix_has_one_scope(text: str, scope: str) -> None:
    network = source_prefix(text)
    assert source_scope(network) == scope and source_of_scope(scope) == network


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.0.0.0/0", "0 bits: an IPv4 prefix to block has 8 to 32"),
        ("10.0.0.0/7", "7 bits: an IPv4 prefix to block has 8 to 32"),
        ("::/0", "0 bits: an IPv6 prefix to block has 16 to 128"),
        ("2000::/3", "3 bits: an IPv6 prefix to block has 16 to 128"),
        ("::ffff:0:0/96", "0 bits: an IPv4 prefix"),
        ("192.0.2.7/24", "has host bits set"),
        ("fe80::1%eth0", "names an interface"),
        ("sensor-42", "does not appear to be"),
        ("", "does not appear to be"),
        ("10.0.0.0/33", "does not appear to be"),
    ],
)
def test_what_may_not_be_blocked_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        source_prefix(text)


def test_the_number_of_blocks_is_bounded_by_the_map() -> None:
    assert MAX_BLOCKED_SOURCES == BLOCKED_SOURCES
    blocked = dict.fromkeys(prefixes(MAX_BLOCKED_SOURCES))
    need_room(next(iter(blocked)), blocked)  # a longer block of the same prefix
    with pytest.raises(SourceBlocksFull, match="4,096 sources are blocked"):
        need_room(ip_network("192.0.2.7"), blocked)


def prefixes(count: int) -> list[Network]:
    return [ip_network((0x0A000000 + 256 * n, 24)) for n in range(count)]


def put(follower: ControlFollower, scope: str, **fields: object) -> None:
    follower.consume(scope, orjson.dumps(fields))


def test_blocks_come_and_go() -> None:
    follower = ControlFollower(Settings())
    one, two = ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")
    put(follower, "source/192.0.2.0/24", block=True, author="me", reason="flood")
    put(follower, "source/2001:db8::/32", block=True, until_ms=1_700_000_000_123)
    assert follower.blocked_sources() == {one: None, two: 1_700_000_000_123_000_000}
    assert follower.blocked_sources_in_force() == {one: None}
    assert [record["scope"] for record in follower.overrides()] == ["source/192.0.2.0/24"]
    seen = follower.blocked_sources()
    put(follower, "edge/1", first=5)
    assert follower.blocked_sources() is seen, "the same object until a record of a source changes it"
    put(follower, "source/192.0.2.0/24", unblock=True)
    follower.consume("source/2001:db8::/32", None)
    assert follower.blocked_sources() == {} and follower.overrides() == []
    put(follower, "source/192.0.2.0/24", block=True)
    follower.reset()  # the topic was created again: the block holds, and the leader writes it again
    (network,) = follower.blocked_sources()
    assert str(network) == "192.0.2.0/24" and "source/192.0.2.0/24" in follower.missing()


@pytest.mark.parametrize(
    "scope", ["source/0.0.0.0/0", "source/192.0.2.7", "source/2001:DB8::/32", "source/", "source/x"]
)
def test_a_record_that_no_writer_of_ours_makes_is_refused(scope: str) -> None:
    follower = ControlFollower(Settings())
    with pytest.raises(ValueError, match=r"bits|shortest form|does not appear"):
        put(follower, scope, block=True)
    follower.consume(scope, None)  # deleting it is no error
    assert follower.blocked_sources() == {}


@dataclass
class Block:
    prefix: str
    dropped: int


class Maps:
    """The two lists of a filter, and the calls that changed them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.blocks: list[Block] = []
        self.allow: list[Network] = []
        self.room, self.there = 1 << 16, set[Network]()
        self.source_blocks = self.sources = self

    def block(self, network: Network, ttl_s: float | None = None) -> None:
        if network not in self.there and len(self.there) >= self.room:
            self.calls.append(("full",))
            raise SourceBlocksFull("the map is full")
        self.there.add(network)
        self.calls.append(("block", str(network), ttl_s))

    def unblock(self, network: Network) -> bool:
        self.there.discard(network)
        self.calls.append(("unblock", str(network)))
        return True

    def sweep(self) -> int:
        self.calls.append(("sweep",))
        return 0

    def all(self) -> list[Block]:
        return self.blocks

    def allowed(self) -> list[Network]:
        return self.allow

    def take(self) -> list[tuple[Any, ...]]:
        calls, self.calls = self.calls, []
        return calls


def test_blocks_are_written_renewed_and_lifted() -> None:
    follower, maps = ControlFollower(Settings()), Maps()
    applier = SourceApplier(follower)
    assert applier.write(maps, True) == 0 and maps.take() == []
    put(follower, "source/192.0.2.0/24", block=True)
    assert applier.write(maps, False) == 1 and maps.take() == [("block", "192.0.2.0/24", TTL_S)]
    assert applier.write(maps, False) == 0 and maps.take() == []
    assert applier.write(maps, True) == 0 and maps.take() == [("sweep",), ("block", "192.0.2.0/24", TTL_S)]
    put(follower, "source/2001:db8::/32", block=True, until_ms=int(time.time() * 1000) + 20_000)
    applier.write(maps, False)
    ((what, prefix, ttl_s),) = maps.take()
    assert (what, prefix) == ("block", "2001:db8::/32") and 0 < ttl_s <= 20
    put(follower, "source/192.0.2.0/24", unblock=True)
    put(follower, "source/2001:db8::/32", block=True, until_ms=1)
    assert applier.write(maps, False) == 1
    assert sorted(maps.take()) == [("unblock", "192.0.2.0/24"), ("unblock", "2001:db8::/32")]


def test_figures_and_the_allow_list_are_read_while_there_are_blocks() -> None:
    follower, maps = ControlFollower(Settings()), Maps()
    applier = SourceApplier(follower)
    maps.blocks = [Block(str(network), n) for n, network in enumerate(prefixes(30))]
    maps.allow = [ip_network("10.0.0.0/8")]
    applier.write(maps, False)
    assert (applier.allowed, applier.figures) == ((), (0, {}))
    put(follower, "source/192.0.2.0/24", block=True)
    applier.write(maps, False)
    assert applier.allowed == (ip_network("10.0.0.0/8"),)
    count, drops = applier.figures
    assert count == 30 and len(drops) == MAX_REPORTED and max(drops.values()) == 29 and min(drops.values()) == 10
    applier.forget()
    assert (applier.allowed, applier.figures) == ((), (0, {}))
    applier.write(maps, False)
    assert ("block", "192.0.2.0/24", TTL_S) in maps.take()


def test_more_blocks_than_the_map_holds_do_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    follower, maps = ControlFollower(Settings()), Maps()
    applier = SourceApplier(follower)
    for network in [ip_network("192.0.0.0/8", strict=False), *prefixes(MAX_BLOCKED_SOURCES)]:
        put(follower, f"source/{network}", block=True)
    with caplog.at_level("WARNING"):
        applier.write(maps, False)
        applier.write(maps, False)
    written = maps.take()
    assert len(written) == MAX_BLOCKED_SOURCES and ("block", "192.0.0.0/8", TTL_S) in written
    assert caplog.text.count("too_many_blocked_sources") == 1


def test_a_map_that_another_process_filled_stops_only_the_blocks_that_do_not_fit() -> None:
    """An edge that ended a moment ago may have left entries; an error would close all maps of the host."""
    follower, maps = ControlFollower(Settings()), Maps()
    applier = SourceApplier(follower)
    maps.room = 3
    for network in prefixes(5):
        put(follower, f"source/{network}", block=True)
    applier.write(maps, False)
    assert [call[0] for call in maps.take()] == ["block", "block", "block", "full"]
    assert applier.write(maps, False) == 0 and maps.take() == [], "a full map is not searched again at once"
    applier.write(maps, True)
    assert [call[0] for call in maps.take()] == ["sweep", "block", "block", "block", "full"]
    first = min(maps.there, key=str)
    put(follower, f"source/{first}", unblock=True)
    applier.write(maps, False)
    applier.write(maps, True)
    assert len(maps.there) == 3 and first not in maps.there
