"""Token bucket arithmetic (RFC 2697's committed bucket with one colour). Tokens are frames or records; time is an
argument.

:func:`refill` is the only definition. A bucket stores its tokens and the time at which they were counted. It follows
its clock immediately, also backwards: a clock that goes back neither adds nor removes tokens.

This module compiles nothing, so that processes without kernels can use it to count requests.
:mod:`klais.core.dam.admit` compiles :func:`refill` for the data path.
"""

import numpy as np
import numpy.typing as npt


def refill(tokens: float, last_ns: int, now_ns: int, rate_per_s: float, burst: float) -> float:
    """Tokens at ``now_ns``, at most ``burst``; a clock that went back adds nothing.

    Examples
    --------
    >>> refill(0.0, 0, 500_000_000, 10.0, 100.0)
    5.0
    """
    if now_ns > last_ns:
        tokens += (now_ns - last_ns) * 1e-9 * rate_per_s
    return min(tokens, burst)


def refill_column(
    tokens: npt.NDArray[np.float64], last_ns: npt.NDArray[np.int64], now_ns: int, rate_per_s: float, burst: float
) -> npt.NDArray[np.float64]:
    """:func:`refill` of many buckets with one rate, for views: float64 [n].

    Examples
    --------
    >>> refill_column(np.array([0.0, 9.0]), np.array([0, 0]), 500_000_000, 10.0, 10.0).tolist()
    [5.0, 10.0]
    """
    return np.minimum(tokens + np.maximum(now_ns - last_ns, 0) * 1e-9 * rate_per_s, burst)


def burst_of_one_second(rate_per_s: float) -> float:
    """Burst of a bucket that holds the tokens of one second, and at least one token if the rate is above 0.

    Examples
    --------
    >>> burst_of_one_second(50.0), burst_of_one_second(0.1), burst_of_one_second(0.0)
    (50.0, 1.0, 0.0)
    """
    return max(1.0, rate_per_s) if rate_per_s > 0 else 0.0


class TokenBucket:
    """One bucket; it starts full.

    Parameters
    ----------
    rate_per_s : float
        Tokens earned per second.
    burst : float
        Maximum number of tokens.

    Examples
    --------
    >>> bucket = TokenBucket(10.0, 5.0)
    >>> bucket.acquire(8, now_ns=0), bucket.acquire(8, now_ns=300_000_000)
    (5, 3)
    """

    __slots__ = ("_at_ns", "burst", "rate_per_s", "tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self.tokens = burst
        self._at_ns: int | None = None

    @classmethod
    def of_one_second(cls, rate_per_s: float) -> "TokenBucket":
        """A bucket for the tokens of one second, at least one token; with the rate 0 it is always empty."""
        return cls(rate_per_s, burst_of_one_second(rate_per_s))

    def limit(self, rate_per_s: float, burst: float) -> None:
        """Change rate and burst. Present tokens stay, up to the new burst: changing the limit grants no extra burst."""
        self.rate_per_s, self.burst = rate_per_s, burst
        self.tokens = min(self.tokens, burst)

    def available(self, now_ns: int) -> int:
        """Whole tokens at ``now_ns``, never below 0."""
        last_ns = now_ns if self._at_ns is None else self._at_ns
        self.tokens = refill(self.tokens, last_ns, now_ns, self.rate_per_s, self.burst)
        self._at_ns = now_ns
        return max(0, int(self.tokens))

    def spend(self, tokens: int) -> None:
        """Take tokens out, even if that makes the balance negative."""
        self.tokens -= tokens

    def acquire(self, wanted: int, now_ns: int) -> int:
        """Take up to ``wanted`` tokens, as many as are available; returns the number taken."""
        granted = min(wanted, self.available(now_ns))
        self.spend(granted)
        return granted
