"""Whose request it is, the limiter, and the names that a server answers to."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.http.addresses import ADDRESSES_KEPT, RateLimit, bucket_of, client_of, parse_ip, parse_networks
from klais.http.hosts import AllowedHosts, host_of

S = 1_000_000_000  # ns


def test_rate_limit_refills_and_is_apart_for_each_address() -> None:
    limit = RateLimit(per_s=100)
    assert sum(limit.allow("a", 10 * S) for _ in range(150)) == 100
    assert limit.allow("b", 10 * S)
    assert sum(limit.allow("a", 10 * S + S // 2) for _ in range(150)) == 50


def test_rate_limit_forgets_addresses() -> None:
    limit = RateLimit(per_s=1, kept=10)
    for i in range(1000):
        limit.allow(str(i), S)
    assert len(limit) == 10
    assert not limit.allow("999", S)
    assert ADDRESSES_KEPT <= 100_000


def test_one_ipv6_network_is_one_client() -> None:
    limit = RateLimit(per_s=100)
    net = int(ipaddress.ip_address("2001:db8:1:2::"))
    hosts = [ipaddress.ip_address(net + i * 7919) for i in range(1000)]
    assert sum(limit.allow(bucket_of(host), S) for host in hosts) == 100
    assert limit.allow(bucket_of(ipaddress.ip_address("2001:db8:1:3::1")), S)
    assert len({bucket_of(ipaddress.ip_address(f"10.0.0.{i}")) for i in range(200)}) == 200


def test_ipv4_in_ipv6_is_the_ipv4_client() -> None:
    assert bucket_of(parse_ip("::ffff:192.0.2.1")) == bucket_of(parse_ip("192.0.2.1")) == "192.0.2.1"


PROXIES = parse_networks("10.0.0.0/8, ::1")


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["6.6.6.6"], "192.0.2.1"),  # no proxy of ours: what it says does not count
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7"], "192.0.2.7"),  # the client wrote the first one itself
        ("10.0.0.1", ["6.6.6.6", "192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, , "], "10.0.0.1"),
        ("::1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("::1", ["192.0.2.7:5000"], "192.0.2.7"),
        ("10.0.0.1", [", ".join(["10.0.0.2"] * 5000)], "10.0.0.2"),
    ],
)
def test_forwarded_for_counts_from_our_proxies_only(remote: str, forwarded: list[str], client: str) -> None:
    assert str(client_of(remote, forwarded, PROXIES)) == client


@given(st.text(max_size=60))
def test_no_text_breaks_the_parsers(text: str) -> None:
    parse_ip(text)
    host_of(text)
    assert client_of("10.0.0.1", [text], PROXIES) is not None


@pytest.mark.parametrize(
    "name",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080", "10.1.2.3",
     socket.gethostname(), "gateway.example", "gateway.example.", "a.b.internal:80", "bound.example"],
)  # fmt: skip
def test_own_names(name: str) -> None:
    assert AllowedHosts("bound.example", ["gateway.example", ".internal"]).allows(name)


@pytest.mark.parametrize(
    "name",
    ["", ":80", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
     "internal.evil.example", "xinternal", "[evil]", "[::1", "::1", "localhost:80:80", "localhost:x", "a@localhost",
     "127.1", "0x7f000001", "2130706433", "localhost,evil.example", "localhost evil", "[127.0.0.1]",
     "localhost:999999"],
)  # fmt: skip
def test_foreign_names(name: str) -> None:
    assert not AllowedHosts("bound.example", ["gateway.example", ".internal"]).allows(name)
