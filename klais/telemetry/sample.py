"""Taps: a few of the frames that a process handles, for whoever looks. What lanes and edges have in common."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

MOST_TAPS = 8
MOST_SAMPLE = 200  # frames of a second
KEPT_S = 30.0  # a tap that nobody views for so long is gone
MOST_PAYLOAD = 1024  # bytes of a payload that are shown


class Reservoir:
    """An even sample of the frames of this second (reservoir sampling, Vitter 1985).

    One thread puts frames in, another one may take events out.

    Parameters
    ----------
    most : int
        At most so many frames are in it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds = 0
        self._random = np.random.default_rng()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._kept: list[tuple[float, int, dict[str, Any]]] = []  # a heap: the least random number first
        self._matched = 0

    def add(self, found: npt.NDArray[Any], frame_of: Callable[[int], dict[str, Any]]) -> None:
        """Count frames (indices of a batch); those that enter the sample become what ``frame_of`` makes of them."""
        with self._lock:
            self._matched += len(found)
            for key, i in self._chosen(found):
                entry = (key, next(self._order), frame_of(i))
                if len(self._kept) < self._most:
                    heapq.heappush(self._kept, entry)
                else:
                    heapq.heappushpop(self._kept, entry)

    def _chosen(self, found: npt.NDArray[Any]) -> Iterator[tuple[float, int]]:
        """Those of the frames that enter the sample, each with its random number."""
        keys = self._random.random(len(found))
        which = np.arange(len(found))
        if len(self._kept) == self._most:
            which = np.flatnonzero(keys > self._kept[0][0])
        if len(which) > self._most:
            which = which[np.sort(np.argpartition(keys[which], -self._most)[-self._most :])]
        yield from zip(keys[which].tolist(), found[which].tolist(), strict=True)

    def event(self) -> tuple[int, bytes]:
        """The seconds so far, and JSON of this second's sample: ``matched`` frames, of which ``frames`` are shown."""
        with self._lock:
            kept, matched = self._kept, self._matched
            self._seconds += 1
            self._begin()
        frames = [frame for _, _, frame in sorted(kept, key=lambda entry: entry[1])]
        return self._seconds, orjson.dumps({"matched": matched, "frames": frames})


class Viewed(Protocol):
    """A tap: when somebody last took an event of it (monotonic s)."""

    viewed_s: float

    def event(self) -> tuple[int, bytes]:
        """The next event."""


F = TypeVar("F", bound=Hashable)
T = TypeVar("T", bound=Viewed)


class OpenTaps(Generic[F, T]):
    """The open taps of a process, by filter: those with equal filters share one.

    Parameters
    ----------
    make : callable
        Makes the tap of a filter.
    """

    def __init__(self, make: Callable[[F], T]) -> None:
        self.open: dict[F, T] = {}
        self._make = make

    def get(self, wanted: F) -> T | None:
        """The tap with that filter, opened where there is none; None when ``MOST_TAPS`` are open."""
        self.prune()
        tap = self.open.get(wanted)
        if tap is None and len(self.open) < MOST_TAPS:
            tap = self.open[wanted] = self._make(wanted)
        return tap

    def prune(self) -> None:
        """Close what nobody views."""
        now_s = time.monotonic()
        for wanted, tap in tuple(self.open.items()):
            if now_s - tap.viewed_s > KEPT_S:
                self.open.pop(wanted, None)


def text_of(data: bytes, size: int | None = None) -> str:
    """The beginning of bytes as text; what is no UTF-8 is escaped. ``size``: how many there are in all."""
    cut = data[:MOST_PAYLOAD].decode("utf-8", "backslashreplace")
    return cut if (len(data) if size is None else size) <= MOST_PAYLOAD else cut + "..."
