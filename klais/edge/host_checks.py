"""The check of an edge's host clock, by comparison with other processes."""

import time
from collections.abc import Callable

from klais.kafka.stats import StatsFollower

TOLERATED_S = 60.0  # a smaller error in the time of records is harmless


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
        return (
            f"Kafka refuses records because of their time: the clock of this host is {far} ahead of Kafka's, correct it"
        )
