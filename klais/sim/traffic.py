"""Due times of frames: a steady rate, or replayed recorded counts. Time is an argument; no function here waits."""

import csv
import math
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from klais.errors import ConfigError

NASA_DEFAULT_SCALE = 400.0  # launch-day counts (about 4 per second) become about 1,600 frames/s, with peaks near 7,000
NASA_DEFAULT_START = "09:40:00"  # two minutes before the launch
UNPACED = 1 << 62  # frames due without pacing


class Schedule(Protocol):
    """Number of frames due by a time, and the time at which a frame is due."""

    def due(self, elapsed_s: float) -> int:
        """Frames due ``elapsed_s`` seconds after the start."""

    def time_of(self, frame: int) -> float:
        """Seconds after the start at which frame number ``frame`` (from 0) is due."""


@dataclass(frozen=True, slots=True)
class SteadyRate:
    """``rate`` frames/s; infinite = as fast as the sender can (frames are then 1 us apart in modelled time)."""

    rate: float

    def due(self, elapsed_s: float) -> int:
        """See :class:`Schedule`."""
        return UNPACED if math.isinf(self.rate) else int(self.rate * elapsed_s + 1e-9)

    def time_of(self, frame: int) -> float:
        """See :class:`Schedule`."""
        return frame * 1e-6 if math.isinf(self.rate) else frame / self.rate


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded counts: ``counts`` float64 [n], one per ``step_s`` seconds; ``start`` is the time of the first one."""

    counts: npt.NDArray[np.float64]
    step_s: float
    start: datetime

    def row_of(self, where: str) -> int:
        """Row of a place: a row number, a time of day (``09:40`` or ``09:40:00``) or a full timestamp.

        Raises
        ------
        ConfigError
            If it is not a place, or outside the trace.
        """
        if where.isascii() and where.isdigit():
            row = int(where)
        else:
            try:
                day = self.start.date().isoformat()
                at = datetime.fromisoformat(where if "-" in where else f"{day} {where}")
            except ValueError:
                raise ConfigError(f"trace start {where!r}: give a row, HH:MM[:SS] or a full timestamp") from None
            if (at.tzinfo is None) != (self.start.tzinfo is None):  # without a time zone: that of the trace
                at = at.replace(tzinfo=self.start.tzinfo)
            row = math.floor((at - self.start).total_seconds() / self.step_s)
        if not 0 <= row < len(self.counts):
            raise ConfigError(f"trace start {where!r} is row {row}, the trace has rows 0 to {len(self.counts) - 1}")
        return row


class TraceReplay:
    """A trace replayed from ``row`` on, with counts times ``scale``, ``speed`` times as fast; restarts at its end.

    Within a step frames are due at even intervals. ``speed`` 10 gives ten times the rate for a tenth of the time.
    """

    def __init__(self, trace: Trace, scale: float = 1.0, row: int = 0, speed: float = 1.0) -> None:
        counts = np.roll(trace.counts, -row) * scale
        self._cumulative = np.concatenate(([0.0], np.cumsum(counts)))
        self._times_s = np.arange(len(counts) + 1) * (trace.step_s / speed)
        self._total = float(self._cumulative[-1])
        self._length_s = float(self._times_s[-1])
        if self._total < 1:
            raise ConfigError("the scaled trace has less than one frame in total: raise --trace-scale")

    def due(self, elapsed_s: float) -> int:
        """See :class:`Schedule`."""
        rounds, rest_s = divmod(elapsed_s, self._length_s)
        return int(rounds * self._total + float(np.interp(rest_s, self._times_s, self._cumulative)) + 1e-9)

    def time_of(self, frame: int) -> float:
        """See :class:`Schedule`."""
        rounds, rest = divmod(float(frame), self._total)
        row = int(np.searchsorted(self._cumulative, rest, side="right")) - 1
        low, high = float(self._cumulative[row]), float(self._cumulative[row + 1])
        step_s = float(self._times_s[1])
        return rounds * self._length_s + row * step_s + step_s * (rest - low) / (high - low)


def nasa_trace() -> Trace:
    """Requests per second to NASA's Kennedy Space Center on the launch day of STS-70 (source: ``data/README.md``)."""
    shipped = resources.files("klais.sim") / "data" / "nasa_sts70_launch_day_1s.npz"
    with shipped.open("rb") as handle, np.load(cast(BinaryIO, handle)) as file:
        start = datetime.fromisoformat(str(file["start"]))
        return Trace(file["counts"].astype(np.float64), float(file["step_s"]), start)


def load_trace(name: str) -> Trace:
    """A trace by name: ``nasa``, or a CSV file of timestamp,count in even steps (a header line is skipped).

    Raises
    ------
    ConfigError
        If the file cannot be read or does not have such rows.
    """
    if name == "nasa":
        return nasa_trace()
    try:
        with open(name, newline="", encoding="utf-8", errors="replace") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except OSError as error:
        raise ConfigError(f"trace {name!r}: {error.strerror or error}; give a CSV file or the name nasa") from None
    except csv.Error as error:
        raise ConfigError(f"trace {name!r} is not CSV: {error}") from None
    first = 0 if rows and _is_time(rows[0][0]) else 1
    try:
        counts = np.array([float(row[1]) for row in rows[first:]])
        times = [datetime.fromisoformat(row[0]) for row in rows[first : first + 2]]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"trace {name!r}: rows must be timestamp,count ({error})") from None
    if not len(counts) or not np.isfinite(counts).all() or counts.min() < 0:
        raise ConfigError(f"trace {name!r}: no counts, or negative ones ({len(counts)} rows)")
    if len({at.tzinfo is None for at in times}) == 2:
        raise ConfigError(f"trace {name!r}: only one of its first timestamps has a time zone: {times[0]}, {times[1]}")
    step_s = (times[1] - times[0]).total_seconds() if len(times) == 2 else 1.0
    if step_s <= 0:
        raise ConfigError(f"trace {name!r}: its timestamps are not ascending ({times[0]}, {times[1]})")
    return Trace(counts, step_s, times[0])


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Series:
    """Recorded sensor values: device i sends the payloads ``starts[first[i]] .. starts[first[i + 1]]`` in turn.

    ``payloads`` uint8 [b] holds all payloads back to back, ``starts`` int64 [p + 1], ``first`` int64 [devices + 1];
    ``ids`` names the devices.
    """

    payloads: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    ids: list[bytes]


def load_series(folder: str | Path) -> Series:
    """All ``*.csv`` files of a folder (and of those below it), one device each: rows timestamp,value.

    The payload is ``{"value":x}`` with the recorded number (the shortest text that reads back as the same double); the
    device id is the file's name without ``.csv``, cut to 16 bytes, made unique by a number.

    Raises
    ------
    ConfigError
        If there is no such folder, no CSV file in it, or a file without a number.
    """
    paths = sorted(Path(folder).rglob("*.csv"))
    if not paths:
        raise ConfigError(f"series {str(folder)!r}: no *.csv file there")
    payloads: list[bytes] = []
    first = [0]
    ids: list[bytes] = []
    for path in paths:
        values = _series_values(path)
        payloads += [b'{"value":%s}' % repr(value).encode() for value in values]
        first.append(len(payloads))
        ids.append(_unique_id(path.stem, ids))
    starts = np.concatenate(([0], np.cumsum([len(p) for p in payloads]))).astype(np.int64)
    return Series(np.frombuffer(b"".join(payloads), np.uint8), starts, np.array(first, np.int64), ids)


def _series_values(path: Path) -> list[float]:
    values: list[float] = []
    with open(path, newline="", encoding="utf-8", errors="replace") as handle:
        try:
            rows = [row for row in csv.reader(handle) if len(row) > 1]
        except csv.Error as error:
            raise ConfigError(f"series file {str(path)!r} is not CSV: {error}") from None
    for row in rows:
        try:
            value = float(row[1])
        except ValueError:
            continue  # the header line
        if math.isfinite(value):
            values.append(value)
    if not values:
        raise ConfigError(f"series file {str(path)!r}: no row timestamp,value with a number")
    return values


def _unique_id(stem: str, used: list[bytes]) -> bytes:
    whole = stem.encode().replace(b"\0", b"_") or b"series"
    name = whole[:16].decode("utf-8", "ignore").encode()
    number = 1
    while name in used:
        number += 1
        tail = b"~%d" % number
        name = whole[: 16 - len(tail)].decode("utf-8", "ignore").encode() + tail
    return name
