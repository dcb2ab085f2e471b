"""Rules for source addresses: a rate for each source prefix, and a list of the only prefixes that may send."""

import errno
import ipaddress
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.errors import KlaisError
from klais.system.prefix import MAPPED_BITS, Network, network_of, packed
from klais.xdp import bpf
from klais.xdp.layout import ADDRESS, ALLOWED_SOURCES, PREFIX, SLOTS, SOURCE_COST, SourceRule
from klais.xdp.limits import from_units, to_units

IPV4_PREFIX, IPV6_PREFIX = 32, 56  # one bucket: a host, or the prefix that a provider assigns to one customer


class AllowedSourcesFull(KlaisError):
    """The list of allowed sources is full."""


@dataclass(frozen=True, slots=True)
class SourceLimit:
    """Rate in frames/s and burst in frames of each source prefix; ``inf`` = no limit.

    ``ipv4_prefix`` (1 to 32) and ``ipv6_prefix`` (1 to 128) are the bits of an address that identify a source:
    addresses with the same prefix share a bucket.
    """

    rate_per_s: float = math.inf
    burst: float = math.inf
    ipv4_prefix: int = IPV4_PREFIX
    ipv6_prefix: int = IPV6_PREFIX


NO_SOURCE_LIMIT = SourceLimit()


class Sources:
    """Changes the rules for sources; ``lock()`` locks out other processes during a change.

    Parameters
    ----------
    fd : int
        The map ``src_allow``.
    config : CONFIG, shared with the kernel
    lock : callable
    """

    def __init__(self, fd: int, config: npt.NDArray[np.void], lock: Callable[[], AbstractContextManager[None]]) -> None:
        self._fd, self._config, self._lock = fd, config, lock

    def limit(self) -> SourceLimit:
        """The limit in force."""
        config = self._config.copy()
        masks = (_bits(config["ipv4_mask"]) - MAPPED_BITS, _bits(config["ipv6_mask"]))
        if not int(config["source_rules"]) & SourceRule.RATE:
            return SourceLimit(math.inf, math.inf, *masks)
        slot = config["source_slots"][int(config["source_slot"]) % SLOTS]
        return SourceLimit(*from_units(slot, SOURCE_COST), *masks)

    def set_limit(self, limit: SourceLimit) -> None:
        """Put a limit into force, or none if its rate is infinite.

        Raises
        ------
        ValueError
            If the rate is 0 or less, the burst below 1, or the prefix length invalid.
        """
        for name, bits, max_bits in (("IPv4", limit.ipv4_prefix, 32), ("IPv6", limit.ipv6_prefix, 128)):
            if not 1 <= bits <= max_bits:
                raise ValueError(f"an {name} prefix has 1 to {max_bits} bits, not {bits}")
        units = to_units(limit.rate_per_s, limit.burst, SOURCE_COST)
        with self._lock():
            slot = (int(self._config["source_slot"]) + 1) % SLOTS  # a packet may still be reading the present one
            self._config["source_slots"][slot] = units
            self._config["ipv4_mask"] = _mask(MAPPED_BITS + limit.ipv4_prefix)
            self._config["ipv6_mask"] = _mask(limit.ipv6_prefix)
            self._config["source_slot"] = slot
            set_rule(self._config, SourceRule.RATE, bool(units["cap_units"]))

    def allow(self, prefix: str) -> None:
        """Add a prefix (CIDR) to the list. The first entry denies all other sources.

        Raises
        ------
        ValueError
            If it is not a prefix.
        AllowedSourcesFull
            If there is no room for another one.
        """
        key = key_of(network_of(prefix))
        with self._lock():
            try:
                bpf.update(self._fd, key, key["prefix_bits"].astype(np.uint64))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                text = f"the list of allowed sources has {ALLOWED_SOURCES:,} prefixes, the maximum number"
                raise AllowedSourcesFull(f"{text}: remove some (`klais xdp allow-source CIDR --clear`)") from None
            set_rule(self._config, SourceRule.LIST, True)

    def disallow(self, prefix: str) -> bool:
        """Remove a prefix; returns whether it was on the list. Removing the last one lets all sources send again."""
        key = key_of(network_of(prefix))
        with self._lock():
            others = any((keys != key).any() for keys in self._keys())
            set_rule(self._config, SourceRule.LIST, others)  # first: an empty list would deny all sources
            return bpf.delete(self._fd, key)

    def allowed(self) -> list[Network]:
        """The prefixes on the list, IPv4 first; empty = all sources may send."""
        if not int(self._config["source_rules"]) & SourceRule.LIST:
            return []
        found = [network_of_key(key) for keys in self._keys() for key in keys]
        return sorted(found, key=lambda one: (one.version, one))

    def refresh(self) -> None:
        """Update in the configuration whether the list has entries (the loader, if one of the two maps is new)."""
        with self._lock():
            set_rule(self._config, SourceRule.LIST, any(len(keys) for keys in self._keys()))

    def _keys(self) -> Iterator[npt.NDArray[np.void]]:
        """The entries of the list, in batches of ``PREFIX [n]``."""
        return (keys for keys, _ in bpf.batches(self._fd, PREFIX, np.uint64, ALLOWED_SOURCES))


def key_of(network: Network) -> npt.NDArray[np.void]:
    """The key of a prefix in a map, ``struct klais_prefix``: bits of the family, then of the address."""
    key = np.zeros((), PREFIX)
    bits = network.prefixlen + (MAPPED_BITS if network.version == 4 else 0)
    key["prefix_bits"], key["family"] = 32 + bits, network.version
    key["address"] = np.frombuffer(packed(network), ADDRESS)[0]
    return key


def network_of_key(key: npt.NDArray[np.void]) -> Network:
    """The prefix of a key."""
    raw, bits = key["address"].tobytes(), int(key["prefix_bits"]) - 32
    if int(key["family"]) == 4:
        return ipaddress.IPv4Network((raw[12:], bits - MAPPED_BITS))
    return ipaddress.IPv6Network((raw, bits))


def set_rule(config: npt.NDArray[np.void], rule: SourceRule, on: bool) -> None:
    """Enable or disable a check in the configuration. Needs the lock of the maps."""
    rules = int(config["source_rules"])
    config["source_rules"] = rules | rule if on else rules & ~rule


def _mask(bits: int) -> npt.NDArray[np.void]:
    """Create a ``struct klais_address`` with the first ``bits`` set."""
    raw = ((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big")
    mask: npt.NDArray[np.void] = np.frombuffer(raw, ADDRESS)[0]
    return mask


def _bits(mask: npt.NDArray[np.void]) -> int:
    return int.from_bytes(mask.tobytes(), "big").bit_count()
