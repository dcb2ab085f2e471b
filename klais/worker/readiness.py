"""Readiness of a worker: what must be in place before it can serve traffic (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GroupState:
    """State of the consumer group, the broker and Faust.

    Attributes
    ----------
    stopping, recovered, rebalancing : bool
        The worker stops; Faust has set up its tables; a rebalance is under way.
    assigned : frozenset of int
        Partitions of the staging topic that are assigned to this worker.
    gone : frozenset of int
        Assigned partitions that the broker did not know at the last check.
    partitions : int
        Partition count of the staging topic.
    workers : int
        Workers that report on ``klais_stats``, including this one.
    live_elsewhere : frozenset of int
        Lanes that other workers report as live.
    restoring : mapping of int to str
        Progress of the lanes that recover, as texts by partition.
    """

    stopping: bool = False
    recovered: bool = False
    rebalancing: bool = False
    assigned: frozenset[int] = field(default_factory=frozenset)
    gone: frozenset[int] = field(default_factory=frozenset)
    partitions: int = 0
    workers: int = 0
    live_elsewhere: frozenset[int] = field(default_factory=frozenset)
    restoring: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Readiness:
    """``waiting_for``: conditions not yet met, empty = ready. ``standby``: why it is ready without lanes, or ""."""

    waiting_for: tuple[str, ...] = ()
    standby: str = ""


def readiness(group: GroupState, topic: str, lanes: Mapping[int, bool]) -> Readiness:
    """Check whether the worker is ready; arguments as for :func:`waiting_for`.

    A worker without lanes is ready only if other workers report all lanes as live. It is then a standby and takes over
    when one of them stops.

    Examples
    --------
    >>> group = GroupState(recovered=True, partitions=2, workers=3, live_elsewhere=frozenset({0, 1}))
    >>> readiness(group, "klais_raw", {}).standby
    'standby: no lanes assigned, 3 workers for 2 partitions'
    """
    idle = group.recovered and not (group.stopping or group.rebalancing or group.assigned or lanes)
    if idle and group.partitions and group.live_elsewhere >= frozenset(range(group.partitions)):
        text = f"standby: no lanes assigned, {group.workers} workers for {group.partitions} partitions"
        return Readiness(standby=text)
    return Readiness(tuple(waiting_for(group, topic, lanes)))


def waiting_for(group: GroupState, topic: str, lanes: Mapping[int, bool]) -> list[str]:
    """Conditions not yet met, empty = ready. A worker without lanes waits for one, because it processes no frames.

    Parameters
    ----------
    group : GroupState
        The present state.
    topic : str
        Name of the staging topic.
    lanes : mapping of int to bool
        Partition -> whether its lane is live, of the lanes that were started.

    Examples
    --------
    >>> group = GroupState(recovered=True, assigned=frozenset({0, 1}))
    >>> waiting_for(group, "klais_raw", {0: True, 1: True})
    []
    >>> waiting_for(group, "klais_raw", {0: False})
    ['lane 1 to start', 'lane 0 to become live']
    >>> group = GroupState(recovered=True, restoring={0: "61 % of the journal replayed"}, assigned=frozenset({0}))
    >>> waiting_for(group, "klais_raw", {0: False})
    ['lane 0 to become live (61 % of the journal replayed)']
    """
    if group.stopping:
        return ["nothing: the worker is stopping"]
    out = []
    if not group.recovered:
        out.append("the devices table")
    if group.rebalancing:
        out.append("the rebalance to end")
    if not out and not group.assigned:
        out.append(f"a partition of {topic}: the topic does not exist, or its lanes move to other workers")
    out += [f"partition {p} of {topic}: the broker does not know it" for p in sorted(group.gone)]
    out += [f"lane {p} to start" for p in sorted(group.assigned - set(lanes))]
    return out + [f"lane {p} to become live{_progress(group, p)}" for p, live in sorted(lanes.items()) if not live]


def _progress(group: GroupState, partition: int) -> str:
    text = group.restoring.get(partition, "")
    return f" ({text})" if text else ""
