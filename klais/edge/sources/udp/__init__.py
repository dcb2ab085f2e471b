"""The ``udp`` source: ``recvmmsg`` on a plain socket."""

from klais.config.load import Settings


def unavailable(_settings: Settings) -> str | None:
    """Why this source does not work here; None: it works on any Linux."""
    return None
