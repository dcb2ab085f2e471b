"""The dam's queue: frames that wait, first in first out; durable because they are still on the staging topic."""

from collections import deque

import numpy as np
import numpy.typing as npt

from klais.core.lane.columns import Columns

Part = tuple[Columns, npt.NDArray[np.int32]]


class FrameQueue:
    """Parts of frame batches in arrival order; ``depth`` counts frames."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, Columns, npt.NDArray[np.int32]]] = deque()
        self.depth = 0

    def push(self, raw_offset: int, columns: Columns, index: npt.NDArray[np.int32]) -> None:
        """Append frames ``index`` (int32 [k], ascending) of the batch at ``raw_offset``."""
        if len(index):
            self._parts.append((raw_offset, columns, index))
            self.depth += len(index)

    def pop(self, frames: int) -> list[Part]:
        """Take ``frames`` frames (at most ``depth``) from the head."""
        taken: list[Part] = []
        while frames:
            raw_offset, columns, index = self._parts.popleft()
            if len(index) > frames:
                self._parts.appendleft((raw_offset, columns, index[frames:]))
                index = index[:frames]
            taken.append((columns, index))
            frames -= len(index)
            self.depth -= len(index)
        return taken

    def ranges(self) -> list[tuple[int, int, npt.NDArray[np.int32]]]:
        """What waits, for a checkpoint: (raw offset, frames of that batch, index of those that wait)."""
        return [(raw_offset, columns.count, index) for raw_offset, columns, index in self._parts]

    def parts(self) -> list[Part]:
        """What waits, in order, for views: columns of a batch and the index of its frames that wait."""
        return [(columns, index) for _, columns, index in self._parts]
