"""Token bucket arithmetic (RFC 2697's committed bucket with one colour): tokens are frames or records, time is handed
in.

:func:`refill` is the one definition. A bucket keeps its tokens and the time they were counted at. It follows its clock
at once, also backwards: time that went backwards earns nothing, and costs nothing either.
"""

import numpy as np
import numpy.typing as npt

from klais.jit.kernel import float64, int64, kernel


@kernel(float64(float64, int64, int64, float64, float64), borrows=True, inlined=True)
def refill(tokens: float, last_ns: int, now_ns: int, rate_per_s: float, burst: float) -> float:
    """Tokens at ``now_ns``, at most ``burst``; a clock that went backwards adds nothing.

    Examples
    --------
    >>> refill(0.0, 0, 500_000_000, 10.0, 100.0)
    5.0
    """
    if now_ns > last_ns:
        tokens += np.float64(now_ns - last_ns) * 1e-9 * rate_per_s
    return min(tokens, burst)


def refill_column(
    tokens: npt.NDArray[np.float64], last_ns: npt.NDArray[np.int64], now_ns: int, rate_per_s: float, burst: float
) -> npt.NDArray[np.float64]:
    """:func:`refill` of many buckets of one rate, for views: float64 [n].

    Examples
    --------
    >>> refill_column(np.array([0.0, 9.0]), np.array([0, 0]), 500_000_000, 10.0, 10.0).tolist()
    [5.0, 10.0]
    """
    return np.minimum(tokens + np.maximum(now_ns - last_ns, 0) * 1e-9 * rate_per_s, burst)


class TokenBucket:
    """One bucket; it starts full.

    Parameters
    ----------
    rate_per_s : float
        Tokens earned in a second.
    burst : float
        Tokens it holds at most.

    Examples
    --------
    >>> bucket = TokenBucket(10.0, 5.0)
    >>> bucket.acquire(8, now_ns=0), bucket.acquire(8, now_ns=300_000_000)
    (5, 3)
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self.tokens = burst
        self._at_ns: int | None = None

    def available(self, now_ns: int) -> int:
        """Whole tokens at ``now_ns``; below 0 never."""
        last_ns = now_ns if self._at_ns is None else self._at_ns
        self.tokens = float(refill(self.tokens, last_ns, now_ns, self.rate_per_s, self.burst))
        self._at_ns = now_ns
        return max(0, int(self.tokens))

    def spend(self, tokens: int) -> None:
        """Take tokens out, more than there are if need be."""
        self.tokens -= tokens

    def acquire(self, wanted: int, now_ns: int) -> int:
        """Take as many of the wanted tokens as there are; how many that was."""
        granted = min(wanted, self.available(now_ns))
        self.spend(granted)
        return granted
