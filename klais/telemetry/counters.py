"""Counters that only grow, made from counters that start again."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class ResetSafeCounter:
    """Sum of what a vector of counters grew by, over owners that come, go and start again.

    Parameters
    ----------
    size : int
        Counters in the vector.

    Examples
    --------
    >>> counter = ResetSafeCounter(1)
    >>> for value in (120, 130, 120, 135):  # started at 100, once lost steps and made them again
    ...     counter.sample(0, np.array([value]), np.array([100]), now_s=0.0)
    >>> counter.sum.tolist()
    [35]
    """

    def __init__(self, size: int) -> None:
        self.sum: Counts = np.zeros(size, np.int64)
        self._highest: dict[Hashable, tuple[Counts, float]] = {}

    def sample(self, key: Hashable, values: npt.NDArray[Any], start: npt.NDArray[Any], now_s: float) -> None:
        """Add what the counters of ``key`` grew by; they stood at ``start`` when they were seen for the first time."""
        values = values.astype(np.int64)
        highest, _ = self._highest.get(key, (start.astype(np.int64), now_s))
        self.sum += np.maximum(values - highest, 0)
        self._highest[key] = (np.maximum(values, highest), now_s)

    def highest(self, key: Hashable) -> Counts | None:
        """The highest values seen of ``key``, None where it was forgotten."""
        entry = self._highest.get(key)
        return None if entry is None else entry[0]

    def forget(self, before_s: float) -> None:
        """Forget keys that were sampled last before that time; one that comes back counts from its ``start`` again."""
        self._highest = {key: entry for key, entry in self._highest.items() if entry[1] >= before_s}
