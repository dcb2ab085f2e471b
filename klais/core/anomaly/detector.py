"""The contract of a detector: columns of a batch in, flags out; its learned state is internal.

A detector's profiles are soft state: rows and checkpoints do not contain them, and a replay does not need them. Each
entry of ``paths`` and ``slots`` belongs to one row of the lane; the id shows when another device got the row.
"""

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.record import MAX_FIELDS, Found
from klais.jit.kernel import F64, I32, I64, IDS, U64, group, int64, kernel, uint8, uint32, uint64

SWEEP_MISSES = 64  # fields without a slot between two sweeps of the slots in use
SWEEP = -2
COLUMNS = group((I32, IDS, I64, I64, F64, I32, U64, F64))
Columns = tuple[
    npt.NDArray[np.int32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.float64],
    npt.NDArray[np.int32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.float64],
]
"""The columns of :class:`Frames`, in its order, in the form that kernels take."""
_MAP_NORESERVE = 0x4000  # linux/mman.h; missing in Python 3.11


@dataclass(frozen=True, slots=True)
class Frames:
    """A detector's view of a batch of n frames.

    ``row`` int32, ``ids`` uint64 [n, 2], ``time_ns`` and ``lengths`` int64 [n]; ``interval_s`` float64 [n]: since the
    device's last admitted frame, -1 unknown, -2 the frame was not admitted. The ``count`` numeric fields are in
    ``field_frame`` int32, ``field_path`` uint64 and ``field_value`` float64, in the order of the frames.
    """

    row: npt.NDArray[np.int32]
    ids: npt.NDArray[np.uint64]
    time_ns: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    interval_s: npt.NDArray[np.float64]
    field_frame: npt.NDArray[np.int32]
    field_path: npt.NDArray[np.uint64]
    field_value: npt.NDArray[np.float64]
    count: int

    @property
    def columns(self) -> Columns:
        """The columns for the kernels."""
        fields = self.field_frame, self.field_path, self.field_value
        return self.row, self.ids, self.time_ns, self.lengths, self.interval_s, *fields


class Saved(NamedTuple):
    """Profiles of k rows as bytes: the profile of ``row[i]`` is ``buf[starts[i] : starts[i] + lengths[i]]``.

    ``row`` int32 [k], ``buf`` uint8 [b], ``starts`` and ``lengths`` int64 [k].
    """

    row: npt.NDArray[np.int32]
    buf: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


NOTHING_SAVED = Saved(np.empty(0, np.int32), np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))


class Feature(NamedTuple):
    """A detector's state for one feature of a device: ``place`` 0 interval, 1 size, 2.. its fields by slot."""

    place: int
    path: int
    mean: float
    deviation: float
    samples: int


class Detector(Protocol):
    """Scores frames and learns from them."""

    @property
    def paths(self) -> npt.NDArray[np.uint32]:
        """Lower halves of the path hashes of each device's profiled fields, uint32 [capacity, MAX_FIELDS]."""

    @property
    def slots(self) -> npt.NDArray[np.uint8]:
        """Number of fields of each device that have a slot, uint8 [capacity]."""

    def make_room(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""

    def score(self, frames: Frames, devices: int, max_count: int, name_of: Callable[[int], str | None]) -> Found:
        """Score and learn the admitted frames of a batch.

        The lane knows ``devices`` devices. The first ``max_count`` flags are written. ``name_of`` returns the name of a
        field by the lower half of its path's hash.
        """

    def features(self, row: int) -> Iterable[Feature]:
        """The learned features of the device in ``row``."""

    def dump_some(self, begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
        """Profiles of rows ``begin`` to ``end`` that changed since the last save, up to about ``max_bytes``.

        Returns the profiles and the row to continue with.
        """

    def mark_unsaved(self, row: npt.NDArray[np.int32]) -> None:
        """Include the profiles of these rows in the next save: what :meth:`dump_some` returned was not stored."""

    def dump(self, row: int) -> bytes | None:
        """The profile of one device, or None."""

    def load(self, row: int, value: bytes) -> bool:
        """Load a saved profile for ``row`` if it has learned more than the present one; False if it was not loaded."""


def reserve(capacity: int, dtype: np.dtype[Any]) -> npt.NDArray[np.void]:
    """Zeroed records whose pages take no memory until they are written."""
    size = max(1, capacity) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError:  # strict accounting (vm.overcommit_memory=2)
        return np.zeros(capacity, dtype)
    return np.frombuffer(memory, dtype, capacity)


@kernel(uint32(uint64, uint64), borrows=True, inlined=True)
def owner_of(low: int, high: int) -> np.uint32:
    """A device id as 32 bits, never 0: shows whether a profile belongs to the device that now has the row."""
    mixed = (np.uint64(low) ^ (np.uint64(high) * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
    return np.uint32(mixed >> np.uint64(32)) | np.uint32(1)


@kernel(
    int64(uint32[:, :], uint8[:], uint8[:], uint8[:], int64, uint32, int64),
    borrows=True,
    inlined=True,
)
def field_slot(
    paths: npt.NDArray[np.uint32],
    slots: npt.NDArray[np.uint8],
    used: npt.NDArray[np.uint8],
    misses: npt.NDArray[np.uint8],
    r: int,
    path: int,
    guess: int,
) -> int:
    """Slot of a field of the device in row ``r``, a new one for a new path; ``guess`` is tried first.

    -1 while all slots hold other paths. SWEEP: there were so many misses that one slot should be freed. ``used`` has
    bit k set if the field of slot k was sent since the last sweep, ``misses`` counts fields without a slot since then.
    """
    count = np.int64(slots[r])
    slot = -1
    if guess < count and paths[r, guess] == path:
        slot = guess
    else:
        for k in range(count):
            if paths[r, k] == path:
                slot = k
                break
    if slot < 0 and count < MAX_FIELDS:
        paths[r, count] = path
        slots[r] = np.uint8(count + 1)
        slot = int(count)
    if slot >= 0:
        used[r] |= np.uint8(1 << slot)
        return slot
    misses[r] += np.uint8(1)
    return SWEEP if misses[r] >= SWEEP_MISSES else -1
