"""The ``io_uring`` source: one multishot request on a plain socket."""

from klais.config.load import Settings


def unavailable(_settings: Settings) -> str | None:
    """Why this source does not work here according to the kernel, or None."""
    from klais.edge.sources.io_uring.ring import Uring

    try:
        Uring(2).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
