"""Ends of blocks and limits on ``klais_control``: which part of a record is in force now (pure but for the clock)."""

from collections.abc import Mapping
from typing import Any

from klais.system.shared_clock import shared

BLOCK_FIELDS = ("block", "until_ms")
LIMIT_FIELDS = ("rate", "burst", "limits_until_ms")


def in_force_ms(until_ms: int | None, at_ms: int | None = None) -> bool:
    """Whether an end (epoch ms) is in the future, or None."""
    return until_ms is None or until_ms > (shared.now_ms() if at_ms is None else at_ms)


def in_force(until_ns: int | None, now_ns: int | None = None) -> bool:
    """Whether an end is in the future, or None."""
    return until_ns is None or until_ns > (shared.time_ns() if now_ns is None else now_ns)


def to_ns(until_ms: int | None) -> int | None:
    """An end in ns since the epoch; None = without end."""
    return None if until_ms is None else until_ms * 1_000_000


def is_block(record: Mapping[str, Any]) -> bool:
    """Whether the record of a device or source blocks it, up to its end."""
    return record.get("block") is True and record.get("unblock") is not True


def blocks_now(record: Mapping[str, Any]) -> bool:
    """Whether the record of a device or source blocks it now."""
    return is_block(record) and in_force_ms(record.get("until_ms"))


def limits_now(record: Mapping[str, Any]) -> bool:
    """Whether the record of a device gives it its own rate or burst now."""
    limits = any(record.get(name) is not None for name in ("rate", "burst"))
    return limits and in_force_ms(record.get("limits_until_ms"))


def acts_now(record: Mapping[str, Any]) -> bool:
    """Whether the record of a device or source blocks or limits it now."""
    return blocks_now(record) or limits_now(record)


def without_ended(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a device or source without the part that has ended: it may hold a block and limits, each with its
    own end.

    Examples
    --------
    >>> without_ended({"block": True, "until_ms": 1, "rate": 5.0, "author": "me"})
    {'rate': 5.0, 'author': 'me'}
    """
    over = (() if blocks_now(record) else BLOCK_FIELDS) + (() if limits_now(record) else LIMIT_FIELDS)
    return {name: value for name, value in record.items() if name not in over}
