"""Alarms that were false before: a fleet's noise or its regular peaks do not raise the same alarm again (pure).

The first seconds of a herd look like a short peak that comes every minute, and a window of 60 s cannot tell them apart.
What came after the last alarm can. An alarm after which no burst came shows a height that this fleet reaches by itself.
Later alarms count only above that height. A burst that stays below it ends the habit, and so does a day without such an
alarm.
"""

from dataclasses import dataclass, replace

import numpy as np

from klais.control.cuts import CUT_AT
from klais.control.forecast import FACTOR, HORIZON_S, SMALL_RATE, TrafficForecast, Window

FOLLOWS_S = 15.0  # a burst that an alarm announces is over its limit by then: 10 s, and the 5 s of its mean
MARGIN = 1.1  # of the height: noise makes each peak another one
KEPT_S = 86_400.0
HABITUAL = 0.35  # highest probability of a habitual alarm: no cut, and an earlier one is reverted


@dataclass(slots=True)
class _Alarm:
    last_s: float
    height: float = 0.0
    burst: bool = False
    missed: bool = False


class Habits:
    """Remembers the height of false alarms; call :meth:`look` once a second.

    Examples
    --------
    >>> habits, seen = Habits(), []
    >>> for second in range(180):  # each minute a peak of 1.8 times the usual rate, which the forecast calls a burst
    ...     peak = second % 60 < 3
    ...     seen.append(habits.look(float(second), 0.9 if peak else 0.1, 1.8 if peak else 1.0, 1.3 if peak else 1.0))
    >>> [seen[0], seen[60], seen[120], habits.look(180.0, 0.9, 2.5, 1.5)]
    [0.9, 0.35, 0.35, 0.9]
    """

    def __init__(self) -> None:
        self._alarm: _Alarm | None = None
        self._height, self._height_s = 0.0, 0.0

    def look(self, now_s: float, probability: float, ratio_1s: float, ratio_5s: float) -> float:
        """The probability of a burst, at most 0.35 if the fleet reaches this height by itself.

        Parameters
        ----------
        now_s : float
            Monotonic.
        probability : float
            The forecast's.
        ratio_1s, ratio_5s : float
            Rate of the last second, and mean of the last 5 s, over the median of the window.
        """
        is_alarm = probability >= CUT_AT
        if is_alarm and self._alarm is None:
            self._alarm = _Alarm(now_s)
        if (alarm := self._alarm) is None:
            return probability
        alarm.height = max(alarm.height, ratio_1s)
        if now_s - self._height_s > KEPT_S:
            self._height = 0.0
        known = alarm.height <= MARGIN * self._height
        if ratio_5s > FACTOR and not alarm.burst:
            alarm.burst, alarm.missed = True, known
        if is_alarm:
            alarm.last_s = now_s
        elif now_s - alarm.last_s >= FOLLOWS_S:
            self._end(alarm, now_s)
        return min(probability, HABITUAL) if known and not alarm.burst else probability

    def of(self, now_s: float, forecast: TrafficForecast, window: Window) -> TrafficForecast:
        """A forecast from ``window`` with the probability of :meth:`look`."""
        rate, median = window[-HORIZON_S:, 0], max(forecast.median, SMALL_RATE)
        if not len(rate):
            return forecast
        ratios = float(rate[-1]) / median, float(np.mean(rate)) / median
        probability = self.look(now_s, forecast.probability, *ratios)
        if probability == forecast.probability:
            return forecast
        why = f"{forecast.why}; this fleet often rises to {self._height:.2g} times its median by itself"
        return replace(forecast, probability=probability, why=why)

    def _end(self, alarm: _Alarm, now_s: float) -> None:
        """An alarm is over. It was false, or it was true at a habitual height, which ends the habit."""
        self._alarm = None
        if not alarm.burst:
            self._height, self._height_s = max(self._height, alarm.height), now_s
        elif alarm.missed:
            self._height = 0.0
