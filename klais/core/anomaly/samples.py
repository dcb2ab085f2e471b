"""Samples of a series as text: columns timestamp, value and perhaps label."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from klais.errors import KlaisError


class SamplesFormatError(KlaisError):
    """A file that is no table of timestamp and value."""


@dataclass(frozen=True, slots=True)
class Samples:
    """``t`` (s since the epoch) and ``x`` float64 [n]; ``label`` bool [n] or None: within a fault."""

    t: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]
    label: npt.NDArray[np.bool_] | None


def parse_time(text: str) -> float:
    """Seconds since the epoch, of a number or of ISO 8601 (UTC where it names no zone).

    Examples
    --------
    >>> parse_time("1970-01-01 00:01:00"), parse_time("90.5")
    (60.0, 90.5)
    """
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text.strip())
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> float:
    """A value; what is no number is NaN, which a scorer passes over."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_samples(lines: Iterable[str]) -> Samples:
    """Read CSV lines; the first names the columns, or is a row if it names none.

    Raises
    ------
    SamplesFormatError
        A line has no timestamp, or the file no two columns.
    """
    rows = [row for row in csv.reader(lines) if row]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    at_t, at_x, at_label = 0, 1, 2
    if "timestamp" in header:
        at_t = header.index("timestamp")
        at_x = header.index("value") if "value" in header else 1 - min(at_t, 1)
        at_label = header.index("label") if "label" in header else len(header)
    body = rows[1:] if "timestamp" in header else rows
    try:
        t = np.array([parse_time(row[at_t]) for row in body], np.float64)
        x = np.array([_number(row[at_x]) for row in body], np.float64)
    except (ValueError, IndexError) as error:
        raise SamplesFormatError(f"no timestamp and value in a line: {error}") from error
    labelled = bool(body) and len(body[0]) > at_label
    label = np.array([_number(row[at_label]) > 0 for row in body]) if labelled else None
    return Samples(t, x, label)
