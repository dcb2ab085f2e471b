"""Blocked source addresses at the edge: frames of these senders are dropped before anything else looks at them.

The kernel filter of a host drops them earlier and cheaper (``src_block``); this check holds without a filter, and on
interfaces that have none. Without a block it costs nothing. The prefixes become sorted ranges of addresses, so that a
frame costs one binary search, however many there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klais.control.ends import in_force
from klais.control.filter_figures import MAX_REPORTED
from klais.core.wire.batch import SOURCE_SIZE
from klais.edge.kernels import mark_blocked
from klais.system.prefix import Network, packed
from klais.system.shared_clock import shared

POLL_S = 0.1  # between two looks at the blocks in force
FREE = -1
_V4_END, _V6_END = 1 << 48, 1 << 128  # behind the last address: v4-mapped ones begin at 0xffff << 32
_LOW = (1 << 64) - 1

Blocks = Mapping[Network, int | None]


class Ranges(NamedTuple):
    """Ranges of addresses and the block that applies to each; the columns of ``mark_blocked``.

    ``high``, ``low`` uint64 [r], ``entry`` int32 [r], ``split``: number of the ranges of IPv4.
    """

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    entry: npt.NDArray[np.int32]
    split: int


def ranges_of(blocked: Sequence[Network], allowed: Iterable[Network] = ()) -> Ranges:
    """The ranges of a list of blocks; ``entry`` is an index into ``blocked``, ``FREE`` = none.

    For each address the longest prefix decides that contains it, as in the filter: a block is void in a longer or equal
    prefix of ``allowed``.
    """
    entries = [(network, i) for i, network in enumerate(blocked)] + [(network, FREE) for network in allowed]
    starts: list[tuple[int, int]] = []
    split = 0
    for version, end in ((4, _V4_END), (6, _V6_END)):
        family = [
            (_first(network), network.prefixlen, entry) for network, entry in entries if network.version == version
        ]
        family.sort(key=lambda each: (each[0], each[1], each[2] == FREE))
        starts += _starts(family, 32 if version == 4 else 128, end)
        split = split if version == 6 else len(starts)
    high = np.array([first >> 64 for first, _ in starts], np.uint64)
    low = np.array([first & _LOW for first, _ in starts], np.uint64)
    return Ranges(high, low, np.array([entry for _, entry in starts], np.int32), split)


def _starts(family: list[tuple[int, int, int]], bits: int, end: int) -> list[tuple[int, int]]:
    """Where each range begins, and its entry. ``family`` is sorted: a prefix precedes those that it contains."""
    found: dict[int, int] = {}  # the innermost prefix that begins at an address comes last
    open_: list[tuple[int, int]] = []  # end and entry of the prefixes around the present address
    for first, length, entry in family:
        _close(open_, found, first)
        found[first] = entry
        open_.append((first + (1 << (bits - length)), entry))
    _close(open_, found, end)
    found.pop(end, None)
    return list(found.items())


def _close(open_: list[tuple[int, int]], found: dict[int, int], until: int) -> None:
    while open_ and open_[-1][0] <= until:
        behind, _ = open_.pop()
        found[behind] = open_[-1][1] if open_ else FREE


def _first(network: Network) -> int:
    return int.from_bytes(packed(network), "big")


class _Table(NamedTuple):
    """The blocks that the spine applies, replaced as a whole; ``drops`` int64 [blocks]."""

    networks: tuple[Network, ...]
    ranges: Ranges
    drops: npt.NDArray[np.int64]


_NONE = _Table((), ranges_of(()), np.zeros(0, np.int64))


class BlockedSources:
    """The blocks in force at this edge. Belongs to the thread of the spine; :meth:`gauges` needs its lock.

    Parameters
    ----------
    blocked : callable
        Blocks of ``klais_control`` with their ends (ns since the epoch), the same object until one changes.
    allowed : callable
        Prefixes that the filter of this host allows; a block is void in them unless its prefix is longer.
    """

    def __init__(
        self, blocked: Callable[[], Blocks] = dict, allowed: Callable[[], tuple[Network, ...]] = tuple
    ) -> None:
        self._blocked, self._allowed = blocked, allowed
        self._table = _NONE
        self._seen: tuple[Blocks, tuple[Network, ...]] = ({}, ())
        self._next_s, self._made_ns, self._next_end_ns = 0.0, 0, float("inf")

    @property
    def active(self) -> bool:
        """Whether any source is blocked."""
        return bool(self._table.networks)

    def on_tick(self, now_s: float) -> None:
        """Follow the blocks in force, ten times a second while frames arrive (``now_s`` monotonic)."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + POLL_S
        seen, now_ns = (self._blocked(), self._allowed()), shared.time_ns()
        same = seen[0] is self._seen[0] and seen[1] == self._seen[1]
        if same and self._made_ns <= now_ns < self._next_end_ns:  # a clock that was set back: ended ones are in force
            return
        allowed_before, self._seen, self._made_ns = self._seen[1], seen, now_ns
        ends = {network: end for network, end in seen[0].items() if in_force(end, now_ns)}
        self._next_end_ns = min((end for end in ends.values() if end is not None), default=float("inf"))
        if ends.keys() != set(self._table.networks) or seen[1] != allowed_before:
            self._table = self._made(tuple(ends), seen[1])

    def _made(self, networks: tuple[Network, ...], allowed: tuple[Network, ...]) -> _Table:
        if not networks:
            return _NONE
        counted = dict(zip(self._table.networks, self._table.drops.tolist(), strict=True))
        drops = np.array([counted.get(network, 0) for network in networks], np.int64)
        return _Table(networks, ranges_of(networks, allowed), drops)

    def mark(self, sources: npt.NDArray[np.uint8], reason: npt.NDArray[np.uint8]) -> int:
        """Set the reason of the frames of blocked senders (``sources`` uint8 [n, 18], ``reason`` uint8 [n]); returns
        their number."""
        assert sources.shape[1] == SOURCE_SIZE
        table = self._table
        return int(mark_blocked(sources, *table.ranges, reason, table.drops))

    def gauges(self) -> dict[str, Any]:
        """The gauges ``blocked_sources`` and ``source_drops`` of ``klais_stats``; empty without blocks."""
        networks, _, drops = self._table
        if not networks:
            return {}
        most = np.argsort(-drops, kind="stable")[:MAX_REPORTED]
        found: dict[str, Any] = {"blocked_sources": len(networks)}
        if dropped := {str(networks[i]): int(drops[i]) for i in most.tolist() if drops[i]}:
            found["source_drops"] = dropped
        return found
