"""The rate of the whole fleet: detect a pause or a surge (pure; time is an argument).

A device's rhythm is judged relative to the fleet's, so a change of all devices flags none of them. This module detects
it: it compares the rate of all edges with its own mean over the last minutes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from klais.core.incidents.grouping import Grouping
from klais.core.incidents.incident import FLEET_FEATURE
from klais.core.incidents.summary import FlagSeen

WARM_S = 120.0  # s of traffic before the first judgement
MEAN_S, SHORT_S = 300.0, 5.0  # time constants of the usual and of the present rate
PAUSE, SURGE = 0.2, 5.0  # times the usual rate
RECOVERED_FACTOR = 2.0  # the deviation is over within this factor
RECOVERED_FOR_S = 10.0  # for this long
ADOPT_S = 1800.0  # after this time the new rate becomes the usual one
MIN_PER_S = 1.0  # below this rate a fleet is not judged
MAX_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The present and the usual rate (frames/s). ``deviates``: for long enough; ``over``: an incident may close."""

    rate: float
    usual: float
    deviates: bool
    over: bool

    @property
    def cause(self) -> str:
        """``pause`` or ``surge``."""
        return "pause" if self.rate < self.usual else "surge"

    @property
    def times(self) -> float:
        """The factor by which the rate is above or below the usual one."""
        low, high = sorted((max(self.rate, 0.01 * self.usual, 1e-3), max(self.usual, 1e-3)))
        return high / low


class FleetWatch:
    """Watches the fleet's rate; call :meth:`observe` once a second.

    Parameters
    ----------
    usual : float, optional
        Frames/s that an earlier leader considered usual, if its incident is still open.
    """

    def __init__(self, usual: float | None = None) -> None:
        self._usual = usual
        self._seen_s = WARM_S if usual is not None else 0.0
        self._short: float | None = None
        self._at_s: float | None = None
        self._edges: frozenset[str] = frozenset()
        self._far_s = self._near_s = 0.0
        self._open_s = 0.0

    def observe(self, now_s: float, rate: float, edges: frozenset[str], is_open: bool) -> Reading | None:
        """Process the rate (frames/s) that ``edges`` received in the last second; None while it cannot be judged.

        When an edge starts or stops reporting, the rate is not comparable: it is learned for a while before it is
        judged again. ``is_open``: an incident is open.
        """
        step_s = 0.0 if self._at_s is None else min(MAX_STEP_S, max(0.0, now_s - self._at_s))
        self._at_s = now_s
        if not edges or not math.isfinite(rate):
            return None
        if edges != self._edges:
            self._edges, self._short, self._far_s, self._near_s = edges, None, 0.0, 0.0
            self._seen_s = min(self._seen_s, WARM_S - RECOVERED_FOR_S) if not is_open else self._seen_s
        self._short = rate if self._short is None else self._short + _share(step_s, SHORT_S) * (rate - self._short)
        if self._usual is None:
            self._usual = rate
        if not is_open:
            self._open_s = 0.0
            share = _share(step_s, MEAN_S) if self._seen_s >= WARM_S else max(_share(step_s, MEAN_S), 0.02)
            self._usual += share * (rate - self._usual)
        self._seen_s += step_s
        if self._seen_s < WARM_S or self._usual < MIN_PER_S:
            return None
        return self._judge(step_s, is_open)

    def _judge(self, step_s: float, is_open: bool) -> Reading:
        short, usual = self._short or 0.0, self._usual or 0.0
        far = short < PAUSE * usual or short > SURGE * usual
        near = usual / RECOVERED_FACTOR <= short <= usual * RECOVERED_FACTOR
        self._far_s = self._far_s + step_s if far else 0.0
        self._near_s = self._near_s + step_s if near else 0.0
        over = is_open and self._near_s >= RECOVERED_FOR_S
        if is_open:
            self._open_s += step_s
            if self._open_s >= ADOPT_S:
                self._usual, over = short, True
        return Reading(short, usual, self._far_s >= RECOVERED_FOR_S, over)


def _share(step_s: float, constant_s: float) -> float:
    return 1.0 - math.exp(-step_s / constant_s)


def judge_fleet(
    watch: FleetWatch,
    grouping: Grouping,
    now_s: float,
    at_ms: int,
    rate: float,
    edges: frozenset[str],
    is_muted: Callable[[FlagSeen], bool],
) -> None:
    """Open, update or close the fleet's incident from the rate (frames/s) that ``edges`` received.

    ``now_s`` is any monotonic clock, ``at_ms`` the time of flags (ms since the epoch).
    """
    incident = grouping.fleet_incident()
    reading = watch.observe(now_s, rate, edges, incident is not None)
    if reading is None:
        return
    if incident is not None and reading.over:
        grouping.close(incident, at_ms)
    elif reading.deviates:
        sizes = round(reading.times, 2), round(reading.rate, 2), round(reading.usual, 2)
        flag = FlagSeen("", FLEET_FEATURE, reading.cause, at_ms, *sizes)
        if not is_muted(flag):
            grouping.fleet(flag, at_ms)
