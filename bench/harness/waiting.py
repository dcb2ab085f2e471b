"""Waiting with a deadline, and the error of a benchmark that cannot give its figures."""

import time
from collections.abc import Callable
from typing import TypeVar

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
    until_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until_s:
            raise BenchFailed(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
