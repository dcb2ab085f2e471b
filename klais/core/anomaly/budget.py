"""The share of a worker's time for scoring, and how far the scoring period stretches to stay within it."""

from collections.abc import Callable

BURST_NS = 200_000_000  # unspent time that accumulates at most: one share of a second
STRETCH, RELAX = 1.25, 0.9  # the period's factor in a second in which values were skipped, and in one with time left
MAX_STRETCH = 360.0
SECOND_NS = 1_000_000_000
GATE_NS = 60.0  # time of a frame in its gate, which does not count as scoring


class CpuBudget:
    """The time that all lanes of a worker may spend on scoring: a token bucket of CPU time.

    ``stretch`` is the factor of the scoring period. It grows while values are skipped and shrinks when time is left. So
    under load all devices are scored less often, instead of only the first ones in a batch.

    Parameters
    ----------
    share : float
        Of one core.
    clock_ns : callable
        Time for measuring (ns), monotonic; a constant one switches the bound off.
    """

    def __init__(self, share: float, clock_ns: Callable[[], int]) -> None:
        self._share, self.clock_ns = share, clock_ns
        self._left_ns, self._at_ns = float(BURST_NS), clock_ns()
        self.ns_per_value = 1000.0
        self.stretch = 1.0
        self.spent_ns = 0.0
        self.scored = self.skipped = self.opened = self.without_channel = 0  # values, of all lanes since the start
        self._second_ns, self._skipped = self._at_ns, 0

    def values(self) -> float:
        """Number of values that may be scored now."""
        now_ns = self.clock_ns()
        self._left_ns = min(BURST_NS, self._left_ns + (now_ns - self._at_ns) * self._share)
        self._at_ns = now_ns
        if now_ns - self._second_ns >= SECOND_NS:
            self._adapt(now_ns)
        return max(0.0, self._left_ns / self.ns_per_value)

    def spend(
        self, took_ns: int, frames: int, values: int, skipped: int, opened: int = 0, without_channel: int = 0
    ) -> None:
        """Charge a step that took ``took_ns`` for its frames. It scored ``values``, of which ``opened`` immediately and
        ``without_channel`` without a channel, and skipped ``skipped``."""
        scoring_ns = max(0.0, took_ns - GATE_NS * frames)
        self._left_ns -= scoring_ns
        self.spent_ns += scoring_ns
        self._skipped += skipped
        self.scored, self.skipped = self.scored + values, self.skipped + skipped
        self.opened, self.without_channel = self.opened + opened, self.without_channel + without_channel
        if values >= 100:
            self.ns_per_value += 0.1 * (max(50.0, scoring_ns / values) - self.ns_per_value)

    def _adapt(self, now_ns: int) -> None:
        if self._skipped:
            self.stretch = min(MAX_STRETCH, self.stretch * STRETCH)
        elif self._left_ns > 0.5 * BURST_NS:
            self.stretch = max(1.0, self.stretch * RELAX)
        self._second_ns, self._skipped = now_ns, 0
