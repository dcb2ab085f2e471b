"""Wait by polling for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(condition: Callable[[], T], timeout_s: float, every_s: float = 0.05) -> T:
    """Call ``condition`` until its value is truthy or the deadline has passed; returns its last value.

    It is called once more after the deadline, so that a process that was stopped for long still sees what has
    happened.

    Parameters
    ----------
    condition : callable
        Its exceptions are passed to the caller.
    timeout_s : float
        Deadline, in seconds from now.
    every_s : float
        Pause between two calls, in seconds.

    Examples
    --------
    >>> found = iter([0, 0, 7])
    >>> poll_until(lambda: next(found), 60, every_s=0.0), poll_until(lambda: 0, 0.0)
    (7, 0)
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() > deadline_s
        if (value := condition()) or late:
            return value
        time.sleep(every_s)
