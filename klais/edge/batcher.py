"""One batch builder for each partition, in shared columns; a kernel appends frames, and whole KFB1 records come out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.core.wire.batch import (
    FLAG_EPOCHS,
    FLAG_OFFSETS,
    FLAG_SOURCES,
    HEADER,
    LAST_TIME_NS,
    SOURCE_SIZE,
    encode_batch_header,
)
from klais.core.wire.constants import HEADER_SIZE, MAX_FRAME_SIZE
from klais.edge.kernels import oldest, scatter
from klais.edge.sources.base import Frames

_NO_SOURCES = np.zeros((0, SOURCE_SIZE), np.uint8)
_NO_TIMES = np.zeros(0, np.int64)
_NO_EPOCHS = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True)
class ClosedBatch:
    """A closed batch: the record's bytes, its partition, its number of frames, and how long it was open (ns)."""

    value: bytes
    partition: int
    count: int
    age_ns: int = 0


class Batcher:
    """Collects frames by partition and lays out frame batches.

    Parameters
    ----------
    partitions : int
        Partitions of the staging topic.
    max_bytes : int
        A batch closes at this size; a larger single frame becomes a batch by itself.
    edge_id, boot : int
        Written into every batch: (edge, boot, number) names it.
    with_sources : bool
        Add the source column (flag bit 1).
    with_epochs : bool
        Add the epoch column (flag bit 2), for authenticated frames.
    """

    def __init__(
        self,
        partitions: int,
        max_bytes: int,
        edge_id: int,
        boot: int,
        with_sources: bool = False,
        with_epochs: bool = False,
    ) -> None:
        self.partitions, self.max_bytes, self.edge_id, self.boot = partitions, max_bytes, edge_id, boot
        self.with_sources, self.with_epochs = with_sources, with_epochs
        # For the open batch of each partition: frames, their bytes, receive time of the first one.
        self.count = np.zeros(partitions, np.int64)
        self._used = np.zeros(partitions, np.int64)
        self._opened_ns = np.zeros(partitions, np.int64)
        self._number = [0] * partitions
        # Its columns (offsets in ns since it was opened) and its frames without gaps. np.empty reserves only address
        # space: pages take memory once a batch grows that far.
        room = max(1, (max_bytes - HEADER.size) // (HEADER_SIZE + 6) + 1)
        self._lengths = np.empty((partitions, room), np.uint16)
        self._offsets = np.empty((partitions, room), np.uint32)
        self._sources = np.empty((partitions, room if with_sources else 1, SOURCE_SIZE), np.uint8)
        self._epochs = np.empty((partitions, room if with_epochs else 1), np.uint32)
        self._frames = np.empty((partitions, max(max_bytes, MAX_FRAME_SIZE)), np.uint8)

    def add(
        self,
        source: Frames,
        partition: npt.NDArray[np.int32],
        first: int,
        now_ns: int,
        sources: npt.NDArray[np.uint8] | None,
        times_ns: npt.NDArray[np.int64] | None = None,
        epochs: npt.NDArray[np.uint32] | None = None,
    ) -> int:
        """Add the source's frames starting at ``first``; a frame with -1 in ``partition`` (int32 [n]) is skipped.

        ``times_ns`` (int64 [n]): when the kernel received each, on the clock of ``now_ns``; None = all of them now.
        ``epochs`` (uint32 [n]), only with ``with_epochs``: of signed frames, 0 = unsigned.

        Returns
        -------
        int
            n, or the index of a frame that does not fit: :meth:`close` its partition, then call again from that frame.
        """
        n = len(partition)
        column = sources if self.with_sources and sources is not None else _NO_SOURCES
        times = _NO_TIMES if times_ns is None else times_ns
        of_epochs = epochs if self.with_epochs and epochs is not None else _NO_EPOCHS
        taken: int = scatter(
            source.head, source.starts[:n], source.head_size, source.tail, source.tail_starts[:n], source.lengths[:n],
            partition, column, times, of_epochs, first, now_ns, self.max_bytes, self.count, self._used, self._opened_ns,
            self._lengths, self._offsets, self._sources, self._epochs, self._frames,
        )  # fmt: skip
        return taken

    def due(self, now_ns: int, linger_ns: int) -> list[int]:
        """All partitions with an open batch once the oldest was opened ``linger_ns`` before ``now_ns``, else none.

        Batches that leave together cost the worker one fetch and one round of decisions. Letting a younger one wait for
        its own linger would cost more than the frames that it might still get are worth.
        """
        if now_ns - self.oldest_ns(now_ns) < linger_ns:
            return []
        return [int(p) for p in np.flatnonzero(self.count)]

    def oldest_ns(self, otherwise_ns: int) -> int:
        """When the oldest open batch was opened; ``otherwise_ns`` if none is open."""
        when: int = oldest(self.count, self._opened_ns, otherwise_ns)
        return when

    def close(self, partition: int, now_ns: int, wall_ns: int) -> ClosedBatch:
        """Close the batch of a partition and return it as one record; the builder is empty afterwards.

        ``now_ns`` and ``wall_ns`` are the same instant on the clock of :meth:`add` and since the epoch. The number
        increases by one with each call: send batches in the order in which they are closed.
        """
        n, used = int(self.count[partition]), int(self._used[partition])
        age_ns = now_ns - int(self._opened_ns[partition])
        flags = FLAG_OFFSETS | FLAG_SOURCES * self.with_sources | FLAG_EPOCHS * self.with_epochs
        # A clock near the epoch (no battery) or in another century must not stop a batch from being sent or read.
        received_at = min(max(0, wall_ns - age_ns), LAST_TIME_NS - 1)
        header = encode_batch_header(n, received_at, self.edge_id, flags, self.boot, self._number[partition])
        columns: list[bytes | memoryview] = [
            header,
            self._lengths[partition, :n].data,
            self._offsets[partition, :n].data,
        ]
        if self.with_sources:
            columns.append(self._sources[partition, :n].data)
        if self.with_epochs:
            columns.append(self._epochs[partition, :n].data)
        value = b"".join([*columns, self._frames[partition, :used].data])
        self.count[partition] = self._used[partition] = 0
        self._number[partition] += 1
        return ClosedBatch(value, partition, n, age_ns)

    def take_back(self, built: ClosedBatch) -> None:
        """Reuse the number of an unsent batch for the next one, because a gap in the numbers means a lost batch."""
        self._number[built.partition] -= 1

    def waiting(self) -> int:
        """Frames in open batches."""
        return int(self.count.sum())
