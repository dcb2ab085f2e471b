"""Waiting with a deadline, and the error of a benchmark that cannot give its figures."""

from collections.abc import Callable
from typing import TypeVar

from klais.system.waiting import poll_until

T = TypeVar("T")


class BenchFailed(Exception):
    """A figure cannot be given; says why."""


def wait_for(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """The first truthy value of ``condition()``.

    Raises
    ------
    BenchFailed
        Not within ``timeout_s``; names ``what``.
    """
    if value := poll_until(condition, timeout_s, every_s):
        return value
    raise BenchFailed(f"not within {timeout_s:g} s: {what}")
