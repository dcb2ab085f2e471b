"""Address of a request's client, including clients of proxies, and rate limits per client."""

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence

from klais.core.dam.bucket import TokenBucket
from klais.system.address import split_port

REQUESTS_PER_S = 100.0
ADDRESSES_KEPT = 10_000
MAX_HOPS = 16

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_ip(text: str | None) -> Ip | None:
    """Parse an IP address, with or without port, brackets or zone; an IPv4-mapped IPv6 address becomes IPv4.

    Examples
    --------
    >>> parse_ip("::ffff:10.0.0.1"), parse_ip("[fe80::1%eth0]:80"), parse_ip("10.0.0.1:80"), parse_ip("unknown")
    (IPv4Address('10.0.0.1'), IPv6Address('fe80::1'), IPv4Address('10.0.0.1'), None)
    """
    try:
        host, _ = split_port((text or "").strip())
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of ``10.0.0.1,192.168.0.0/16``.

    Raises
    ------
    ValueError
        If one of them is neither an address nor a network.
    """
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def client_of(remote: str | None, forwarded: Sequence[str], proxies: Sequence[Network]) -> Ip | None:
    """Address of the client: the peer, or, if the peer is a trusted proxy, the last other address in
    ``X-Forwarded-For``.

    Any client can send that header, so entries before an address that is not a trusted proxy are ignored.

    Examples
    --------
    >>> ours = parse_networks("10.0.0.0/8")
    >>> str(client_of("10.0.0.1", ["6.6.6.6, 192.0.2.7, 10.0.0.2"], ours))
    '192.0.2.7'
    >>> str(client_of("192.0.2.9", ["6.6.6.6"], ours))
    '192.0.2.9'
    """
    ip = parse_ip(remote)
    hops = ",".join(forwarded).split(",")[-MAX_HOPS:]
    while ip is not None and hops and any(ip in network for network in proxies):
        hop = parse_ip(hops.pop())
        if hop is None:
            break
        ip = hop
    return ip


def bucket_of(ip: Ip | None) -> str:
    """Key that identifies one client: an IPv4 address, or the /64 prefix of an IPv6 host."""
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Address(int(ip) >> 64 << 64)) + "/64"
    return str(ip)


class RateLimit:
    """A token bucket per client with one second's burst; the least recently seen clients are forgotten first."""

    def __init__(self, per_s: float = REQUESTS_PER_S, kept: int = ADDRESSES_KEPT) -> None:
        self.per_s = per_s
        self._kept = kept
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, client: str, now_ns: int) -> bool:
        """Whether a request of ``client`` is within the limit at ``now_ns``; if so, it is counted."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self.per_s, self.per_s)
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)
        return bucket.acquire(1, now_ns) == 1
