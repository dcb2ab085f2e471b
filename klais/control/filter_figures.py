"""Counters of a host's XDP filter, as its edges report them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.xdp.device_id import readable

# Reported blocks of each kind: the record goes to Kafka once a second.
MAX_REPORTED = 20

LocalBlock = tuple[str, float | None, int]


@dataclass(frozen=True, slots=True)
class FilterFigures:
    """Counters of this host's XDP filter, at most a second old; empty if there is no filter.

    Attributes
    ----------
    packets, bytes : mapping of str to int
        By verdict, since the filter was loaded.
    rates : mapping of str to float, or None
        Packets/s by verdict since the reading before; None if that was of another filter or there was none.
    set_points_age_s : float or None
        Time since the set-points were confirmed; None = never.
    limits_by : str
        Source of the limits in force: ``controller``, ``operator``, or ``load`` (those given at load).
    blocked : int
        Devices that the filter blocks.
    local_blocks : tuple of (str, float or None, int)
        Some of those that ``klais_control`` does not block: ``klais xdp block`` was run on this host. Device id,
        seconds until the end of the block (None = until it is removed), and the packets that it dropped.
    block_drops : mapping of str to int
        The devices blocked by ``klais_control`` with the most dropped packets: device id -> packets.
    blocked_sources : int
        Prefixes of source addresses that the filter blocks.
    source_drops : mapping of str to int
        Those with the most dropped packets: prefix -> packets.
    interfaces : tuple of str, or None
        Interfaces of this network namespace that the filter is attached to; None = unknown.
    bypassed : bool
        Whether it is attached to none of them, and has seen no packet since the reading before.
    """

    packets: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] | None = None
    set_points_age_s: float | None = None
    limits_by: str = ""
    blocked: int = 0
    local_blocks: tuple[LocalBlock, ...] = ()
    block_drops: Mapping[str, int] = field(default_factory=dict)
    blocked_sources: int = 0
    source_drops: Mapping[str, int] = field(default_factory=dict)
    interfaces: tuple[str, ...] | None = None
    bypassed: bool = False

    def gauges(self) -> dict[str, Any]:
        """The gauge ``xdp`` of ``klais_stats``; empty without a filter."""
        if not self.packets:
            return {}
        found: dict[str, Any] = {"packets": dict(self.packets), "limits_by": self.limits_by, "blocked": self.blocked}
        if self.local_blocks:
            names = ("device_id", "left_s", "dropped")
            found["local_blocks"] = [dict(zip(names, block, strict=True)) for block in self.local_blocks]
        if self.block_drops:
            found["block_drops"] = dict(self.block_drops)
        if self.interfaces is not None:
            found["interfaces"] = list(self.interfaces)
        if self.blocked_sources:
            found["blocked_sources"] = self.blocked_sources
        if self.source_drops:
            found["source_drops"] = dict(self.source_drops)
        if self.rates is not None:
            found["rates"] = {verdict: round(per_s, 1) for verdict, per_s in self.rates.items() if per_s}
        if self.set_points_age_s is not None:
            found["set_points_age_s"] = round(self.set_points_age_s, 3)
        return {"xdp": found}


def packet_rates(before: Mapping[str, int], now: Mapping[str, int], elapsed_s: float) -> dict[str, float] | None:
    """Packets/s by verdict between two readings of the counters, None if they were not of the same filter.

    Examples
    --------
    >>> packet_rates({"pass": 5, "blocked": 7}, {"pass": 9, "blocked": 7}, 2.0)
    {'pass': 2.0, 'blocked': 0.0}
    >>> packet_rates({"pass": 5}, {"pass": 0}, 2.0), packet_rates({}, {"pass": 9}, 2.0)
    (None, None)
    """
    if not before or elapsed_s <= 0 or any(count < before.get(verdict, 0) for verdict, count in now.items()):
        return None
    return {verdict: (count - before.get(verdict, 0)) / elapsed_s for verdict, count in now.items()}


def reported_blocks(
    ids: npt.NDArray[np.bytes_],
    left_s: npt.NDArray[np.float64],
    dropped: npt.NDArray[np.uint64],
    controlled: set[bytes],
) -> tuple[int, tuple[LocalBlock, ...], dict[str, int]]:
    """The number of blocks in a filter; ``MAX_REPORTED`` of devices that are not ``controlled``, by id; and as
    many of those that are, with the most dropped packets."""
    ours = np.isin(ids, np.array(list(controlled), ids.dtype))
    here, there = np.flatnonzero(~ours), np.flatnonzero(ours & (dropped > 0))
    here = here[np.argsort(ids[here])][:MAX_REPORTED]
    there = there[np.argsort(dropped[there])[::-1]][:MAX_REPORTED]
    shown = zip(ids[here].tolist(), left_s[here].tolist(), dropped[here].tolist(), strict=True)
    return (
        len(ids),
        tuple((readable(name), None if left == np.inf else round(left, 1), count) for name, left, count in shown),
        dict(zip(map(readable, ids[there].tolist()), dropped[there].tolist(), strict=True)),
    )
