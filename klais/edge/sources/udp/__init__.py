"""The ``udp`` source: ``recvmmsg`` on a plain socket."""

from klais.config.load import Settings


def unavailable(_settings: Settings) -> str | None:
    """Always None: this source works on any Linux."""
    return None
