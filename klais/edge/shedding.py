"""Load shedding at the edge: a token bucket over the rounds of the spine.

The controller gives each host a limit: the rate that the dam lets through, and a burst that may still wait for it. A
kernel filter sheds the rest where that costs least. Without one the edge sheds it, before a frame causes any cost in
Kafka or a worker, and counts it as ``global_rate``, like the filter. Behind a filter the edge's limit is slightly
higher: it never sheds frames that the filter let through, and applies to frames that bypassed it (another interface,
packets that the filter passes unjudged). The limit expires with the controller's heartbeat.
"""

import math
from collections.abc import Mapping
from typing import Any

from klais.control.setpoints import ControlFollower
from klais.control.shares import share_out
from klais.control.xdp_applier import Applier
from klais.core.dam.bucket import TokenBucket
from klais.edge.linger import PARTITIONS
from klais.kafka.stats import StatsFollower
from klais.telemetry.view import number_of

BEHIND_FILTER = 1.2  # times the limit, while a kernel filter enforces it
POLL_S = 0.1  # between two reads of the limit in force
# While the edge sheds, accepted frames wait for workers anyway, so their batches may collect for longer: 16 records a
# second with four partitions, 40 with ten or more. Each record costs a worker about a millisecond, so one with 0.1 of
# a CPU lands a fifth more frames than with 40 records a second (bench/notes/overload.md).
SHED_LINGER_NS = 250_000_000
SHED_LINGER_PARTITION_NS = 25_000_000  # for each partition, where that is more
SHED_NS = 5_000_000_000  # the longer linger ends this long after the last shed frame: earlier frames have landed


class LoadShedder:
    """Token bucket; unlimited until :meth:`limit`. Belongs to the thread of the spine.

    Parameters
    ----------
    partitions : int
        Number of batches that collect frames concurrently.

    Examples
    --------
    >>> shedder = LoadShedder()
    >>> shedder.limit(10.0, 5.0)
    >>> shedder.acquire(100, 0), shedder.acquire(100, 300_000_000)
    (5, 3)
    """

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self._bucket: TokenBucket | None = None
        self._shed_ns = 0
        self._linger_ns = max(SHED_LINGER_NS, SHED_LINGER_PARTITION_NS * partitions)

    def linger_ns(self, now_ns: int) -> int:
        """Minimum time that batches collect frames: 0.25 s with up to ten partitions while frames are shed, else 0."""
        return self._linger_ns if self._shed_ns and now_ns - self._shed_ns < SHED_NS else 0

    @property
    def rate_per_s(self) -> float:
        """Frames per second in force; infinite = no limit."""
        bucket = self._bucket  # read once: the API's thread reads it too
        return bucket.rate_per_s if bucket is not None else math.inf

    def limit(self, rate_per_s: float, burst: float) -> None:
        """Set the limit (frames/s, frames). The first limit starts with its full burst, later ones keep the tokens."""
        if self._bucket is None:
            self._bucket = TokenBucket(rate_per_s, burst)
        else:
            self._bucket.limit(rate_per_s, burst)

    def lift(self) -> None:
        """No limit."""
        self._bucket = None

    def acquire(self, frames: int, now_ns: int) -> int:
        """Take tokens for ``frames`` frames; returns how many of them may pass now."""
        if self._bucket is None:
            return frames
        acquired = self._bucket.acquire(frames, now_ns)  # whole frames: the fraction stays in the bucket
        if acquired < frames:
            self._shed_ns = now_ns
        return acquired


class HostLimit:
    """Sets this edge's part of its host's limit; the spine calls :meth:`on_tick` in each round.

    Parameters
    ----------
    shedder : LoadShedder
        The shedder to limit.
    name, host : str
        This edge on ``klais_stats``, and its machine.
    """

    def __init__(
        self,
        shedder: LoadShedder,
        name: str,
        host: str,
        control: ControlFollower,
        system: StatsFollower,
        applier: Applier,
    ) -> None:
        self.shedder, self._name, self._host = shedder, name, host
        self._control, self._system, self._applier = control, system, applier
        self._next_s = 0.0

    def on_tick(self, now_s: float) -> None:
        """Apply the limit in force, ten times a second while frames arrive (``now_s`` monotonic)."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + POLL_S
        found = self._control.intake(self._host)
        # Only a live controller may keep a limit in force.
        if found is None or not self._system.newest("controller"):
            self.shedder.lift()
            return
        share = self.share(self._system.newest("edge"), found[0]) * (BEHIND_FILTER if self._applier.available else 1.0)
        self.shedder.limit(found[0] * share, max(1.0, found[1] * share))

    def share(self, edges: Mapping[str, Mapping[str, Any]], rate: float) -> float:
        """This edge's part of its host's ``rate`` (frames/s), max-min fair by what each edge receives."""
        here = {name: number_of(at, "rates", "received") for name, at in edges.items() if at.get("host") == self._host}
        names = sorted(here.keys() | {self._name})
        wants = {at: here[name] for at, name in enumerate(names) if name in here}
        return share_out(wants, len(names), rate)[names.index(self._name)]
