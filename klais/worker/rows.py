"""The rows of many devices as columns: device states, and the page of devices that a request selects.

All operations are whole-column numpy operations on the lanes' live rows. Only the rows of the page become Python
objects. They run in a thread in parallel to the lanes. A row may change in between, so a page shows each row as it is
when the page is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill_column
from klais.core.devices.layout import Rows
from klais.core.lane.state import LaneState
from klais.telemetry.snapshots import STATES

_BLOCK = 4096  # rows (1.5 MB) that stay in the cache while all columns are read
NORMAL, SILENT, FLAGGED, LIMITED, BLOCKED = range(5)
SILENT_INTERVALS = 10.0  # a device is silent after this many of its mean intervals,
SILENT_MIN_S = 10.0  # but not before this time: a short pause of a busy device is normal

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one lane at one moment: ROW [>= used]. Those of the first ``used`` that have an id are devices."""

    partition: int
    state: LaneState
    rows: Rows
    used: int
    queued: npt.NDArray[np.uint64] | None = None

    @classmethod
    def of(cls, partition: int, state: LaneState, queued: bool = False) -> "Part":
        """The lane's present rows. If the lane grows later, it replaces its array and leaves this one unchanged.

        ``queued``: with the device of each queued frame (uint64 [depth, 2]), for :attr:`PageRequest.queued`.
        """
        return cls(partition, state, state.rows, state.used, state.queue.waiting_ids() if queued else None)

    def column(self, name: str) -> Column:
        """One column of the devices."""
        return self.rows[name][: self.used]


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The inputs of a device's state: its bucket's rate (frames/s) and burst, the blocked ids, and the time."""

    rate: float
    burst: float
    blocked: frozenset[bytes]
    now_ns: int


class Cursor(NamedTuple):
    """The end of a page: the sort key and the id (two words) of its last device."""

    key: float
    words: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for one page of devices: sorted by ``sort``, then by id, filtered by ``part_of_id`` and ``state``. With
    ``after`` it contains the devices after that place, however far back it is. ``silent_intervals``: those without a
    frame for more than so many of their own mean intervals.
    """

    sort: str
    descending: bool
    begin: int
    end: int
    part_of_id: bytes = b""
    state: int | None = None
    flagged_ever: bool = False
    after: Cursor | None = None
    dropped: bool = False
    silent_ns: int | None = None
    silent_intervals: int | None = None
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The page as (part, row number, state) in order, the place of each device, the number of matches, and the number
    of devices in each state.
    """

    page: list[tuple[Part, int, int]]
    places: list[Cursor]
    matching: int
    by_state: dict[str, int]


def last_seen_ns(part: Part) -> Column:
    """Receive time of the newest well-formed frame, admitted or not, at most the lane's own time (int64 [n])."""
    return np.minimum(part.column("refilled_ns"), (part.column("last_seen_s").astype(np.int64) + 1) * 1_000_000_000)


DROPS = ("duplicate", "blocked", "device_rate", "queue_full", "malformed")
"""Counters of a row that count dropped frames."""


def dropped_of(rows: Rows) -> Column:
    """Dropped frames of each device, for all reasons (int64 [n])."""
    return sum((rows[name].astype(np.int64) for name in DROPS), np.zeros(len(rows), np.int64))


def flagged_now(part: Part) -> npt.NDArray[np.bool_]:
    """Whether the newest admitted frame was flagged."""
    return (part.column("flags") > 0) & (part.column("flag_ns") >= part.column("last_ns"))


def tokens_now(part: Part, limits: DeviceLimits) -> Column:
    """Frames that each device may send immediately (float64 [n])."""
    return refill_column(part.column("tokens"), part.column("refilled_ns"), limits.now_ns, limits.rate, limits.burst)


def states_of(part: Part, limits: DeviceLimits) -> npt.NDArray[np.uint8]:
    """Index into ``STATES`` of each device (uint8 [n])."""
    out = _unblocked(part, limits)
    for device_id in limits.blocked:
        row = part.state.find(device_id)
        if 0 <= row < part.used:
            out[row] = BLOCKED
    return out


def _unblocked(part: Part, limits: DeviceLimits) -> npt.NDArray[np.uint8]:
    """As :func:`states_of` without the block list, computed in blocks of rows."""
    out = np.zeros(part.used, np.uint8)
    for begin in range(0, part.used, _BLOCK):
        end = min(begin + _BLOCK, part.used)
        _note_states(out[begin:end], Part(part.partition, part.state, part.rows[begin:end], end - begin), limits)
    return out


def _note_states(out: npt.NDArray[np.uint8], part: Part, limits: DeviceLimits) -> None:
    """Write the states of a few rows to ``out`` (uint8 [n], all ``NORMAL``)."""
    silent_s = np.maximum(SILENT_INTERVALS * part.column("interval_s"), SILENT_MIN_S)
    out[(limits.now_ns - last_seen_ns(part)) * 1e-9 > silent_s] = SILENT
    out[flagged_now(part)] = FLAGGED
    out[tokens_now(part, limits) < 1.0] = LIMITED


def _ids(part: Part) -> Column:
    """Ids as bytes, without padding (S16 [n])."""
    return np.ascontiguousarray(part.column("id")).view("S16").reshape(part.used)


def id_columns(rows: Rows) -> Column:
    """Ids as one order-preserving column: 16 bytes, compared as two big-endian words (uint64 [n, 2])."""
    return np.ascontiguousarray(rows["id"]).view(">u8").astype(np.uint64)


def _id_words(part: Part) -> Column:
    return id_columns(part.rows[: part.used])


def _named(name: str) -> Callable[[Part, DeviceLimits], Column]:
    return lambda part, _limits: part.column(name)


# Sort keys of a page; the names are those of the JSON.
SORTS: dict[str, Callable[[Part, DeviceLimits], Column]] = {
    "device_id": lambda part, _limits: _id_words(part),
    "partition": lambda part, _limits: np.full(part.used, part.partition, np.int64),
    "state": states_of,
    "first_seen": _named("created_s"),
    "last_seen": lambda part, _limits: last_seen_ns(part),
    "flagged_at": _named("flag_ns"),
    "tokens": tokens_now,
    "dropped": lambda part, _limits: dropped_of(part.rows[: part.used]),
    "score": _named("flag_score"),
    **{name: _named(name) for name in ("received", "admitted", "gaps", "jumps", "duplicate", "blocked", "device_rate")},
    **{name: _named(name) for name in ("queue_full", "malformed", "late", "resets", "flags")},
}
ASCENDING = ("device_id", "partition", "first_seen")
"""Columns with ascending default order; all others are descending."""


def find_page(parts: list[Part], ask: PageRequest, limits: DeviceLimits) -> Found:
    """Find the requested page. The cost is a few passes over the columns, for any page."""
    keys, words, numbers, states = [], [], [], []
    by_state, matching = np.zeros(len(STATES), np.int64), 0
    for part in parts:
        state = states_of(part, limits)
        by_state += np.bincount(state[part.column("id_size") > 0], minlength=len(STATES))
        index = np.flatnonzero(_wanted(part, state, ask, limits))
        matching += len(index)
        word = _id_words(part)[index]
        key = word if ask.sort == "device_id" else SORTS[ask.sort](part, limits)[index]
        if ask.after is not None:
            beyond = _is_beyond(key, word, ask.after, ask.descending)
            index, key, word = index[beyond], key[beyond], word[beyond]
        keys.append(key)
        words.append(word)
        numbers.append(index)
        states.append(state[index])
    totals = dict(zip(STATES, by_state.tolist(), strict=True))
    if not parts:
        return Found([], [], 0, totals)
    firsts = np.cumsum([0, *map(len, numbers)])
    page, places = [], []
    all_keys, all_words = np.concatenate(keys), np.concatenate(words)
    for at in select(all_keys, all_words, ask.begin, ask.end, ask.descending).tolist():
        k = int(np.searchsorted(firsts, at, side="right")) - 1
        i = at - int(firsts[k])
        page.append((parts[k], int(numbers[k][i]), int(states[k][i])))
        place: float = 0.0 if all_keys.ndim == 2 else all_keys[at].item()
        places.append(Cursor(place, (int(all_words[at, 0]), int(all_words[at, 1]))))
    return Found(page, places, matching, totals)


def _wanted(part: Part, state: npt.NDArray[np.uint8], ask: PageRequest, limits: DeviceLimits) -> npt.NDArray[np.bool_]:
    """Which devices match the filters of ``ask`` (bool [n])."""
    wanted: npt.NDArray[np.bool_] = part.column("id_size") > 0
    if ask.state is not None:
        wanted &= state == ask.state
    if ask.flagged_ever:
        wanted &= part.column("flags") > 0
    if ask.dropped:
        wanted &= dropped_of(part.rows[: part.used]) > 0
    if ask.silent_ns is not None:
        wanted &= limits.now_ns - last_seen_ns(part) > ask.silent_ns
    if ask.silent_intervals is not None:
        silent_s = (limits.now_ns - last_seen_ns(part)) * 1e-9
        wanted &= (part.column("intervals") > 0) & (silent_s > ask.silent_intervals * part.column("interval_s"))
    if ask.queued:
        wanted &= _are_among(_ids(part), part.queued)
    if ask.part_of_id:
        wanted &= np.char.find(_ids(part), ask.part_of_id) >= 0
    return wanted


def _are_among(ids: Column, words: npt.NDArray[np.uint64] | None) -> npt.NDArray[np.bool_]:
    """Which ids (S16 [n]) are among those with ``words`` (uint64 [k, 2], with repetitions)."""
    if words is None or not len(words):
        return np.zeros(len(ids), bool)
    known = np.unique(np.ascontiguousarray(words).view("S16").ravel())
    found: npt.NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids
    return found


def _is_beyond(keys: Column, words: Column, after: Cursor, descending: bool) -> npt.NDArray[np.bool_]:
    """Which rows come after a place, by keys [n] or ids (uint64 [n, 2]) in their order; equal keys by ascending id."""
    first, second = np.uint64(after.words[0]), np.uint64(after.words[1])
    behind: npt.NDArray[np.bool_]
    if keys.ndim == 2 and descending:
        behind = (words[:, 0] < first) | ((words[:, 0] == first) & (words[:, 1] < second))
        return behind
    behind = (words[:, 0] > first) | ((words[:, 0] == first) & (words[:, 1] > second))
    if keys.ndim == 2:
        return behind
    further = keys < after.key if descending else keys > after.key
    behind &= keys == after.key
    behind |= further
    return behind


def select(keys: Column, words: Column, begin: int, end: int, descending: bool) -> npt.NDArray[np.int64]:
    """Positions ``begin`` to ``end`` of the sorted ``keys`` [n]; equal keys by their ids ``words`` (uint64 [n, 2]),
    ascending. The keys may be the ids.

    Examples
    --------
    >>> ids = np.array([[0, 3], [0, 2], [0, 1], [0, 0]], np.uint64)
    >>> select(np.array([5, 9, 9, 1]), ids, 0, 3, True).tolist()
    [2, 1, 0]
    """
    n = len(keys)
    end = min(end, n)
    if begin >= end:
        return np.empty(0, np.int64)
    if keys.ndim == 2:
        keys = ~keys if descending else keys
        head = np.arange(n) if end >= n // 4 else _head_of_words(keys, end)
        return _by_words(head, keys)[begin:end].astype(np.int64)
    keys = keys.astype(np.float64 if keys.dtype.kind == "f" else np.int64)
    if descending:
        keys = -keys
    head = np.arange(n)
    if end < n // 4:  # sort only the head: keys before its last key, and the first ids of that key
        last = np.partition(keys, end - 1)[end - 1]
        below, same = np.flatnonzero(keys < last), np.flatnonzero(keys == last)
        if end - len(below) < len(same):
            same = same[_head_of_words(words[same], end - len(below))]
        head = np.concatenate((below, same))
    head = _by_words(head, words)
    return head[np.argsort(keys[head], kind="stable")[begin:end]].astype(np.int64)


def _by_words(head: npt.NDArray[np.int64], words: Column) -> npt.NDArray[np.int64]:
    """Positions ``head`` ordered by id. Two stable sorts: unlike lexsort they release the GIL for the lanes."""
    by_second = head[np.argsort(words[head, 1], kind="stable")]
    return by_second[np.argsort(words[by_second, 0], kind="stable")]


def _head_of_words(keys: Column, end: int) -> npt.NDArray[np.int64]:
    """Positions, in order, of rows that include the first ``end`` of uint64 [n, 2]. Two partitions, no full sort.

    Ids often begin alike, so the first words alone may select too many.
    """
    first = keys[:, 0]
    last = np.partition(first, end - 1)[end - 1]
    below, same = np.flatnonzero(first < last), np.flatnonzero(first == last)
    wanted = end - len(below)
    if wanted < len(same):
        second = keys[same, 1]
        same = same[second <= np.partition(second, wanted - 1)[wanted - 1]]
    return np.sort(np.concatenate((below, same)))


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the rows of a lane, for statistics and metrics.

    ``flagged_now`` counts devices whose newest frame was flagged, ``top_score`` is the largest flag score of the last
    minute, and ``by_state`` counts devices by :data:`STATES`.
    """

    late: int = 0
    gaps: int = 0
    resets: int = 0
    flagged_now: int = 0
    top_score: float = 0.0
    by_state: tuple[int, ...] = (0,) * len(STATES)


_RECENT_NS = 60_000_000_000


def sum_rows(whole: Part, limits: DeviceLimits) -> Sums:
    """Sums over all rows of a lane, in one pass over the memory."""
    by_state = np.zeros(len(STATES), np.int64)
    late = gaps = resets = flagged = 0
    top = 0.0
    for begin in range(0, whole.used, _BLOCK):
        rows = whole.rows[begin : min(begin + _BLOCK, whole.used)]
        part = Part(whole.partition, whole.state, rows, len(rows))
        late += int(rows["late"].sum(dtype=np.int64))
        gaps += int(rows["gaps"].sum(dtype=np.int64))
        resets += int(rows["resets"].sum(dtype=np.int64))
        flagged += int(np.count_nonzero(flagged_now(part)))
        recent = rows["flag_ns"] > limits.now_ns - _RECENT_NS
        top = max(top, float(np.max(rows["flag_score"], where=recent, initial=0.0)))
        by_state += np.bincount(_unblocked(part, limits)[rows["id_size"] > 0], minlength=len(STATES))
    for device_id in limits.blocked:
        row = whole.state.find(device_id)
        if 0 <= row < whole.used:
            one = Part(whole.partition, whole.state, whole.rows[row : row + 1], 1)
            by_state[_unblocked(one, limits)[0]] -= 1
            by_state[BLOCKED] += 1
    return Sums(late, gaps, resets, flagged, top, tuple(by_state.tolist()))
