"""Taps: a live sample of the frames that a process handles. The part that lanes and edges share."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.devices.layout import id_words
from klais.telemetry import log as logs

log = logs.get("klais.telemetry.sample")

MAX_TAPS = 8
KEPT_S = 30.0  # a tap without a viewer is closed after this time
MAX_PAYLOAD_BYTES = 1024  # bytes of a payload that are shown
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which frames a tap shows; empty = any. At most ``sample`` per second."""

    device_id: bytes = b""
    prefix: bytes = b""
    verdict: str = ""
    reason: str = ""
    sample: int = 20

    def of_devices(self, ids: npt.NDArray[np.uint64]) -> Mask:
        """Mask of the frames of the selected devices, bool [n], from their id words (uint64 [n, 2])."""
        out: Mask = np.ones(len(ids), np.bool_)
        if self.device_id:
            low, high = id_words(self.device_id)
            out &= (ids[:, 0] == np.uint64(low)) & (ids[:, 1] == np.uint64(high))
        if self.prefix:
            out &= begin_with(ids, np.array([self.prefix], PREFIX)) != 0
        return out


class Reservoir:
    """An even sample of the frames of this second (reservoir sampling, Vitter 1985).

    One thread puts frames in, another one may take events out.

    Parameters
    ----------
    max_count : int
        At most so many frames are in it.
    """

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
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
                if len(self._kept) < self._max_count:
                    heapq.heappush(self._kept, entry)
                else:
                    heapq.heappushpop(self._kept, entry)

    def _chosen(self, found: npt.NDArray[Any]) -> Iterator[tuple[float, int]]:
        """Those of the frames that enter the sample, each with its random number."""
        keys = self._random.random(len(found))
        which = np.arange(len(found))
        if len(self._kept) == self._max_count:
            which = np.flatnonzero(keys > self._kept[0][0])
        if len(which) > self._max_count:
            which = which[np.sort(np.argpartition(keys[which], -self._max_count)[-self._max_count :])]
        yield from zip(keys[which].tolist(), found[which].tolist(), strict=True)

    def event(self) -> tuple[int, bytes]:
        """The seconds so far, and JSON of this second's sample: ``matched`` frames, of which ``frames`` are shown."""
        with self._lock:
            kept, matched = self._kept, self._matched
            self._seconds += 1
            self._begin()
        frames = [frame for _, _, frame in sorted(kept, key=lambda entry: entry[1])]
        return self._seconds, orjson.dumps({"matched": matched, "frames": frames})


F = TypeVar("F", bound=Selection)


class OpenTap(Generic[F]):
    """One open tap.

    Attributes
    ----------
    wanted : Selection
        Which frames it shows.
    viewed_s : float
        When an event was last taken (monotonic, s).
    """

    def __init__(self, wanted: F) -> None:
        self.wanted = wanted
        self.viewed_s = time.monotonic()
        self._sample = Reservoir(wanted.sample)

    def event(self) -> tuple[int, bytes]:
        """The next event; see :meth:`Reservoir.event`."""
        self.viewed_s = time.monotonic()
        return self._sample.event()


T = TypeVar("T", bound=OpenTap[Any])


class OpenTaps(Generic[F, T]):
    """The open taps of a process, by selection: those with equal selections share one.

    Parameters
    ----------
    make : callable
        Opens the tap of a selection.
    """

    def __init__(self, make: Callable[[F], T]) -> None:
        self.open: dict[F, T] = {}
        self._make = make

    def get(self, wanted: F) -> T | None:
        """The tap of that selection, opened if there is none; None if ``MAX_TAPS`` are open."""
        self.prune()
        tap = self.open.get(wanted)
        if tap is None and len(self.open) < MAX_TAPS:
            tap = self.open[wanted] = self._make(wanted)
        return tap

    def prune(self) -> None:
        """Close taps without a viewer."""
        now_s = time.monotonic()
        for wanted, tap in tuple(self.open.items()):
            if now_s - tap.viewed_s > KEPT_S:
                self.open.pop(wanted, None)

    @contextmanager
    def shown(self) -> Iterator[tuple[T, ...]]:
        """The taps to show frames to. An error inside closes all taps, because it must not stop the data path."""
        try:
            self.prune()
            yield tuple(self.open.values())
        except Exception:
            self.open.clear()
            if logs.every(60, "klais.telemetry.sample"):
                log.exception("tap_failed")


def text_of(data: bytes, size: int | None = None) -> str:
    """The beginning of bytes as text; invalid UTF-8 is escaped. ``size``: number of bytes in all."""
    cut = data[:MAX_PAYLOAD_BYTES].decode("utf-8", "backslashreplace")
    return cut if (len(data) if size is None else size) <= MAX_PAYLOAD_BYTES else cut + "..."
