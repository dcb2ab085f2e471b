"""Names of numeric fields for the views: each is read once, from a payload that contains it.

Time and memory for names are bounded, whatever devices send: a step reads at most ``NEW_NAMES`` names, a name has at
most 120 bytes, a lane keeps at most ``MAX_NAMES``.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import numpy.typing as npt

from klais.core.lane.columns import Columns, Fields
from klais.core.wire.json_locate import field_name
from klais.jit.kernel import I32, I64, U32, U64, int64, kernel, uint8, uint32

MAX_NAMES = 1024  # all of them are in the checkpoint's marker
NEW_NAMES = 8  # names read in one step
KEEP_NS = 60_000_000_000  # a name seen within this time is not replaced


@kernel(int64(U32, uint32), borrows=True)
def _position(known: npt.NDArray[np.uint32], low: int) -> int:
    """Index of ``low`` in ``known`` (sorted), or -1."""
    a, b = 0, known.shape[0]
    while a < b:
        middle = (a + b) >> 1
        if known[middle] < low:
            a = middle + 1
        else:
            b = middle
    return a if a < known.shape[0] and known[a] == low else -1


@kernel(int64(uint32[:, :], uint8[:], I32, I32, U64, int64, int64, U32, I64, int64, I32), borrows=True)
def find_new_paths(
    paths: npt.NDArray[np.uint32],
    slots: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int32],
    field_frame: npt.NDArray[np.int32],
    field_path: npt.NDArray[np.uint64],
    count: int,
    first: int,
    known: npt.NDArray[np.uint32],
    seen_ns: npt.NDArray[np.int64],
    now_ns: int,
    out: npt.NDArray[np.int32],
) -> int:
    """Find fields whose path has no name yet, each path once, and stamp the names of the others.

    Parameters
    ----------
    paths, slots, row : uint32 [devices, k], uint8 [devices], int32 [n]
        The fields in the devices' profiles and their number, and the row of each frame (-1 = none). Only those
        count, because no other name is ever shown.
    field_frame, field_path, count : int32 [m], uint64 [m]
        The numeric fields of the batch; the first ``count`` are valid.
    first : int
        The field to start with; the search wraps around. If not all new paths fit, it decides which are taken.
    known, seen_ns : uint32 [k], int64 [k]
        Low halves of the paths with a name, sorted, and when each was last seen; updated to ``now_ns``.
    out : int32 [c], out
        Indices of the fields found.

    Returns
    -------
    int
        Number of entries in ``out``.
    """
    found = 0
    previous = np.uint32(0)
    for k in range(count):
        j = first + k if first + k < count else first + k - count
        low = np.uint32(field_path[j])
        if low == previous:
            continue
        previous = low
        at = _position(known, low)
        if at >= 0:
            seen_ns[at] = now_ns
            continue
        r = np.int64(row[field_frame[j]])
        wanted = False
        if r >= 0 and found < out.shape[0]:
            for slot in range(np.int64(slots[r])):
                wanted |= paths[r, slot] == low
        for i in range(found):
            wanted &= np.uint32(field_path[out[i]]) != low
        if wanted:
            out[found] = j
            found += 1
    return found


class NameTable(Mapping[int, str]):
    """Names by the lower 32 bits of the path's hash, the form in profiles.

    When ``MAX_NAMES`` are known, a new name replaces the one that was not seen for longest, if that is at least
    ``KEEP_NS``; otherwise the new one has to wait. So invented names cannot displace names in use, and are replaced
    when they stop.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self._names: dict[int, str] = dict(islice((names or {}).items(), MAX_NAMES))
        self._known: npt.NDArray[np.uint32] = np.array(sorted(self._names), np.uint32)
        self._seen_ns: npt.NDArray[np.int64] = np.zeros(len(self._names), np.int64)

    def __getitem__(self, path: int) -> str:
        return self._names[path]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def learn(
        self,
        paths: npt.NDArray[np.uint32],
        slots: npt.NDArray[np.uint8],
        columns: Columns,
        fields: Fields,
        step: int,
        now_ns: int,
    ) -> None:
        """Read up to ``NEW_NAMES`` new names in this batch, and stamp the known ones that it contains."""
        count = fields.count
        if not count:
            return
        out = np.empty(min(NEW_NAMES, self._room(now_ns)), np.int32)
        # The start differs from step to step, so that no device is always the one that comes too late.
        first = step * 2_654_435_761 % count
        found = find_new_paths(
            paths, slots, columns.row, fields.frame, fields.path, count, first, self._known, self._seen_ns, now_ns, out
        )
        if found:
            names = {int(fields.path[j]) & 0xFFFFFFFF: _read_name(columns, fields, j) for j in out[:found].tolist()}
            self._add({path: name for path, name in names.items() if name is not None}, now_ns)

    def copy(self) -> dict[int, str]:
        """A copy of all names, for another thread."""
        return self._names.copy()

    def keep(self, names: Mapping[int, str], now_ns: int) -> None:
        """Remember names that flags refer to: names of device types are in no payload."""
        new = {path: name for path, name in names.items() if path not in self._names}
        if new:
            self._add(dict(islice(new.items(), self._room(now_ns))), now_ns)

    def _room(self, now_ns: int) -> int:
        """Number of new names that may be added now."""
        free = MAX_NAMES - len(self._names)
        return free if free >= NEW_NAMES else free + int(np.count_nonzero(self._seen_ns <= now_ns - KEEP_NS))

    def _add(self, names: dict[int, str], now_ns: int) -> None:
        full = max(0, len(self._names) + len(names) - MAX_NAMES)
        if full:
            oldest = np.argsort(self._seen_ns, kind="stable")[:full]
            oldest = oldest[self._seen_ns[oldest] <= now_ns - KEEP_NS]
            for path in self._known[oldest].tolist():
                del self._names[path]
            self._known, self._seen_ns = np.delete(self._known, oldest), np.delete(self._seen_ns, oldest)
        new = dict(list(names.items())[: MAX_NAMES - len(self._names)])
        self._names |= new
        known = np.concatenate([self._known, np.array(list(new), np.uint32)])
        seen_ns = np.concatenate([self._seen_ns, np.full(len(new), now_ns, np.int64)])
        order = np.argsort(known)
        self._known, self._seen_ns = known[order], seen_ns[order]


def _read_name(columns: Columns, fields: Fields, j: int) -> str | None:
    i = int(fields.frame[j])
    nth = j - int(np.searchsorted(fields.frame[: fields.count], i))
    return field_name(columns.batch.buf, *columns.payload_place(i), nth, int(fields.path[j]))
