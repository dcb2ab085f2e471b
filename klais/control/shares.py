"""Shares of the global rate for the lanes, by the demand of each (pure)."""

from collections.abc import Mapping

FLOOR = 0.2  # of an even share: minimum of every lane, so that an idle one can start before the next record
DRAIN_S = 1.0  # the demand of a queue is the rate that empties it within this time
RATE_DEADBAND = 0.1  # new shares are written when one changed by this part of an even share

Demand = Mapping[int, float]


def demand(arriving_per_s: float, queued: float) -> float:
    """Demand of a lane (frames/s): arrivals, and the queue spread over a second."""
    return max(0.0, arriving_per_s) + max(0.0, queued) / DRAIN_S


def share_out(
    demands: Demand, partitions: int, rate: float, last: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Max-min fair share of each partition, with sum 1: each gets at least the lesser of its demand and an even share.

    The smallest demands are met first, and lanes that demand more than is left share the rest evenly (water filling,
    Bertsekas and Gallager 1992, section 6.5.2). So a flood in one lane takes only capacity that the others do not need.
    Capacity without demand is distributed as headroom in proportion to the demands.

    Parameters
    ----------
    demands : mapping of int to float
        Partition -> demand (frames/s), counted as at least a fifth of an even share; omit lanes without a measurement.
    partitions : int
        Number of partitions.
    rate : float
        The rate to share (frames/s).
    last : mapping of int to float, optional
        Shares in force: the demand of a lane without a measurement.

    Examples
    --------
    >>> share_out({0: 900.0, 1: 20.0}, 2, 100.0)
    {0: 0.8, 1: 0.2}
    >>> share_out({0: 30.0, 1: 10.0}, 2, 100.0)
    {0: 0.75, 1: 0.25}
    >>> share_out({}, 2, 100.0)
    {0: 0.5, 1: 0.5}
    """
    even = 1.0 / partitions
    before = dict.fromkeys(range(partitions), even) | dict(last or {})
    known = [p for p in range(partitions) if p in demands]
    asks = {p: max(FLOOR * even, demands[p] / rate) if p in demands else before[p] for p in range(partitions)}
    out, left = {}, 1.0
    for rank, p in enumerate(sorted(asks, key=asks.__getitem__)):
        out[p] = min(asks[p], left / (partitions - rank))
        left -= out[p]
    others = known or list(out)
    spare = max(0.0, left) / sum(asks[p] for p in others)
    for p in others:
        out[p] += spare * asks[p]
    return {p: round(out[p], 6) for p in range(partitions)}


def moved(before: Mapping[int, float] | None, after: Mapping[int, float]) -> bool:
    """Whether shares differ by more than the deadband."""
    if before is None:
        return True
    worth = RATE_DEADBAND / max(1, len(after))
    return any(abs(share - before.get(p, 0.0)) > worth for p, share in after.items())
