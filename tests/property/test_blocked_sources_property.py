"""Blocked sources: the ranges and the kernel that searches them say what the longest prefix of each address says."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.wire.constants import Reason
from klais.edge.blocked_sources import FREE, ranges_of
from klais.edge.kernels import mark_blocked
from klais.system.prefix import Network
from tests.support.examples import examples

# Few different addresses, so that prefixes contain each other and addresses are at their ends.
V4 = (
    st.integers(0, 2)
    .map(lambda n: (0, 0x0A000000, 0xFFFFFFFF)[n])
    .flatmap(lambda base: st.integers(-4, 4).map(lambda more: (base + more) % (1 << 32)))
)
V6 = (
    st.integers(0, 3)
    .map(lambda n: (0, 0x20010DB8 << 96, (1 << 128) - 1, 0xFFFF << 32)[n])
    .flatmap(lambda base: st.integers(-4, 4).map(lambda more: (base + more) % (1 << 128)))
)
PREFIX: st.SearchStrategy[Network] = st.one_of(
    st.tuples(V4, st.integers(0, 32)).map(lambda at: IPv4Network(at, strict=False)),
    st.tuples(V6, st.integers(0, 128)).map(lambda at: IPv6Network(at, strict=False)),
)
LIST = st.lists(PREFIX, max_size=8, unique=True)
ADDRESS = st.one_of(V4.map(IPv4Address), V6.map(IPv6Address))


def applies(address: IPv4Address | IPv6Address, blocked: list[Network], allowed: list[Network]) -> int:
    """Index of the block that applies, from the definition: the longest prefix of both lists decides."""
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    found = [(network.prefixlen, 0, i) for i, network in enumerate(blocked) if address in network]
    found += [(network.prefixlen, 1, FREE) for network in allowed if address in network]
    return max(found)[2] if found else FREE


@settings(max_examples=examples(400), deadline=None)
@given(blocked=LIST, allowed=LIST, addresses=st.lists(ADDRESS, min_size=1, max_size=20))
def test_the_kernel_drops_what_the_longest_prefix_blocks(
    blocked: list[Network], allowed: list[Network], addresses: list[IPv4Address | IPv6Address]
) -> None:
    mapped = [bytes(10) + b"\xff\xff" + a.packed if a.version == 4 else a.packed for a in addresses]
    sources = np.frombuffer(b"".join(raw + b"\x13\x88" for raw in mapped), np.uint8).reshape(-1, 18).copy()
    reason = np.arange(len(addresses), dtype=np.uint8) % 3
    before, drops = reason.copy(), np.zeros(len(blocked), np.int64)
    due = [applies(address, blocked, allowed) for address in addresses]
    assert mark_blocked(sources, *ranges_of(blocked, allowed), reason, drops) == sum(i != FREE for i in due)
    assert reason.tolist() == [Reason.BLOCKED_SOURCE if i != FREE else r for i, r in zip(due, before, strict=True)]
    assert drops.tolist() == [due.count(i) for i in range(len(blocked))]


def test_the_ranges_of_the_documentation() -> None:
    high, low, entry, split = ranges_of(
        [ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")], [ip_network("10.1.2.0/24")]
    )
    assert (split, high.tolist()) == (6, [0] * 6)
    starts = ["10.0.0.0", "10.1.0.0", "10.1.2.0", "10.1.3.0", "10.2.0.0", "11.0.0.0"]
    assert [str(IPv4Address(each & 0xFFFFFFFF)) for each in low.tolist()] == starts
    assert entry.tolist() == [0, 1, FREE, 1, 0, FREE]
