"""Durations in human notation: ``30s``, ``2m``, ``1h30m``, ``500ms``; for options of every command."""

import re

import click

MAX_DURATION_S = 366 * 86_400.0
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(us|ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of a duration.

    Parameters
    ----------
    text : str
        Numbers with units ``us ms s m h d``, one after the other; a bare number is seconds.

    Raises
    ------
    ValueError
        If it is not a duration, or longer than 366 days.

    Examples
    --------
    >>> parse_duration("30s"), parse_duration("1h30m"), parse_duration("500ms"), parse_duration("2")
    (30.0, 5400.0, 0.5, 2.0)
    """
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", compact):
        compact += "s"
    parts = list(_PART.finditer(compact))
    if not parts or "".join(part.group() for part in parts) != compact:
        raise ValueError(f"{text!r} is not a duration: write 30s, 2m, 1h30m or 500ms")
    seconds = sum(float(part.group(1)) * _UNITS_S[part.group(2)] for part in parts)
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{text!r} is longer than 366 days")
    return seconds


def format_duration(seconds: float) -> str:
    """Format a duration in human notation.

    Examples
    --------
    >>> format_duration(0.25), format_duration(30), format_duration(5400)
    ('250ms', '30s', '1h30m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g}s"
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return "".join(f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if n)


class Duration(click.ParamType):
    """A click option type that returns seconds; ``some``: at least a millisecond."""

    name = "duration"

    def __init__(self, some: bool = False) -> None:
        self._some = some

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, or a usage error that shows the notation."""
        if isinstance(value, int | float):
            return float(value)
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._some and seconds < 0.001:
            self.fail(f"{value!r} ends at once: give from 1ms to 366d", param, ctx)
        return seconds


DURATION = Duration()
SOME_DURATION = Duration(some=True)
