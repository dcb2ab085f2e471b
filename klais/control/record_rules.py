"""Valid values of the fields of a record on ``klais_control``."""

from collections.abc import Callable
from typing import Any

from klais.system.clock import is_time_ms

MAX_LIMIT = 1e12  # frames/s or frames
MAX_NUMBER = 1e24  # largest gain, figure or limit of a host: these are sums of reports


def is_number(value: Any) -> bool:
    """Whether it is a number that a reader can work with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def _is_limit(value: Any) -> bool:
    return is_number(value) and 0 < value <= MAX_LIMIT


def _has_limits(value: Any) -> bool:
    limits: tuple[Any, ...] = (value.get("rate"), value.get("burst")) if isinstance(value, dict) else (0,)
    return all(is_number(limit) and limit > 0 for limit in limits)


def _all(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_one, value.values()))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _rules(*names: str, is_one: Callable[[Any], bool], kind: str) -> dict[str, tuple[Callable[[Any], bool], str]]:
    return dict.fromkeys(names, (is_one, kind))


RULES = (
    _rules("rate", "burst", "device_rate", is_one=_is_limit, kind=f"a number above 0, at most {MAX_LIMIT:g}")
    | _rules("until_ms", "limits_until_ms", "forget_ms", "at", is_one=is_time_ms, kind="a time in epoch ms")
    | _rules("cut", is_one=is_number, kind="a number")
    | _rules("block", "unblock", "ack", "mute", "alert", is_one=lambda v: isinstance(v, bool), kind="a boolean")
    | _rules("mode", "author", "reason", "by", is_one=lambda v: isinstance(v, str), kind="text")
    | _rules("gains", "setpoints", "terms", "error", is_one=_all(is_number), kind="an object of numbers")
    | _rules("inputs", is_one=_all(lambda v: isinstance(v, bool) or is_number(v)), kind="an object of numbers")
    | _rules("shares", is_one=_all(_is_share), kind="an object of shares from 0 to 1")
    | _rules("hosts", is_one=_all(_has_limits), kind="an object of objects with rate and burst")
)
"""Fields of a record that readers use or show: name, check, and description of valid values."""


def check(record: dict[str, Any]) -> None:
    """Refuse a record with an invalid value.

    Raises
    ------
    ValueError
        It names field, value and valid values.
    """
    for name, value in record.items():
        rule = RULES.get(name)
        if rule is not None and not rule[0](value):
            raise ValueError(f"{name} is {value!r:.200}, not {rule[1]}")
