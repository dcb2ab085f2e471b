"""When the disk spool will be full, if it continues to grow as in the last seconds (pure)."""

from collections import deque

WINDOW_S = 15.0
MIN_S = 0.5  # growth over a shorter time is noise


class FillForecast:
    """Keeps the sizes of the last seconds.

    Attributes
    ----------
    full_s : float or None
        Seconds from the newest sample until the spool is full, 0 = it is full. None while it does not grow, or without
        a spool.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.full_s: float | None = None

    def sample(self, now_s: float, size: int, limit: int, batch: int = 0) -> None:
        """Add the size of the spool at ``now_s`` (monotonic). It is full if a ``batch`` exceeds the limit (all bytes).

        Examples
        --------
        >>> forecast = FillForecast()
        >>> for second, size in enumerate([0, 0, 100, 200]):
        ...     forecast.sample(float(second), size, 1000)
        >>> forecast.full_s
        8.0
        """
        seen = self._seen
        seen.append((now_s, size))
        # An empty spool shows when growth began: the time before it says nothing about its speed.
        while len(seen) > 1 and (now_s - seen[0][0] > WINDOW_S or seen[1][1] == 0):
            seen.popleft()
        self.full_s = self._left(limit, limit - batch)

    def _left(self, limit: int, full: int) -> float | None:
        (since_s, before), (now_s, size) = self._seen[0], self._seen[-1]
        if limit <= 0:
            return None
        if size > full or size >= limit:
            return 0.0
        elapsed_s = now_s - since_s
        if elapsed_s < MIN_S or size <= before:
            return None
        return (full - size) * elapsed_s / (size - before)

    def gauges(self) -> dict[str, float]:
        """The gauge ``spool_full_s`` of ``klais_stats``; empty while the spool does not grow."""
        return {} if self.full_s is None else {"spool_full_s": round(self.full_s, 1)}
