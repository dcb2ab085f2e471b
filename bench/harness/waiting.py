"""Waiting with a deadline, and the error of a benchmark that cannot measure its figures."""

from collections.abc import Callable
from typing import TypeVar

from klais.system.waiting import poll_until

T = TypeVar("T")


class BenchFailed(Exception):
    """A figure could not be measured; the text has the reason."""


class BenchUnavailable(BenchFailed):
    """This machine, or this user, cannot run the benchmark; the text says what to do."""


def wait_for(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """Wait for the first truthy value of ``condition()``.

    Raises
    ------
    BenchFailed
        After ``timeout_s``; the text names ``what``.
    """
    if value := poll_until(condition, timeout_s, every_s):
        return value
    raise BenchFailed(f"not within {timeout_s:g} s: {what}")
