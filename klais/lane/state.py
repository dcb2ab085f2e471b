"""What a lane remembers: device rows, queue, global bucket, counters, and which batches of which edge it has seen."""

import secrets
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from klais.dam.admit import DAM_STATE
from klais.devices.index import build_index, find
from klais.devices.layout import OPAQUE_ROW, ROW, Rows, id_words
from klais.errors import JournalFormatError
from klais.lane.queue import FrameQueue
from klais.wire.constants import VERDICTS

MAX_BOOTS = 256  # (edge, boot) pairs remembered


class Tally(IntEnum):
    """What a lane counts; the first 16 places are frames by verdict (see ``Reason``)."""

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
    QUEUE_LOST = VERDICTS + 12  # frames that waited in the queue when retention removed their raw records


TALLIES = VERDICTS + 13


class LaneState:
    """The state of one lane. Mutated only by :mod:`klais.lane.step`; copied by :mod:`klais.lane.checkpoint`.

    ``rows`` ROW [capacity] of which ``used`` are devices; ``dirty`` int32 [capacity] lists the ``dirty_count`` rows that
    changed after step ``clean_step``; ``tally`` uint64 [TALLIES]; ``step`` is the last step taken, ``next_raw`` the next raw
    offset to take.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self.rows: Rows = np.zeros(capacity, ROW)
        self.used = 0
        self.dirty: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.dirty_count = 0
        self.clean_step = 0
        self.step = 0
        self.next_raw = 0
        self.queue = FrameQueue()
        self.tokens = -1.0  # -1: full at the first step
        self.bucket_ns = 0
        self.tally: npt.NDArray[np.uint64] = np.zeros(TALLIES, np.uint64)
        self.boots: OrderedDict[tuple[int, int], int] = OrderedDict()  # (edge, boot) -> last batch number
        self.path_names: dict[int, str] = {}  # low 32 bits of a path's hash -> the path's text
        self._seed = np.uint64(secrets.randbits(64))
        self._index()

    def _index(self) -> None:
        self.slots: npt.NDArray[np.uint64] = np.zeros(1 << (2 * len(self.rows) - 1).bit_length(), np.uint64)
        if not build_index(self.slots, self._seed, self.rows, self.used):
            raise JournalFormatError("a device has two rows in the table: the changelog is damaged")

    @property
    def seed(self) -> np.uint64:
        """Seed of the device index (random, never stored)."""
        return self._seed

    def make_room(self, devices: int) -> None:
        """Let at least ``devices`` more rows fit (doubling; untouched pages of the new array cost no memory)."""
        need = self.used + devices
        if need <= len(self.rows):
            return
        capacity = max(need, 2 * len(self.rows))
        rows = np.zeros(capacity, ROW)
        rows.view(OPAQUE_ROW)[: self.used] = self.rows.view(OPAQUE_ROW)[: self.used]
        dirty = np.zeros(capacity, np.int32)
        dirty[: self.dirty_count] = self.dirty[: self.dirty_count]
        self.rows, self.dirty = rows, dirty
        self._index()

    def restore_rows(self, rows: Rows, clean_step: int) -> None:
        """Start from rows of a checkpoint; those stamped after ``clean_step`` (half-written checkpoint) count as dirty."""
        self.rows = np.zeros(max(1024, len(rows) + len(rows) // 4), ROW)
        self.rows.view(OPAQUE_ROW)[: len(rows)] = rows.view(OPAQUE_ROW)
        self.used = len(rows)
        self.dirty = np.zeros(len(self.rows), np.int32)
        newer = np.flatnonzero(rows["stamp"] > np.uint64(clean_step))
        self.dirty[: len(newer)] = newer
        self.dirty_count = len(newer)
        self.clean_step = clean_step
        self._index()

    def find(self, device_id: bytes) -> int:
        """Row of a device, -1 when unknown."""
        low, high = id_words(device_id)
        return max(-1, int(find(self.slots, self._seed, self.rows, np.uint64(low), np.uint64(high))))

    def seen_batch(self, edge: int, boot: int, number: int) -> bool:
        """Whether this batch of the edge was taken before; otherwise remember it and count numbers skipped."""
        key = (edge, boot)
        last = self.boots.get(key)
        if last is not None and number <= last:
            return True
        if last is not None:
            self.tally[Tally.MISSING_BATCHES] += np.uint64(number - last - 1)
        self.boots[key] = number
        self.boots.move_to_end(key)
        while len(self.boots) > MAX_BOOTS:
            self.boots.popitem(last=False)
        return False

    def new_dam(self) -> npt.NDArray[np.float64]:
        """The dam's state column for the kernels: tokens, queue depth."""
        dam = np.zeros(DAM_STATE, np.float64)
        dam[0] = self.tokens
        dam[1] = self.queue.depth
        return dam
