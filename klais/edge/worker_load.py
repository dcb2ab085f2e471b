"""Load of the workers for the linger controller: their figures on ``klais_stats``, read once a second."""

from collections.abc import Iterable, Mapping
from typing import Any

from klais.edge.linger import LingerController
from klais.kafka.stats import StatsFollower
from klais.telemetry.view import number_of

PERIOD_S = 1.0
FULL_HOST = 0.85  # a worker whose host has all cores busy counts as this share of a core: the linger grows


def busiest_worker(records: Iterable[Mapping[str, Any]]) -> float:
    """Share of a core that the busiest worker needs, as reported by the workers; 0 if none reports.

    Examples
    --------
    >>> busiest_worker([{"gauges": {"cpu_share": 0.3, "host_cpu_share": 1.0}}, {"gauges": {"cpu_share": 0.5}}])
    0.85
    """
    shares = (
        max(number_of(record, "gauges", "cpu_share"), FULL_HOST * number_of(record, "gauges", "host_cpu_share"))
        for record in records
    )
    return max(shares, default=0.0)


class WorkerLoad:
    """Passes the load of the busiest worker to the linger controller, in the thread of the spine."""

    def __init__(self, linger: LingerController, system: StatsFollower) -> None:
        self._linger, self._system = linger, system
        self._next_s = 0.0

    def on_tick(self, now_s: float) -> None:
        """Update once a second (``now_s`` monotonic)."""
        if now_s >= self._next_s:
            self._next_s = now_s + PERIOD_S
            self._linger.load(busiest_worker(self._system.newest("worker").values()), round(now_s * 1e9))
