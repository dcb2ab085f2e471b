"""Blocked prefixes of source addresses in the pinned map ``src_block``, with expiry times."""

import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.errors import SourceBlocksFull
from klais.system.prefix import Network
from klais.xdp import bpf
from klais.xdp.layout import BLOCKED_SOURCES, FOREVER, PREFIX, SOURCE_BLOCK, SourceRule
from klais.xdp.rules import until_ns
from klais.xdp.sources import key_of, network_of_key, set_rule


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """A block in force.

    Attributes
    ----------
    prefix : str
        The blocked addresses (CIDR).
    left_s : float
        Seconds until it ends; ``inf`` = until it is removed.
    dropped : int
        Packets that it dropped since it began. It can miss those of the microseconds in which the block is renewed.
    """

    prefix: str
    left_s: float
    dropped: int


class SourceBlocks:
    """Reads and changes the map; ``lock()`` locks out other processes during a change.

    Parameters
    ----------
    fd : int
        The map ``src_block``.
    config : CONFIG, shared with the kernel
    lock : callable
    """

    def __init__(self, fd: int, config: npt.NDArray[np.void], lock: Callable[[], AbstractContextManager[None]]) -> None:
        self._fd, self._config, self._lock = fd, config, lock

    def block(self, network: Network, ttl_s: float | None = None) -> None:
        """Drop the packets of a prefix for ``ttl_s`` seconds or until :meth:`unblock`; the kernel applies the expiry.

        Raises
        ------
        SourceBlocksFull
            If there is no room, and no entry has expired.
        """
        key, until, now_ns = key_of(network), until_ns(ttl_s), time.monotonic_ns()
        block = np.zeros((), SOURCE_BLOCK)
        with self._lock():
            found = bpf.lookup(self._fd, key, block)  # the longest prefix that contains it: another one if it has none
            if not found or block["prefix_bits"] != key["prefix_bits"] or block["until_ns"] <= now_ns:
                block["dropped"] = 0
            block["until_ns"], block["prefix_bits"] = until, key["prefix_bits"]
            try:
                bpf.update(self._fd, key, block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if not self._sweep(now_ns):
                    text = f"the filter blocks {BLOCKED_SOURCES:,} prefixes of sources, the maximum number"
                    raise SourceBlocksFull(f"{text}: unblock some (`klais sources unblock`)") from None
                bpf.update(self._fd, key, block)
            set_rule(self._config, SourceRule.BLOCK, True)

    def unblock(self, network: Network) -> bool:
        """Remove a block; returns whether there was one."""
        with self._lock():
            found = bpf.delete(self._fd, key_of(network))
            self._note()
            return found

    def sweep(self) -> int:
        """Remove expired entries; returns their number. An expired one hides a wider block that is in force."""
        with self._lock():
            return self._sweep(time.monotonic_ns())

    def refresh(self) -> None:
        """Update in the configuration whether the map has entries (the loader, if one of the two maps is new)."""
        with self._lock():
            self._sweep(time.monotonic_ns())

    def all(self) -> list[SourceBlock]:
        """The blocks in force, IPv4 first."""
        now_ns, found = time.monotonic_ns(), []
        for keys, blocks in self._rows():
            for i in np.flatnonzero(blocks["until_ns"] > now_ns):
                until = int(blocks["until_ns"][i])
                left_s = math.inf if until == FOREVER else (until - now_ns) / 1e9
                found.append((network_of_key(keys[i]), left_s, int(blocks["dropped"][i])))
        found.sort(key=lambda each: (each[0].version, each[0]))
        return [SourceBlock(str(network), left_s, dropped) for network, left_s, dropped in found]

    def _sweep(self, now_ns: int) -> int:
        old = [keys[blocks["until_ns"] <= now_ns] for keys, blocks in self._rows()]
        gone = sum(bpf.delete(self._fd, keys[i : i + 1]) for keys in old for i in range(len(keys)))
        self._note()
        return gone

    def _note(self) -> None:
        set_rule(self._config, SourceRule.BLOCK, any(len(keys) for keys, _ in self._rows()))

    def _rows(self) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.void]]]:
        return bpf.batches(self._fd, PREFIX, SOURCE_BLOCK, BLOCKED_SOURCES)
