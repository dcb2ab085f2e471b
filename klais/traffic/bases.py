"""Recorded traffic as the base of the scenarios: traces in a folder, split by time.

A trace is a CSV file of ``timestamp,count`` (``2023-11-16 18:01:50,3`` or epoch seconds) in even steps, or of events,
one row each beginning with its timestamp. Steps of one second are replayed unchanged. Longer steps give the mean rate;
the seconds within are Poisson distributed.
"""

import csv
from array import array
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.samples import MAX_S, MIN_S
from klais.errors import ConfigError
from klais.sim.traffic import nasa_trace

Counts = npt.NDArray[np.float64]
TRAIN_SHARE = 0.6  # of each trace, from its beginning
MIN_STEPS, MAX_STEPS = 120, 40_000_000  # of a trace; a year has 32 million seconds
MAX_COUNT = 1e12  # of a step


@dataclass(frozen=True, slots=True)
class Base:
    """Requests per step: ``counts`` float64 [n], ``step_s``, and the file's ``name``."""

    name: str
    counts: Counts
    step_s: float

    @property
    def days(self) -> float:
        """Length."""
        return len(self.counts) * self.step_s / 86_400.0

    def part(self, which: str) -> "Base":
        """The earlier part (``train``) or the later one (``test``): split by time, never at random."""
        cut = int(len(self.counts) * TRAIN_SHARE)
        return Base(self.name, self.counts[:cut] if which == "train" else self.counts[cut:], self.step_s)

    def seconds(self, start: int, seconds: int, rng: np.random.Generator) -> Counts:
        """Requests in each of ``seconds`` seconds from step ``start`` on, wrapping around at the end."""
        if self.step_s <= 1.0:
            per_s = max(1, round(1.0 / self.step_s))
            at = (start + np.arange(seconds * per_s)) % len(self.counts)
            total: Counts = self.counts[at].reshape(seconds, per_s).sum(axis=1)
            return total
        at = (start + (np.arange(seconds) // self.step_s).astype(np.int64)) % len(self.counts)
        return rng.poisson(self.counts[at] / self.step_s).astype(np.float64)


def shipped() -> list[Base]:
    """The trace in the package: NASA's launch day."""
    trace = nasa_trace()
    return [Base("nasa_launch_day", trace.counts, trace.step_s)]


def load_folder(folder: Path) -> list[Base]:
    """All traces (``*.csv``) of a folder.

    Raises
    ------
    ConfigError
        If there is no such file, or one is not a trace.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise ConfigError(f"no trace (*.csv) in {str(folder)!r}")
    return [load(path) for path in paths]


def load(path: Path) -> Base:
    """One trace.

    Raises
    ------
    ConfigError
        If the file is not a trace.
    """
    times, counts = array("d"), array("d")
    with path.open(newline="", encoding="utf-8", errors="replace") as handle:
        reader = csv.reader(handle)
        try:
            for number, row in enumerate(reader):
                at = _time(row[0]) if row else None
                if at is not None:
                    times.append(at)
                    counts.append(_count(row, f"{path.name} line {reader.line_num}"))
                elif number and row:
                    raise ConfigError(
                        f"{path.name} line {reader.line_num}: {row[0]!r:.80} is not a time (ISO 8601, epoch seconds)"
                    )
        except csv.Error as error:
            raise ConfigError(f"{path.name} is not CSV: {error}") from None
    if len(times) < MIN_STEPS:
        raise ConfigError(f"{path.name} has {len(times)} rows timestamp,count; a trace needs {MIN_STEPS}")
    return _even(path.stem, np.array(times), np.array(counts))


def _even(name: str, times: Counts, counts: Counts) -> Base:
    steps = np.diff(times)
    if (steps < 0).any():
        raise ConfigError(f"{name}: its timestamps are not ascending")
    step_s = float(np.median(steps))
    if step_s < 1.0 or (np.abs(steps - step_s) > 0.01 * step_s).mean() > 0.1:  # events, or with gaps: count them
        step_s = step_s if step_s >= 1.0 and not (counts == 1.0).all() else 1.0
        steps_long = (times[-1] - times[0]) // step_s + 1.0
        if not MIN_STEPS <= steps_long <= MAX_STEPS:
            raise ConfigError(
                f"{name} spans {steps_long:,.0f} steps of {step_s:g} s; a trace has {MIN_STEPS} to {MAX_STEPS:,}"
            )
        slot = ((times - times[0]) // step_s).astype(np.int64)
        counts = np.bincount(slot, weights=counts).astype(np.float64)
    return Base(name, counts, step_s)


def _time(text: str) -> float | None:
    try:
        at_s = float(text)
        return at_s if MIN_S <= at_s <= MAX_S else None
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text.strip()[:26])
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _count(row: list[str], place: str) -> float:
    """The count after the timestamp; 1 for an event (rows without a number, or with several)."""
    if len(row) != 2:
        return 1.0
    try:
        count = float(row[1])
    except ValueError:
        return 1.0
    if count > MAX_COUNT:
        raise ConfigError(f"{place}: the count {row[1]!r:.80} is above {MAX_COUNT:,.0f}")
    return max(0.0, count)
