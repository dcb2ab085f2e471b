"""Batches in memory, first in, first out."""

from collections import Counter, deque
from collections.abc import Iterator

from klais.edge.batcher import ClosedBatch


class Memory:
    """A queue of batches with totals: ``bytes``, ``frames``, and number of batches ``of`` each partition."""

    def __init__(self) -> None:
        self._queue: deque[ClosedBatch] = deque()
        self.bytes = self.frames = 0
        self.of: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[ClosedBatch]:
        return iter(self._queue)

    def _book(self, built: ClosedBatch, sign: int) -> ClosedBatch:
        self.bytes += sign * len(built.value)
        self.frames += sign * built.count
        self.of[built.partition] += sign
        return built

    def put(self, built: ClosedBatch) -> None:
        """Append as the newest."""
        self._queue.append(self._book(built, 1))

    def unread(self, built: ClosedBatch) -> None:
        """Put back as the oldest."""
        self._queue.appendleft(self._book(built, 1))

    def first(self) -> ClosedBatch:
        """The oldest batch, without removing it."""
        return self._queue[0]

    def pop(self) -> ClosedBatch:
        """The oldest."""
        return self._book(self._queue.popleft(), -1)
