"""The ``ringbuf`` source: a BPF ring buffer behind the XDP filter."""

from klais.config.load import Settings
from klais.edge.sources import xdp_filter


def unavailable(settings: Settings) -> str | None:
    """Why this source does not work here, or None."""
    return xdp_filter.unavailable(settings)
