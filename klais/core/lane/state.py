"""The state of a lane: device rows, queue, global bucket, counters, and the batches of each edge that it has taken."""

import contextlib
import mmap
import secrets
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.detector import Detector, reserve
from klais.core.dam.admit import DAM_STATE, DEPTH, NEW_DEVICES, TOKENS
from klais.core.devices.forget import forget_rows
from klais.core.devices.index import FREE, USED, build_index, find, find_rows
from klais.core.devices.layout import KEPT_OF_SIGNED, OPAQUE_ROW, ROW, Rows, id_words, row_time_s
from klais.core.devices.siphash import key_words
from klais.core.lane.boots import Boots
from klais.core.lane.names import NameTable
from klais.core.lane.queue import FrameQueue
from klais.core.wire.constants import VERDICTS
from klais.errors import JournalFormatError

_INT32, _UINT64 = np.dtype(np.int32), np.dtype(np.uint64)
_SMALL_BYTES = 4 << 20
_MAP_NORESERVE = 0x4000  # linux/mman.h; missing in Python 3.11

RESERVED_ROWS = 1 << 20  # initial address space for a lane's rows, so that growing does not move them


def reserve_rows(capacity: int) -> Rows:
    """Zeroed rows (ROW [>= capacity]); at least ``RESERVED_ROWS`` if the system allows pages that take no memory until
    they are used.

    Huge pages are requested beyond the first 10,000 rows, because the TLB does not cover the small pages of many more.
    """
    size = max(capacity, RESERVED_ROWS) * ROW.itemsize
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError:  # strict accounting (vm.overcommit_memory=2): only the needed size
        return np.zeros(capacity, ROW)
    with contextlib.suppress(OSError, ValueError):  # a kernel without huge pages: use small ones
        memory.madvise(mmap.MADV_HUGEPAGE, _SMALL_BYTES, size - _SMALL_BYTES)
    return np.frombuffer(memory, ROW)


class Tally(IntEnum):
    """Counters of a lane; the first entries are frames by verdict (see ``Reason``)."""

    RELEASED = VERDICTS  # frames let out of the queue
    REPEATED_BATCHES = VERDICTS + 1
    REPEATED_FRAMES = VERDICTS + 2
    CORRUPT_RECORDS = VERDICTS + 3
    LOST_RECORDS = VERDICTS + 4  # raw records that retention removed unread
    DEAD_WRITTEN = VERDICTS + 5
    DEAD_SUPPRESSED = VERDICTS + 6  # malformed frames above the dead-letter rate: only counted
    FLAGS_WRITTEN = VERDICTS + 7
    FLAGS_SUPPRESSED = VERDICTS + 8
    MISSING_BATCHES = VERDICTS + 9  # numbers that an edge skipped
    RAW_RECORDS = VERDICTS + 10
    RAW_BYTES = VERDICTS + 11
    QUEUE_LOST = VERDICTS + 12  # frames in the queue when their raw records were removed
    OUTPUT_LOST = VERDICTS + 13  # frames that passed but are not on the clean topic: Kafka lost them or their input
    DOUBLED = VERDICTS + 14  # records of the clean topic that were decided a second time
    POISON_FRAMES = VERDICTS + 15  # frames of raw records on which the lane failed repeatedly
    FORGOTTEN = VERDICTS + 16  # devices forgotten


TALLIES = VERDICTS + 17
MAX_TALLY = 1 << 53
"""Limit for adding numbers that come from records: below it, sums over lanes stay exact integers for every reader."""
MAX_LANDMARKS = 8
NO_KEY = bytes(16)


class LaneState:
    """The state of one lane. Mutated only by :mod:`klais.core.lane.step`; copied by :mod:`klais.core.lane.checkpoint`.

    ``rows`` ROW [capacity]: the first ``used`` were ever in use, those with an ``id_size`` are devices;
    ``dirty`` int32 [capacity] lists the ``dirty_count`` rows that changed after step ``clean_step``; ``tally`` uint64
    [TALLIES]; ``step`` is the last step taken, ``next_raw`` the next raw offset to take; ``forgotten`` are ids that the
    changelog may still contain; ``path_names`` has the names of payload fields.

    Parameters
    ----------
    capacity : int
        Initial room for devices.
    hash_key : bytes
        Key of the frame hash (16 bytes), the same for all workers.
    detector : Detector, optional
        Scores the frames that the lane decides. A replay needs none.
    """

    def __init__(self, capacity: int = 1024, hash_key: bytes = NO_KEY, detector: Detector | None = None) -> None:
        self.detector = detector
        self.hash_key = key_words(hash_key)
        self.room: npt.NDArray[np.int64] = np.zeros(2, np.int64)
        self._hold(reserve_rows(capacity))
        self.dirty_count = 0
        self.clean_step = 0
        self.step = 0
        self.next_raw = 0
        self.queue = FrameQueue()
        self.tokens = -1.0  # -1: full at the first step
        self.new_devices = -1.0  # tokens of the bucket of new devices, -1: full at the first step
        self.bucket_ns = 0
        self.tally: npt.NDArray[np.uint64] = np.zeros(TALLIES, np.uint64)
        self.boots = Boots()
        self.newest_taken: tuple[int, int] | None = None  # (raw offset, fingerprint) of the newest record taken
        self.landmarks: list[tuple[int, int]] = []  # (raw offset, fingerprint) of records taken, the newest last
        self.path_names = NameTable()
        self.forgotten: set[bytes] = set()
        self.index_key: npt.NDArray[np.uint64] = key_words(secrets.token_bytes(16))  # never stored
        self._index(capacity)

    def _hold(self, rows: Rows) -> None:
        """Use these rows, with lists of dirty and of free ones of the same length.

        They are not from the heap: there they could get pages that were used before, which have to be zeroed.
        """
        self.rows = rows
        self.dirty: npt.NDArray[np.int32] = reserve(len(rows), _INT32).view(np.int32)
        self.free: npt.NDArray[np.int32] = reserve(len(rows), _INT32).view(np.int32)

    @property
    def used(self) -> int:
        """Number of rows ever in use; freed ones have no id."""
        return int(self.room[USED])

    @property
    def devices(self) -> int:
        """Number of devices that have a row."""
        return int(self.room[USED] - self.room[FREE])

    def _index(self, devices: int) -> None:
        """A new index with room for ``devices``, which then is at most half full."""
        self.slots: npt.NDArray[np.uint64] = reserve(1 << (2 * devices - 1).bit_length(), _UINT64).view(np.uint64)
        if not build_index(self.slots, self.index_key, self.rows, self.used):
            raise JournalFormatError("a device has two rows in the table: the changelog is damaged")

    def make_room(self, devices: int) -> None:
        """Make room for at least ``devices`` more rows: a new index each time their number doubles, the rows stay in
        place.

        Rows are copied only beyond the size of :func:`reserve_rows` (untouched pages of the new array take no memory).
        """
        need = self.used + devices
        if need > len(self.rows):
            old, dirty, free = self.rows, self.dirty, self.free
            self._hold(reserve_rows(max(need, 2 * len(old))))
            self.rows.view(OPAQUE_ROW)[: self.used] = old.view(OPAQUE_ROW)[: self.used]
            self.dirty[: self.dirty_count] = dirty[: self.dirty_count]
            self.free[: self.room[FREE]] = free[: self.room[FREE]]
        if 2 * need > len(self.slots):
            self._index(2 * need)

    def restore_rows(self, rows: Rows, clean_step: int) -> None:
        """Start from the rows of a checkpoint.

        Rows stamped after ``clean_step`` (half-written checkpoint) count as dirty.
        """
        self._hold(reserve_rows(max(1024, len(rows) + len(rows) // 4)))
        self.rows.view(OPAQUE_ROW)[: len(rows)] = rows.view(OPAQUE_ROW)
        self.room[USED], self.room[FREE] = len(rows), 0
        newer = np.flatnonzero(rows["stamp"] > np.uint64(clean_step))
        self.dirty[: len(newer)] = newer
        self.dirty_count = len(newer)
        self.clean_step = clean_step
        self._index(max(1024, 2 * len(rows)))

    def mark_all_dirty(self) -> None:
        """Let the next snapshot hold the rows of all devices: take it at once, before another step."""
        live = np.flatnonzero(self.rows["id_size"][: self.used] > 0)
        self.dirty[: len(live)] = live
        self.dirty_count = len(live)

    def note_taken(self, raw_offset: int, fingerprint: int) -> None:
        """Record the newest raw record taken; landmarks show later whether ``klais_raw`` is still the same log.

        The older the landmarks, the further apart they are, so that the search for the last valid one is short.
        """
        marks = self.landmarks
        if marks and marks[-1][0] >= raw_offset:
            del marks[next(i for i, (offset, _) in enumerate(marks) if offset >= raw_offset) :]
        marks.append((raw_offset, fingerprint))
        if len(marks) > MAX_LANDMARKS:
            newest = marks[-1][0] + 1
            spread = [(marks[i + 1][0] - marks[i - 1][0]) / (newest - marks[i][0]) for i in range(1, len(marks) - 1)]
            del marks[1 + spread.index(min(spread))]

    def rewind_to(self, raw_offset: int) -> None:
        """Go back to ``raw_offset``, because from there on the topic has other records than the lane has taken."""
        self.landmarks = [mark for mark in self.landmarks if mark[0] < raw_offset]
        if self.newest_taken is not None and self.newest_taken[0] >= raw_offset:
            self.newest_taken = None

    def skip_to(self, raw_offset: int) -> None:
        """Skip raw offsets without records (control records of other programs leave such holes)."""
        self.next_raw = max(self.next_raw, raw_offset)

    def forget(self, ids: npt.NDArray[np.uint8], step: int, now_s: int = 0) -> int:
        """Remove the devices ``ids`` (uint8 [k, 16]) as of ``step``; returns how many rows were removed.

        The next checkpoint removes them from the changelog. Rows of devices that sign stay, with epoch and numbers,
        because otherwise their recorded frames could land a second time. ``now_s``: worker's clock, when such a row
        starts again.
        """
        words = np.array(ids).view(np.uint64).reshape(-1, 2)
        self._clear_signed(words, step, now_s)
        done = np.zeros(len(words), np.uint8)
        row_bytes = self.rows.view(np.uint8).reshape(-1, ROW.itemsize)
        forget_rows(
            self.slots, self.index_key, self.rows, row_bytes, self.free, self.room, words, step, self.clean_step, done
        )
        self.forgotten.update(np.ascontiguousarray(ids).view("S16").reshape(-1)[done != 0].tolist())
        return int(done.sum())

    def _clear_signed(self, words: npt.NDArray[np.uint64], step: int, now_s: int) -> None:
        """Clear the rows of these signing devices (uint64 [k, 2]) except their epochs and numbers."""
        row, n = np.zeros(len(words), np.int32), len(words)
        sizes, room = np.ones(n, np.uint8), (np.empty(n, np.uint64), np.empty(1))
        find_rows(self.slots, self.index_key, self.rows, words, sizes, row, *room)
        row = np.unique(row[row >= 0])
        row = row[(self.rows["epoch"][row] > 0) & (self.rows["stamp"][row] < np.uint64(step))]
        clean = row[self.rows["stamp"][row] <= np.uint64(self.clean_step)]
        self.dirty[self.dirty_count : self.dirty_count + len(clean)] = clean
        self.dirty_count += len(clean)
        kept = np.zeros(len(row), ROW)
        for name in KEPT_OF_SIGNED:
            kept[name] = self.rows[name][row]
        kept["stamp"], kept["created_s"], kept["last_seen_s"] = step, now_s, now_s
        self.rows.view(OPAQUE_ROW)[row] = kept.view(OPAQUE_ROW)

    def find(self, device_id: bytes) -> int:
        """Row of a device, -1 when unknown."""
        low, high = id_words(device_id)
        return max(-1, int(find(self.slots, self.index_key, self.rows, np.uint64(low), np.uint64(high))))

    def seen_batch(self, edge: int, boot: int, number: int, now_ns: int) -> bool:
        """Whether this batch of the edge was taken before; if not, record it and count skipped numbers."""
        missing = self.boots.take(edge, boot, number, row_time_s(now_ns))
        if missing is None:
            return True
        counted = int(self.tally[Tally.MISSING_BATCHES]) + missing
        self.tally[Tally.MISSING_BATCHES] = min(max(0, counted), MAX_TALLY)  # the number in a batch is not trusted
        return False

    def new_dam(self) -> npt.NDArray[np.float64]:
        """The dam's state column for the kernels: tokens, queue depth, tokens for new devices."""
        dam = np.zeros(DAM_STATE, np.float64)
        dam[TOKENS], dam[DEPTH], dam[NEW_DEVICES] = self.tokens, self.queue.depth, self.new_devices
        return dam
