"""Token bucket arithmetic (RFC 2697's committed bucket with one colour): tokens are frames, time is handed in."""

import numpy as np

from klais.jit.kernel import float64, int64, kernel

MAX_BACKWARDS_NS = 10_000_000_000


@kernel(float64(float64, int64, int64, float64, float64), borrows=True)
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


@kernel(int64(int64, int64), borrows=True)
def refilled_at(last_ns: int, now_ns: int) -> int:
    """The bucket's new time: not backwards by a little (edges' clocks differ); one set back over 10 s is followed."""
    if now_ns >= last_ns or last_ns - now_ns > MAX_BACKWARDS_NS:
        return now_ns
    return last_ns
