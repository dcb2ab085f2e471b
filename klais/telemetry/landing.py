"""Whether frames land within ``KLAIS_LATENCY_MS``: the share of late batches in the last half minute (pure)."""

from collections import deque

MAX_LATE_SHARE = 0.05  # share of late batches above which the target counts as missed, so that short delays do not
OVER_S = 30.0


class LateShare:
    """Share of the batches that landed later than the target; :meth:`sample` once a second.

    One thread observes. A sample from another thread may miss one observation, which is acceptable.

    Examples
    --------
    >>> late = LateShare(0.1)
    >>> for seconds in (0.05, 0.07, 0.25, 0.06):
    ...     late.observe(seconds)
    >>> late.sample(1.0), late.sample(40.0)
    (0.25, 0.0)
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._batches = self._late = 0
        self._seconds: deque[tuple[float, int, int]] = deque()  # (monotonic, batches, late ones)
        self.share = 0.0

    def observe(self, seconds: float) -> None:
        """Count a batch with the seconds from the receipt of its first frame at the edge until it landed."""
        self._batches += 1
        self._late += seconds > self._target_s

    def sample(self, now_s: float) -> float:
        """The share up to now; 0 if nothing landed."""
        self._seconds.append((now_s, self._batches, self._late))
        self._batches = self._late = 0
        while now_s - self._seconds[0][0] >= OVER_S:
            self._seconds.popleft()
        batches, late = (sum(row[n] for row in self._seconds) for n in (1, 2))
        self.share = round(late / batches, 4) if batches else 0.0
        return self.share


def missed_target(late_share: float | None, target_ms: float | None) -> str | None:
    """A message if the target is missed; None if it is met or unknown.

    Examples
    --------
    >>> missed_target(0.04, 100.0)
    >>> missed_target(0.31, 100.0)
    '31 % of the batches of the last 30 s landed later than KLAIS_LATENCY_MS=100'
    """
    if late_share is None or target_ms is None or late_share <= MAX_LATE_SHARE:
        return None
    return f"{late_share:.0%} of the batches".replace("%", " %") + (
        f" of the last {OVER_S:.0f} s landed later than KLAIS_LATENCY_MS={target_ms:g}"
    )
