"""The dam's queue: frames that wait, first in first out; durable because they are still on the staging topic."""

from collections import deque

import numpy as np
import numpy.typing as npt

from klais.core.lane.columns import Columns

Part = tuple[Columns, npt.NDArray[np.int32]]
PART_BYTES = 2048  # of objects for each raw record that waits
FRAME_BYTES = 64  # of columns for each frame of such a record
# What names the waiting frames in a checkpoint (see klais.core.lane.checkpoint) stays below this, so that one record
# holds it.
MAX_RANGE_BYTES = 1_250_000
RANGE_BYTES = 16  # for each raw record that waits, besides the bits of its frames


def held_bytes(record_bytes: int, frames: int) -> int:
    """Memory that a raw record costs while one of its frames waits: all of it, whichever frames wait."""
    return record_bytes + PART_BYTES + FRAME_BYTES * frames


class FrameQueue:
    """Parts of frame batches in arrival order.

    Attributes
    ----------
    depth : int
        Frames that wait.
    bytes : int
        Memory held for them (:func:`held_bytes`), each raw record counted once.
    range_bytes : int
        At most so many bytes of a checkpoint name them.
    """

    def __init__(self) -> None:
        self._parts: deque[tuple[int, Columns, npt.NDArray[np.int32]]] = deque()
        self.depth = self.bytes = self.range_bytes = 0

    def has_room(self, columns: Columns, limit_bytes: int) -> bool:
        """Whether frames of one more raw record may wait."""
        return self.bytes + _held(columns) <= limit_bytes and self.range_bytes + _range(columns) <= MAX_RANGE_BYTES

    def push(self, raw_offset: int, columns: Columns, index: npt.NDArray[np.int32]) -> None:
        """Append frames ``index`` (int32 [k], ascending) of the batch at ``raw_offset``."""
        if len(index):
            self._parts.append((raw_offset, columns, index))
            self.depth += len(index)
            self.bytes += _held(columns)
            self.range_bytes += _range(columns)

    def pop(self, frames: int) -> list[Part]:
        """Take ``frames`` frames (at most ``depth``) from the head."""
        taken: list[Part] = []
        while frames:
            raw_offset, columns, index = self._parts.popleft()
            if len(index) > frames:
                self._parts.appendleft((raw_offset, columns, index[frames:]))
                index = index[:frames]
            else:
                self.bytes -= _held(columns)
                self.range_bytes -= _range(columns)
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


def _held(columns: Columns) -> int:
    return held_bytes(len(columns.batch.buf), columns.count)


def _range(columns: Columns) -> int:
    return RANGE_BYTES + (columns.count + 7) // 8
