"""Prefixes of IP addresses (CIDR)."""

import ipaddress

MAPPED_BITS = 96  # of an IPv4 address in its v4-mapped form
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network_of(prefix: str) -> Network:
    """Parse a prefix: ``10.0.0.0/8``, ``2001:db8::/32``, or one address.

    Raises
    ------
    ValueError
        If it is invalid; the message has the reason.

    Examples
    --------
    >>> str(network_of("10.1.2.3")), str(network_of("::ffff:10.0.0.0/104"))
    ('10.1.2.3/32', '10.0.0.0/8')
    """
    network = ipaddress.ip_network(prefix)
    if "%" in prefix:
        raise ValueError(f"{prefix!r} names an interface: a prefix holds on all of them")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_BITS)) if mapped else network
    return network


def packed(network: Network) -> bytes:
    """Its first address in 16 bytes, IPv6 or v4-mapped."""
    raw = network.network_address.packed
    return bytes(10) + b"\xff\xff" + raw if network.version == 4 else raw
