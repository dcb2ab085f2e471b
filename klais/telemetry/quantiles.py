"""Latency quantiles since the last sample, from a ring of the newest observations."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

KEPT = 1024

Observe = Callable[[float], None]


def both(first: Observe, second: Observe) -> Observe:
    """Combine two observers into one."""

    def observe(seconds: float) -> None:
        first(seconds)
        second(seconds)

    return observe


class RecentHighest:
    """The highest observation of the last ``window_s`` seconds.

    Examples
    --------
    >>> recent = RecentHighest(60.0)
    >>> recent.observe(0.5, now_s=0.0), recent.observe(0.2, now_s=50.0)
    (None, None)
    >>> recent.highest(now_s=55.0), recent.highest(now_s=70.0), recent.highest(now_s=200.0)
    (0.5, 0.2, 0.0)
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()  # (when, value), values going down

    def observe(self, value: float, now_s: float) -> None:
        """Add one observation (``now_s`` monotonic)."""
        while self._seen and self._seen[-1][1] <= value:
            self._seen.pop()
        self._seen.append((now_s, value))

    def highest(self, now_s: float) -> float:
        """The highest one; 0 if there is none."""
        while self._seen and self._seen[0][0] < now_s - self._window_s:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0


class Quantiles:
    """Keeps the newest 1,024 observations (s); ``sample`` gives their quantiles in ms and resets them.

    One thread observes, once per batch. A sample from another thread may miss one observation, which is acceptable.

    Examples
    --------
    >>> q = Quantiles()
    >>> for ms in range(1, 101):
    ...     q.observe(ms / 1000)
    >>> q.sample()
    {'p50': 50.5, 'p99': 99.01, 'count': 100}
    """

    def __init__(self) -> None:
        self._seen: npt.NDArray[np.float64] = np.zeros(KEPT)
        self._count = 0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self._seen[self._count % KEPT] = seconds
        self._count += 1

    def sample(self) -> dict[str, Any]:
        """``p50`` and ``p99`` (ms) and the number of observations; all 0 without observations."""
        count, self._count = self._count, 0
        if not count:
            return {"p50": 0.0, "p99": 0.0, "count": 0}
        p50, p99 = np.percentile(self._seen[: min(count, KEPT)], (50, 99)) * 1e3
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "count": count}
