"""Counters that only grow, built from counters that restart."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Numbers = Mapping[str, Any]


class ResetSafeCounter:
    """Growth of a vector of counters, summed over owners that come, go and restart.

    Parameters
    ----------
    size : int
        Counters in the vector.

    Examples
    --------
    >>> counter = ResetSafeCounter(1)
    >>> for value in (120, 130, 120, 135):  # started at 100, once lost steps and repeated them
    ...     counter.sample(0, np.array([value]), np.array([100]), now_s=0.0)
    >>> counter.sum.tolist()
    [35]
    """

    def __init__(self, size: int) -> None:
        self.sum: Counts = np.zeros(size, np.int64)
        self._highest: dict[Hashable, tuple[Counts, float]] = {}

    def sample(self, key: Hashable, values: npt.NDArray[Any], start: npt.NDArray[Any], now_s: float) -> None:
        """Add the growth of the counters of ``key``; ``start`` are their values when they were seen first."""
        values = values.astype(np.int64)
        highest, _ = self._highest.get(key, (start.astype(np.int64), now_s))
        self.sum += np.maximum(values - highest, 0)
        self._highest[key] = (np.maximum(values, highest), now_s)

    def highest(self, key: Hashable) -> Counts | None:
        """The highest values seen of ``key``, None if it was forgotten."""
        entry = self._highest.get(key)
        return None if entry is None else entry[0]

    def forget(self, before_s: float) -> None:
        """Forget keys whose last sample is older; one that returns counts from its ``start`` again."""
        self._highest = {key: entry for key, entry in self._highest.items() if entry[1] >= before_s}


def add(a: Any, b: Any) -> Any:
    """Sum of two numbers, or of two mappings by name; for other types, the second value.

    Examples
    --------
    >>> add({"received": 1, "dropped": {"a": 1}}, {"received": 2, "dropped": {"b": 3}})
    {'received': 3, 'dropped': {'a': 1, 'b': 3}}
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {
            name: add(a[name], b[name]) if name in a and name in b else a.get(name, b.get(name)) for name in {**a, **b}
        }
    number = int | float
    return a + b if isinstance(a, number) and isinstance(b, number) and not isinstance(b, bool) else b


class ResetSafeTotals:
    """Counters of one place, summed by name over all processes that held it, including nested mappings.

    The last counts of a process between its final observation and its end are missing.

    Parameters
    ----------
    leading : str, optional
        A counter whose decrease indicates a restart, for processes without an identity.

    Attributes
    ----------
    restarts : int
        How often another process started from 0.

    Examples
    --------
    >>> counter = ResetSafeTotals()
    >>> counter.observe({"received": 10}, life=1), counter.observe({"received": 3}, life=2)
    ({'received': 10}, {'received': 13})
    """

    def __init__(self, leading: str | None = None) -> None:
        self._leading = leading
        self._before: Numbers = {}
        self._newest: Numbers = {}
        self._life: Hashable = None
        self.restarts = 0

    def observe(self, counters: Numbers, life: Hashable = None) -> dict[str, Any]:
        """Record the present counters of the process and return the totals; ``life`` identifies it, like its pid."""
        if self._restarted(counters, life):
            self._before = self.totals()
            self.restarts += 1
        self._life, self._newest = life, counters
        return self.totals()

    def _restarted(self, counters: Numbers, life: Hashable) -> bool:
        if self._leading is not None and counters.get(self._leading, 0) < self._newest.get(self._leading, 0):
            return True
        return self._life is not None and life != self._life

    def totals(self) -> dict[str, Any]:
        """Totals of all processes so far."""
        out: dict[str, Any] = add(self._before, self._newest)
        return out
