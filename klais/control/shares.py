"""Shares of the global rate for the lanes, by the demand of each (pure)."""

from collections.abc import Mapping

FLOOR = 0.2  # of an even share: the least of every lane, so that an idle one can start before the next record
DRAIN_S = 1.0  # the demand of a queue is to empty within this time
RATE_DEADBAND = 0.1  # new shares are written when one moved by this part of an even share

Demand = Mapping[int, float]


def demand(arriving_per_s: float, queued: float) -> float:
    """Demand of a lane (frames/s): arrivals, and the queue spread over a second."""
    return max(0.0, arriving_per_s) + max(0.0, queued) / DRAIN_S


def share_out(wants: Demand, partitions: int, last: Mapping[int, float] | None = None) -> dict[int, float]:
    """Share of each partition, together 1; none below a fifth of an even share.

    Parameters
    ----------
    wants : mapping of int to float
        Partition -> demand (frames/s); leave out lanes without a measurement.
    partitions : int
        How many there are.
    last : mapping of int to float, optional
        Shares in force: a lane without a measurement keeps its share.

    Examples
    --------
    >>> share_out({0: 300.0, 1: 100.0}, 2)
    {0: 0.7, 1: 0.3}
    >>> share_out({}, 2)
    {0: 0.5, 1: 0.5}
    """
    even = 1.0 / partitions
    before = dict.fromkeys(range(partitions), even) | dict(last or {})
    kept = {p: before[p] for p in range(partitions) if p not in wants}
    known = [p for p in range(partitions) if p in wants]
    room = 1.0 - sum(kept.values())
    floor = min(FLOOR * even, room / len(known)) if known else 0.0
    total = sum(wants[p] for p in known)
    free = room - floor * len(known)
    out = dict(kept)
    for p in known:
        out[p] = floor + free * (wants[p] / total if total > 0.0 else 1.0 / len(known))
    return {p: round(out[p], 6) for p in range(partitions)}


def moved(before: Mapping[int, float] | None, after: Mapping[int, float]) -> bool:
    """Whether shares differ by more than the deadband."""
    if before is None:
        return True
    worth = RATE_DEADBAND / max(1, len(after))
    return any(abs(share - before.get(p, 0.0)) > worth for p, share in after.items())
