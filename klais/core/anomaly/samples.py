"""Samples of a series as CSV text: columns timestamp, value and optionally label."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from klais.errors import KlaisError

MIN_S, MAX_S = -62_135_596_800.0, 253_402_300_799.0  # what datetime can show


class SamplesFormatError(KlaisError):
    """The file is not a table of timestamps and values."""


@dataclass(frozen=True, slots=True)
class Samples:
    """``t`` (s since the epoch) and ``x`` float64 [n]; ``label`` bool [n] or None: within a fault."""

    t: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]
    label: npt.NDArray[np.bool_] | None


def parse_time(text: str) -> float:
    """Seconds since the epoch, from a number or ISO 8601 (UTC if it has no zone).

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
    """Parse a value; text that is not a number becomes NaN, which scorers skip."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_samples(lines: Iterable[str]) -> Samples:
    """Read CSV lines; the first line is a header if it names the columns, else a row.

    Raises
    ------
    SamplesFormatError
        If it is not CSV, has no row, a line has no timestamp within the years 1 to 9999, or fewer than two columns.
    """
    reader = csv.reader(lines)
    rows, numbers = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise SamplesFormatError(f"the file is not CSV: {error}") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    at_t, at_x, at_label = 0, 1, 2
    if "timestamp" in header:
        at_t = header.index("timestamp")
        at_x = header.index("value") if "value" in header else 1 - min(at_t, 1)
        at_label = header.index("label") if "label" in header else len(header)
    body, numbers = (rows[1:], numbers[1:]) if "timestamp" in header else (rows, numbers)
    if not body:
        raise SamplesFormatError("the file has no rows with timestamp and value")
    t, x = np.empty(len(body)), np.empty(len(body))
    for i, row in enumerate(body):
        try:
            t[i], x[i] = parse_time(row[at_t]), _number(row[at_x])
        except (ValueError, IndexError):
            rule = "give a timestamp (seconds since the epoch or ISO 8601) and a value, separated by a comma"
            raise SamplesFormatError(f"line {numbers[i]}, {','.join(row)!r:.80}: {rule}") from None
    outside = np.flatnonzero(~((t >= MIN_S) & (t <= MAX_S)))
    if len(outside):
        raise SamplesFormatError(
            f"timestamp {body[int(outside[0])][at_t]!r:.80} is not within the years 1 to 9999: give seconds since the "
            "epoch (not milliseconds) or ISO 8601"
        )
    labelled = bool(body) and len(body[0]) > at_label
    label = np.array([_number(row[at_label]) > 0 for row in body]) if labelled else None
    return Samples(t, x, label)
