"""Checks of an edge's host clock and id, by comparison with other processes."""

import time
from collections.abc import Callable

from klais.kafka.stats import StatsFollower
from klais.telemetry import log as logs

log = logs.get("klais.edge")

TOLERATED_S = 60.0  # a smaller error in the time of records is harmless
SAME_ID_S = 10.0  # an edge being replaced and its successor may both report for this long
FORGET_OTHER_S = 5.0


def _wall_s() -> float:
    return time.time()


class ClockCheck:
    """The timestamp for records, and whether Kafka refuses it. A wrong clock never stops an edge.

    Topics created by KLAIS use the broker's time. A topic created otherwise may use the producer's, and then refuses
    records more than an hour ahead (INVALID_TIMESTAMP). So the edge corrects the time by the difference to Kafka's
    clock that ``klais_stats`` shows.

    Parameters
    ----------
    system : StatsFollower
        Compares the clocks.
    name : str
        This edge on ``klais_stats``.
    wall_s : callable
        This host's clock, s since the epoch.
    """

    def __init__(self, system: StatsFollower, name: str, wall_s: Callable[[], float] = _wall_s) -> None:
        self._system, self._name, self._wall_s = system, name, wall_s
        self._refused = False

    def on_acknowledged(self) -> None:
        """Kafka accepted a record."""
        self._refused = False

    def on_refused(self) -> None:
        """Kafka answered INVALID_TIMESTAMP."""
        self._refused = True

    def record_ms(self) -> int:
        """The timestamp for a record (epoch ms), corrected by the known clock error; 0 = let the client set it."""
        ahead_s = self._system.clock_offset_s(self._name)
        if ahead_s is None or abs(ahead_s) < TOLERATED_S:
            return 0
        return max(1, round((self._wall_s() - ahead_s) * 1e3))

    def problem(self) -> str:
        """The problem as text; empty if Kafka accepts the records."""
        if not self._refused:
            return ""
        ahead_s = self._system.clock_offset_s(self._name)
        far = "far" if ahead_s is None else f"{ahead_s:,.0f} s"
        return f"Kafka refuses records because of their time: the clock of this host is {far} ahead of Kafka's, set it"


class SameIdCheck:
    """Whether another edge process reports under the same id: each would then count the other's share and statistics.

    Parameters
    ----------
    system : StatsFollower
        Receives the records of all edges.
    name, instance : str
        This edge on ``klais_stats``, and the random number that distinguishes it from others with that name.
    """

    def __init__(self, system: StatsFollower, name: str, instance: str) -> None:
        self._system, self._name, self._instance = system, name, instance
        self._first_s: float | None = None
        self._last_s = float("-inf")
        self._where = self._logged = ""

    def on_tick(self, now_s: float) -> None:
        """Check which edges report under this edge's name (``now_s`` monotonic); log when that changes."""
        self._check_newest(now_s)
        problem = self.problem()
        if problem and not self._logged:
            log.error("edge_id_shared", why=problem)
        elif self._logged and not problem:
            log.info("edge_id_shared_no_more", was=self._logged)
        self._logged = problem

    def _check_newest(self, now_s: float) -> None:
        record = self._system.newest("edge").get(self._name)
        if record is None or "instance" not in record or record["instance"] == self._instance:
            if now_s - self._last_s > FORGET_OTHER_S:
                self._first_s = None
            return
        self._first_s = now_s if self._first_s is None else self._first_s
        self._last_s, self._where = now_s, str(record.get("host", "another host")).partition(":")[0]

    def problem(self) -> str:
        """The problem as text; empty if there is none."""
        if self._first_s is None or self._last_s - self._first_s < SAME_ID_S:
            return ""
        do = "give each edge its own KLAIS_EDGE_ID, or KLAIS_EDGE_NAME if edges claim their numbers"
        return f"another edge on {self._where} also reports as {self._name}: {do}"
