"""Blocks of source addresses on ``klais_control``: which prefixes may be blocked, and which entry of a list applies.

The scope of a block is ``source/<prefix>`` with the prefix in its shortest form, such as ``source/192.0.2.0/24``. Its
record is that of a blocked device: ``block`` with ``until_ms``, or ``unblock``.
"""

from collections.abc import Mapping

from klais.errors import SourceBlocksFull
from klais.system.prefix import Network, network_of
from klais.xdp.layout import BLOCKED_SOURCES

SOURCE = "source/"
MIN_BITS = {4: 8, 6: 16}
"""Bits of the shortest prefix that may be blocked, by IP version: a shorter one would stop most of all senders."""
MAX_BLOCKED_SOURCES = BLOCKED_SOURCES
"""Blocks in force at once: as many as the map ``src_block`` of the filter holds."""


def source_prefix(text: str) -> Network:
    """The prefix to block or unblock.

    Raises
    ------
    ValueError
        If it is no prefix or too short; the message names the value and the range.

    Examples
    --------
    >>> str(source_prefix("192.0.2.7"))
    '192.0.2.7/32'
    >>> source_prefix("0.0.0.0/0")
    Traceback (most recent call last):
        ...
    ValueError: 0.0.0.0/0 has 0 bits: an IPv4 prefix to block has 8 to 32
    """
    network = network_of(text)
    if network.prefixlen < MIN_BITS[network.version]:
        bits = f"{MIN_BITS[network.version]} to {network.max_prefixlen}"
        raise ValueError(f"{network} has {network.prefixlen} bits: an IPv{network.version} prefix to block has {bits}")
    return network


def source_scope(network: Network) -> str:
    """The scope of a prefix."""
    return f"{SOURCE}{network}"


def source_of_scope(scope: str) -> Network:
    """The prefix of a scope.

    Raises
    ------
    ValueError
        If it cannot be blocked, or is not in its shortest form: two scopes would name the same prefix.
    """
    network = source_prefix(scope.removeprefix(SOURCE))
    if scope != source_scope(network):
        raise ValueError(f"{scope!r} is not in the shortest form: {source_scope(network)!r}")
    return network


def need_room(network: Network, blocked: Mapping[Network, object]) -> None:
    """Refuse a block beyond the maximum number; ``blocked`` are those in force.

    Raises
    ------
    SourceBlocksFull
        If there is no room.
    """
    if network not in blocked and len(blocked) >= MAX_BLOCKED_SOURCES:
        raise SourceBlocksFull(
            f"{MAX_BLOCKED_SOURCES:,} sources are blocked, the maximum number: unblock some "
            "(`klais sources blocked` lists them), or block a shorter prefix that contains several"
        )
