"""Notices on stderr while a command waits for a server."""

import threading
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
