"""Times and offsets in human notation: ``10m`` (ago), ``2026-11-29T10:00``, ``@1234`` (an offset)."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from klais.system.durations import parse_duration

_OFFSET = re.compile(r"@[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time (ms since the epoch) or an offset; the other field is None."""

    ms: int | None = None
    offset: int | None = None


def parse_moment(text: str, now_s: float) -> Moment:
    """Parse a moment.

    Parameters
    ----------
    text : str
        ``@1234`` is an offset, a duration means that long ago, else ISO 8601; without a time zone it is UTC.
    now_s : float
        The present time in seconds since the epoch, from which durations are subtracted.

    Raises
    ------
    ValueError
        If it is none of these.

    Examples
    --------
    >>> parse_moment("@12", 0.0).offset, parse_moment("10m", 1000.0).ms, parse_moment("1970-01-01T00:01", 0.0).ms
    (12, 400000, 60000)
    """
    if _OFFSET.fullmatch(text):
        return Moment(offset=int(text[1:]))
    try:
        return Moment(ms=round((now_s - parse_duration(text)) * 1000))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        return Moment(ms=round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time: write 10m (ago), 2026-11-29T10:00 or @1234 (an offset)") from None


def clock_of(ms: int) -> str:
    """The time of day in UTC, with milliseconds; the number itself if it is not a valid time."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M:%S.%f")[:12]
    except (ValueError, OverflowError, OSError):
        return str(ms)


def iso_of(ms: int) -> str:
    """ISO 8601 in UTC with milliseconds, as pages show times; the number itself if it is not a valid time.

    Examples
    --------
    >>> iso_of(1_500)
    '1970-01-01T00:00:01.500Z'
    """
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
    except (ValueError, OverflowError, OSError):
        return str(ms)


class _MomentType(click.ParamType):
    """A click option type that returns a :class:`Moment`."""

    name = "moment"

    def convert(self, value: str | Moment, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        """The moment, or a usage error that shows the notation."""
        if isinstance(value, Moment):
            return value
        try:
            return parse_moment(value, time.time())
        except ValueError as error:
            self.fail(str(error), param, ctx)


MOMENT = _MomentType()
