"""The last minutes of every series, so that charts are complete when the page opens."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.ui.sample import SERIES

SECONDS = 900
MEAN_OF = 10  # samples
BACK_MS = 60_000
PATH = ("edge_received", "edge_passed", "worker_received", "worker_passed")


class History:
    """A ring of samples, one per second.

    Memory: ``seconds`` x (series x 4 + 8) bytes, 158 KB for 15 minutes.

    Parameters
    ----------
    seconds : int
        Samples kept.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self._at_ms: npt.NDArray[np.int64] = np.zeros(seconds, np.int64)
        self._values: npt.NDArray[np.float32] = np.zeros((seconds, len(SERIES)), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._at_ms))

    def add(self, at_ms: int, sample: dict[str, float]) -> None:
        """Add a sample. If the clock was set back, it replaces the samples after it; within ``BACK_MS`` it is skipped,
        because another source may have given that second."""
        newest_ms = int(self._at_ms[(self._count - 1) % len(self._at_ms)]) if self._count else 0
        if self._count and at_ms <= newest_ms:
            if newest_ms - at_ms < BACK_MS:
                return
            index = self._held()
            index = index[self._at_ms[index] < at_ms]
            self._count = len(index)
            self._at_ms[: self._count], self._values[: self._count] = self._at_ms[index], self._values[index]
        where = self._count % len(self._at_ms)
        self._at_ms[where] = at_ms
        self._values[where] = [sample[name] for name in SERIES]
        self._count += 1

    def _held(self) -> npt.NDArray[np.int64]:
        """Places of the samples, the oldest first."""
        return np.arange(self._count - len(self), self._count) % len(self._at_ms)

    def path(self, samples: int = MEAN_OF) -> dict[str, float]:
        """Mean rates along the path of the frames over the newest ``samples``; empty without any, NaN = unknown now.

        Edges and workers report at different moments, so that the figures of one second do not belong together: after a
        burst, more frames pass than arrive.
        """
        newest = np.arange(self._count - min(samples, len(self)), self._count) % len(self._at_ms)
        if not len(newest):
            return {}
        return {name: _mean(self._values[newest, SERIES.index(name)]) for name in PATH}

    def since(self, after_ms: int = 0, seconds: int = SECONDS) -> dict[str, list[Any]]:
        """The newest ``seconds`` samples after a time (epoch ms), as columns: ``at_ms`` and one per series."""
        index = self._held()
        index = index[self._at_ms[index] > after_ms][-seconds:] if seconds > 0 else index[:0]
        columns = self._values[index].T
        return {"at_ms": self._at_ms[index].tolist()} | {
            name: [round(value, 4) for value in column.tolist()] for name, column in zip(SERIES, columns, strict=True)
        }


def _mean(values: npt.NDArray[np.float32]) -> float:
    """Mean of the known values; NaN if the newest one (the last) is unknown."""
    return math.nan if np.isnan(values[-1]) else round(float(np.nanmean(values)), 4)
