"""What a worker waits for before traffic may rely on it (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GroupState:
    """What the consumer group, the broker and Faust say.

    Attributes
    ----------
    stopping, recovered, rebalancing : bool
        The worker stops; Faust has set up its tables; a rebalance is under way.
    assigned : frozenset of int
        Partitions of the staging topic that the group gave to this worker.
    gone : frozenset of int
        Assigned partitions that the broker did not know when it was asked last.
    """

    stopping: bool = False
    recovered: bool = False
    rebalancing: bool = False
    assigned: frozenset[int] = field(default_factory=frozenset)
    gone: frozenset[int] = field(default_factory=frozenset)


def waiting_for(group: GroupState, topic: str, lanes: Mapping[int, bool]) -> list[str]:
    """What the worker waits for; empty = ready. A worker without lanes is never ready: no frame would pass through it.

    Parameters
    ----------
    group : GroupState
        As of now.
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
    """
    if group.stopping:
        return ["nothing: the worker is stopping"]
    out = []
    if not group.recovered:
        out.append("the devices table")
    if group.rebalancing:
        out.append("the rebalance to end")
    if not out and not group.assigned:
        out.append(f"a partition of {topic}: the topic does not exist, or other workers have all its partitions")
    out += [f"partition {p} of {topic}: the broker does not know it" for p in sorted(group.gone)]
    out += [f"lane {p} to start" for p in sorted(group.assigned - set(lanes))]
    return out + [f"lane {p} to become live" for p, live in sorted(lanes.items()) if not live]
