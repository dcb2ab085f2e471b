"""Notices on stderr while a command waits for a server, and the progress of a long one."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from klais.cli.printing import say

NOTICE_S = 2.0


@contextmanager
def notice_after(text: str, after_s: float = NOTICE_S) -> Iterator[None]:
    """Print ``text`` to stderr if the block takes longer than ``after_s``."""
    timer = threading.Timer(after_s, lambda: say(f"klais: {text}", err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Outage:
    """Tells on stderr once when a source that a command follows does not respond, and once when it does again.

    Parameters
    ----------
    again : str
        The line for the end of an outage.
    """

    def __init__(self, again: str) -> None:
        self._again, self._told = again, False

    def update(self, problem: str | None) -> None:
        """Report the present problem; None if there is none."""
        if problem is not None and not self._told:
            say(f"klais: {problem}: waiting for it, Ctrl-C ends this", err=True)
        elif problem is None and self._told:
            say(f"klais: {self._again}", err=True)
        self._told = problem is not None


class Progress:
    """Reports on stderr every ``NOTICE_S`` how much is done, if stderr is a terminal.

    Parameters
    ----------
    what : str
        What is counted, in the plural.
    quiet : bool
        Report nothing.
    """

    def __init__(self, what: str, quiet: bool = False) -> None:
        self._what, self._shown, self._at = what, not quiet and sys.stderr.isatty(), time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Report, if it is time."""
        if self._shown and time.monotonic() - self._at > NOTICE_S:
            self._at = time.monotonic()
            say(f"klais: {done:,} of {total:,} {self._what}", err=True)
