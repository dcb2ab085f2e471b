"""The dam's queue: waiting frames, fair by device (:mod:`klais.core.dam.fair`). It is durable because the frames are
still on the staging topic.

Frames that leave together came in many raw records, so the queue copies frames: their bytes into blocks of one size,
their other values into columns with one place for each frame. It keeps no raw record, and the memory of a frame is
freed when it leaves.
"""

import secrets
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from klais.core.dam.fair import FairOrder
from klais.core.devices.siphash import key_words
from klais.core.lane.columns import Columns
from klais.core.wire.batch import FrameBatch
from klais.core.wire.constants import Reason
from klais.jit.intrinsics import copy_bytes
from klais.jit.kernel import BYTES, I32, I64, U8, int64, kernel

Part = tuple[Columns, npt.NDArray[np.int32]]
BLOCK_BYTES = 64  # bytes per block; the last block of a frame is not full
FRAME_BYTES = 160  # memory of columns, for each frame
RECORD_BYTES = 24  # for each raw record with queued frames
# The size of a checkpoint's list of queued frames (see klais.core.lane.checkpoint) is limited to this, so that it fits
# one record.
MAX_RANGE_BYTES = 1_250_000
RANGE_BYTES = 16  # for each raw record with queued frames, plus two bits for each of its frames
PLACE_BITS = 26  # lower bits of a ticket: index of the frame in its record; the upper bits number the records
MAX_FRAMES = 1 << PLACE_BITS
_PLACE = MAX_FRAMES - 1
_FEW = 1024

_WAITING = np.dtype(
    [
        ("ticket", "i8"),
        ("low", "u8"),
        ("high", "u8"),
        ("time_ns", "i8"),
        ("sequence", "u4"),
        ("length", "i4"),
        ("block", "i4"),
        ("id_size", "u4"),
    ]
)
_OPAQUE = np.dtype((np.void, _WAITING.itemsize))  # copied without reading its fields
"""Values of a queued frame. ``ticket`` grows with the order of arrival, ``block`` is its first one."""


@kernel(int64(BYTES, I64, I64, I32, U8, I32, int64, I32), borrows=True)
def store(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    index: npt.NDArray[np.int32],
    blocks: npt.NDArray[np.uint8],
    after: npt.NDArray[np.int32],
    free: int,
    first: npt.NDArray[np.int32],
) -> int:
    """Copy the spans ``index`` (int32 [k]) of ``buf`` into blocks; returns the next free block.

    ``after`` int32 [b] links the free blocks, starting with ``free``, and the blocks of each frame; ``first`` int32 [k]
    receives the first block of each frame. The caller ensures that there are enough free blocks.
    """
    for j in range(index.shape[0]):
        start, left = starts[index[j]], lengths[index[j]]
        block = np.int64(free)
        first[j] = block
        while True:
            size = min(left, BLOCK_BYTES)
            copy_bytes(blocks, block * BLOCK_BYTES, buf, start, size)  # type: ignore[arg-type]
            start += size
            left -= size
            free = np.int64(after[block])  # type: ignore[assignment]
            if left == 0:
                break
            block = np.int64(free)
    return free


@kernel(int64(U8, I32, int64, I32, I64, U8, I64), borrows=True)
def fetch(
    blocks: npt.NDArray[np.uint8],
    after: npt.NDArray[np.int32],
    free: int,
    first: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
) -> int:
    """Copy k frames (``first`` int32, ``lengths`` int64 [k]) to ``out`` without gaps, and free their blocks; returns
    the next free block. ``starts`` int64 [k] receives the start of each."""
    at = np.int64(0)
    for j in range(first.shape[0]):
        starts[j] = at
        left = lengths[j]
        block = np.int64(first[j])
        while True:
            size = min(left, BLOCK_BYTES)
            copy_bytes(out, at, blocks, block * BLOCK_BYTES, size)  # type: ignore[arg-type]
            at += size
            left -= size
            if left == 0:
                break
            block = np.int64(after[block])
        after[block] = free
        free = np.int64(first[j])  # type: ignore[assignment]
    return free


class _Blocks:
    """Bytes of frames."""

    def __init__(self) -> None:
        self._bytes = np.empty(_FEW * BLOCK_BYTES, np.uint8)
        self._after = np.arange(1, _FEW + 1, dtype=np.int32)
        self._free = 0
        self.used = 0

    def store(self, columns: Columns, index: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Copy these frames; returns the first block of each."""
        batch, need = columns.batch, blocks_of(columns.batch.lengths[index])
        if self.used + need > (have := len(self._after)):
            room = max(self.used + need, 2 * have)
            grown = np.empty(room * BLOCK_BYTES, np.uint8)
            grown[: len(self._bytes)] = self._bytes
            self._bytes = grown
            fresh = np.arange(have + 1, room + 1, dtype=np.int32)
            fresh[-1] = self._free if self.used < have else room
            self._after, self._free = np.concatenate([self._after, fresh]), have
        first = np.empty(len(index), np.int32)
        source = (batch.buf, batch.starts, batch.lengths, index)
        self._free = store(*source, self._bytes, self._after, self._free, first)
        self.used += need
        return first

    def fetch(
        self, first: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Take these frames out: returns their bytes without gaps, and where each begins."""
        out, starts = np.empty(int(lengths.sum()), np.uint8), np.empty(len(first), np.int64)
        self._free = fetch(self._bytes, self._after, self._free, first, lengths, out, starts)
        self.used -= blocks_of(lengths)
        return out, starts


class _Records:
    """Raw records by number, in order of arrival: offset, frames, queued frames, bytes of their list in a marker."""

    def __init__(self) -> None:
        self._of = np.zeros((64, 4), np.int64)
        self._numbers = 0
        self.live = self.range_bytes = 0

    def add(self, raw_offset: int, count: int, waiting: int) -> int:
        """Add a record; returns its number."""
        if self._numbers == len(self._of):
            self._of = np.concatenate([self._of, np.zeros((64 + len(self._of), 4), np.int64)])
        name = RANGE_BYTES + 2 * ((count + 7) // 8)
        self._of[self._numbers] = raw_offset, count, waiting, name
        self._numbers += 1
        self.live += 1
        self.range_bytes += name
        return self._numbers - 1

    def leave(self, numbers: npt.NDArray[np.int64]) -> None:
        """Remove one queued frame of each of these records (int64 [k])."""
        records, frames = np.unique(numbers, return_counts=True)
        self._of[records, 2] -= frames
        gone = records[self._of[records, 2] == 0]
        self.live -= len(gone)
        self.range_bytes -= int(self._of[gone, 3].sum())

    def renumbered(self) -> npt.NDArray[np.int64] | None:
        """Drop records without queued frames once there are many: returns the new number of each old one."""
        if self._numbers <= max(_FEW, 2 * self.live):
            return None
        live = self._of[: self._numbers, 2] > 0
        self._of, self._numbers = self._of[: self._numbers][live], self.live
        return np.cumsum(live) - 1

    def offset_and_count(self, number: int) -> tuple[int, int]:
        """Offset and number of frames of a record."""
        return int(self._of[number, 0]), int(self._of[number, 1])


def blocks_of(lengths: npt.NDArray[np.int64]) -> int:
    """Number of blocks for frames of these lengths."""
    return int(((lengths + (BLOCK_BYTES - 1)) // BLOCK_BYTES).sum())


class FrameQueue:
    """Frames leave in the order of :mod:`klais.core.dam.fair`.

    Attributes
    ----------
    depth : int
        Number of queued frames.
    """

    def __init__(self) -> None:
        self._key = key_words(secrets.token_bytes(16))
        self.depth = 0
        self._clear()

    def _clear(self) -> None:
        self._order, self._records, self._blocks = FairOrder(self._key), _Records(), _Blocks()
        self._known = np.zeros(self._order.room, _WAITING)  # values of each node

    @property
    def bytes(self) -> int:
        """Memory used by the frames."""
        return BLOCK_BYTES * self._blocks.used + FRAME_BYTES * self.depth + RECORD_BYTES * self._records.live

    @property
    def range_bytes(self) -> int:
        """Upper bound of the bytes of their list in a checkpoint."""
        return self._records.range_bytes

    def has_room(self, columns: Columns, limit_bytes: int) -> bool:
        """Whether all frames of one more raw record may be queued."""
        n = columns.count
        free = limit_bytes - self.bytes - FRAME_BYTES * n - RECORD_BYTES
        # Only a step near the limit needs the exact number of blocks: the last block of a frame is not full.
        fits = (
            BLOCK_BYTES * n + len(columns.batch.buf) <= free or BLOCK_BYTES * blocks_of(columns.batch.lengths) <= free
        )
        name = RANGE_BYTES + 2 * ((n + 7) // 8)
        return fits and self.range_bytes + name <= MAX_RANGE_BYTES and n <= MAX_FRAMES

    def push(
        self,
        raw_offset: int,
        columns: Columns,
        index: npt.NDArray[np.int32],
        now: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Append frames ``index`` (int32 [k], ascending) of the batch at ``raw_offset``.

        ``now`` uint8 [k], from a checkpoint: 1 for frames of the round that was being served (:meth:`ranges`).
        """
        if not len(index):
            return
        if (new_number := self._records.renumbered()) is not None:
            nodes = self._order.nodes()
            old = self._known["ticket"][nodes]
            self._known["ticket"][nodes] = new_number[old >> PLACE_BITS] << PLACE_BITS | old & _PLACE
        number = self._records.add(raw_offset, columns.count, len(index))
        nodes = self._order.push(columns.ids, index, now)
        if self._order.room > len(self._known):
            self._known = np.resize(self._known, self._order.room)
        entry = np.empty(len(index), _WAITING)
        entry["ticket"] = number << PLACE_BITS | index.astype(np.int64)
        entry["low"], entry["high"] = columns.ids[index, 0], columns.ids[index, 1]
        entry["length"], entry["block"] = columns.batch.lengths[index], self._blocks.store(columns, index)
        for name in ("time_ns", "sequence", "id_size"):
            entry[name] = getattr(columns, name)[index]
        self._known.view(_OPAQUE)[nodes] = entry.view(_OPAQUE)
        self.depth += len(index)

    def pop(self, frames: int) -> list[Part]:
        """Take ``frames`` frames (at most ``depth``), in leaving order."""
        if not frames:
            return []
        entry = self._known.view(_OPAQUE)[self._order.pop(frames)].view(_WAITING)
        lengths = entry["length"].astype(np.int64)
        buf, starts = self._blocks.fetch(np.ascontiguousarray(entry["block"]), lengths)
        self._records.leave(entry["ticket"] >> PLACE_BITS)
        self.depth -= frames
        if not self._order.depth:
            self._clear()
        return [(_columns(entry, FrameBatch(buf, starts, lengths, 0, 0, 0, 0, None, None)), _all(frames))]

    def ranges(self) -> tuple[list[tuple[int, int, npt.NDArray[np.int32]]], npt.NDArray[np.uint8]]:
        """The queued frames, in order of arrival, for a checkpoint.

        Returns
        -------
        list of tuple
            Raw offset, frames of that batch, indices of the queued ones.
        uint8 [depth]
            1 for the frames of the round being served.
        """
        tickets = np.sort(self._known["ticket"][self._order.nodes()])
        served = np.zeros(self.depth, np.uint8)
        served[np.searchsorted(tickets, self._known["ticket"][self._order.nodes(1)])] = 1
        numbers, places = tickets >> PLACE_BITS, (tickets & _PLACE).astype(np.int32)
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(tickets)]
        parts = [(int(numbers[a]), places[a:b]) for a, b in pairwise(cuts) if b > a]
        return [(*self._records.offset_and_count(number), index) for number, index in parts], served

    def oldest_ns(self) -> int | None:
        """Receive time of the queued frame that arrived first."""
        waiting = self._known[self._order.nodes()]
        return int(waiting["time_ns"][waiting["ticket"].argmin()]) if len(waiting) else None

    def waiting_of(self, low: int, high: int) -> tuple[int, int | None, int]:
        """For the device with these words of its id: its queued frames, the frames that leave before the first of
        them, and an upper bound of those that would leave before a new one."""
        waiting = self._known[self._order.nodes()]
        own = np.flatnonzero((waiting["low"] == low) & (waiting["high"] == high))
        return len(own), int(own[0]) if len(own) else None, len(self._order.nodes(2 + len(own)))

    def waiting_ids(self) -> npt.NDArray[np.uint64]:
        """The device of each queued frame in leaving order, as the two words of its id (uint64 [depth, 2])."""
        nodes = self._order.nodes()
        return np.stack([self._known["low"][nodes], self._known["high"][nodes]], axis=1)

    def waiting(self) -> Columns:
        """The queued frames in leaving order, without their bytes."""
        return _columns(self._known[self._order.nodes()], _NO_BATCH)


def _all(n: int) -> npt.NDArray[np.int32]:
    return np.arange(n, dtype=np.int32)


def _columns(entry: npt.NDArray[np.void], batch: FrameBatch) -> Columns:
    """Columns of frames that were queued."""
    ids = np.empty((len(entry), 2), np.uint64)
    ids[:, 0], ids[:, 1] = entry["low"], entry["high"]
    time_ns = np.ascontiguousarray(entry["time_ns"])
    return Columns(
        batch,
        verdict=np.full(len(entry), Reason.QUEUED, np.uint8),
        ids=ids,
        sequence=np.ascontiguousarray(entry["sequence"]),
        id_size=entry["id_size"].astype(np.uint8),
        time_ns=time_ns,
        ts_ms=time_ns // 1_000_000,
        row=np.full(len(entry), -1, np.int32),
        epoch=np.zeros(len(entry), np.uint32),  # no longer used
    )


_EMPTY = np.empty(0, np.int64)
_NO_BATCH = FrameBatch(np.empty(0, np.uint8), _EMPTY, _EMPTY, 0, 0, 0, 0, None, None)
