"""Copies the blocked sources of ``klais_control`` to the map ``src_block`` of this host's XDP filter.

Part of :class:`klais.control.xdp_applier.Applier`. As blocks of devices, entries have a short time to live and are
renewed, so they expire when no process of KLAIS runs here.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from klais.control.filter_figures import MAX_REPORTED
from klais.control.setpoints import ControlFollower
from klais.control.source_blocks import MAX_BLOCKED_SOURCES
from klais.errors import SourceBlocksFull
from klais.system.prefix import Network
from klais.system.shared_clock import shared
from klais.telemetry import log as logs

log = logs.get("klais.control.source_applier")

TTL_S = 30.0  # of a block in a filter, unless it is renewed


class Block(Protocol):
    """A block in force."""

    @property
    def prefix(self) -> str:
        """The blocked addresses."""

    @property
    def dropped(self) -> int:
        """Packets that it dropped."""


class SourceBlocks(Protocol):
    """The used part of ``klais.xdp.source_blocks.SourceBlocks``."""

    def block(self, network: Network, ttl_s: float | None = None) -> None:
        """Drop the packets of a prefix."""

    def unblock(self, network: Network) -> bool:
        """Remove a block."""

    def sweep(self) -> int:
        """Remove expired entries."""

    def all(self) -> Sequence[Block]:
        """The blocks in force."""


class Sources(Protocol):
    """The used part of ``klais.xdp.sources.Sources``."""

    def allowed(self) -> Sequence[Network]:
        """The prefixes that may send; empty = all."""


class SourceMaps(Protocol):
    """The used part of ``klais.xdp.maps.XdpMaps``."""

    @property
    def source_blocks(self) -> SourceBlocks:
        """The block list."""

    @property
    def sources(self) -> Sources:
        """The allow list."""


class SourceApplier:
    """Writes the map of one host.

    Attributes
    ----------
    allowed : tuple of Network
        The filter's list of allowed sources, read while there are blocks, at most some seconds old; empty without a
        filter.
    figures : tuple of int and dict of str to int
        The number of blocks in the filter, and dropped packets of those with the most, by prefix.
    """

    def __init__(self, follower: ControlFollower) -> None:
        self._follower = follower
        self._done: set[Network] = set()
        self._reported = self._full = False  # _full: others wait for the next renewal
        self.allowed: tuple[Network, ...] = ()
        self.figures: tuple[int, dict[str, int]] = (0, {})

    def forget(self) -> None:
        """The maps were closed or opened: it has written nothing there."""
        self._done, self._full, self.allowed, self.figures = set(), False, (), (0, {})

    def write(self, maps: SourceMaps, renew: bool) -> int:
        """Write changes, all entries with ``renew``; returns the number of changes, at most 1."""
        now_ns = shared.time_ns()
        ends = self._bounded(self._follower.blocked_sources_in_force())
        before, self._full = self._done, self._full and not renew
        written = before & ends.keys()
        for network in before - written:
            maps.source_blocks.unblock(network)
        if renew and ends:
            maps.source_blocks.sweep()  # an expired entry of an earlier process hides a wider one
        for network in [*(written if renew else ()), *(ends.keys() - written)]:  # first those that have an entry
            if self._fits(maps, network, block_ttl_s(ends[network], now_ns)):
                written.add(network)
        self._done = written
        if written != before:
            self.read(maps)
        return int(written != before)

    def _fits(self, maps: SourceMaps, network: Network, ttl_s: float) -> bool:
        """Write a block; False if the map has no room for it, for example next to those that another process wrote."""
        if self._full and network not in self._done:
            return False
        try:
            maps.source_blocks.block(network, ttl_s)
        except SourceBlocksFull as error:
            self._full = True
            if calls := logs.every(60, "control.xdp_sources_full"):
                log.warning(
                    "xdp_sources_full", why=str(error), calls=calls, means="the edge drops the frames of others"
                )
            return False
        return True

    def read(self, maps: SourceMaps) -> None:
        """Read the figures and the allow list."""
        if self._done:
            self.allowed, self.figures = tuple(maps.sources.allowed()), _figures(maps.source_blocks.all())
        else:
            self.allowed, self.figures = (), (0, {})

    def _bounded(self, ends: dict[Network, int | None]) -> dict[Network, int | None]:
        if len(ends) <= MAX_BLOCKED_SOURCES:
            return ends
        if not self._reported:
            self._reported = True
            means = "the edge drops the frames of the others"
            log.warning("too_many_blocked_sources", blocked=len(ends), written=MAX_BLOCKED_SOURCES, means=means)
        widest = sorted(ends, key=lambda network: (network.prefixlen, str(network)))[:MAX_BLOCKED_SOURCES]
        return {network: ends[network] for network in widest}


def block_ttl_s(end_ns: int | None, now_ns: int) -> float:
    """Time to live of a block in a filter, of a device or a source; ``end_ns`` None = without end.

    Examples
    --------
    >>> block_ttl_s(None, 0), block_ttl_s(2 * 10**9, 10**9)
    (30.0, 1.0)
    """
    return TTL_S if end_ns is None else min(TTL_S, (end_ns - now_ns) / 1e9)


def _figures(blocks: Iterable[Block]) -> tuple[int, dict[str, int]]:
    found = list(blocks)
    most = sorted((block for block in found if block.dropped), key=lambda block: -block.dropped)[:MAX_REPORTED]
    return len(found), {block.prefix: block.dropped for block in most}
