"""Time formats of JSON bodies."""

from datetime import UTC, datetime


def iso(time_ns: int) -> str | None:
    """Format ns since the epoch as ISO 8601 in UTC with milliseconds; None for 0 and times outside the calendar.

    Examples
    --------
    >>> iso(1_700_000_000_123_000_000)
    '2023-11-14T22:13:20.123Z'
    """
    try:
        at = datetime.fromtimestamp(int(time_ns) // 1_000_000 / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time_ns > 0 else None
