"""Open the source that the settings name, or with ``auto`` the fastest one that works here."""

from collections.abc import Callable
from dataclasses import dataclass, field

from klais.config.load import Settings
from klais.edge.sources.base import Source
from klais.edge.sources.udp.source import UdpSource
from klais.errors import PortInUse, SourceUnavailable


@dataclass(frozen=True, slots=True)
class Chosen:
    """An open source, and why ``auto`` passed over the faster ones (name: reason)."""

    source: Source
    passed_over: dict[str, str] = field(default_factory=dict)


def _open_udp(s: Settings) -> Source:
    return UdpSource(s.udp_bind, s.udp_rcvbuf_bytes, s.udp_share_port)


def _open_io_uring(s: Settings) -> Source:
    from klais.edge.sources.io_uring.source import IoUringSource  # its kernels cost memory where it is not used

    return IoUringSource(s.udp_bind, s.udp_rcvbuf_bytes, s.udp_share_port)


def _open_af_xdp(s: Settings) -> Source:
    from klais.edge.sources.xdp_filter.open import open_af_xdp

    return open_af_xdp(s)


def _open_ringbuf(s: Settings) -> Source:
    from klais.edge.sources.xdp_filter.open import open_ringbuf

    return open_ringbuf(s)


# The fastest first, as measured (docs/sources.md); udp works everywhere, so auto never comes to what is behind it.
OPENERS: dict[str, Callable[[Settings], Source]] = {
    "af_xdp": _open_af_xdp,
    "ringbuf": _open_ringbuf,
    "udp": _open_udp,
    "io_uring": _open_io_uring,
}


def open_source(settings: Settings) -> Chosen:
    """The source of ``settings.source``.

    Raises
    ------
    SourceUnavailable
        The named source does not work here; says why and what to do.
    PortInUse
        The UDP port is taken.
    """
    if settings.source != "auto":
        return Chosen(_opened(settings.source, settings))
    passed_over: dict[str, str] = {}
    for name in OPENERS:
        try:
            return Chosen(_opened(name, settings), passed_over)
        except SourceUnavailable as error:
            passed_over[name] = str(error)
    raise SourceUnavailable("no source works here: " + "; ".join(f"{name}: {why}" for name, why in passed_over.items()))


def _opened(name: str, settings: Settings) -> Source:
    try:
        return OPENERS[name](settings)
    except PortInUse:
        raise
    except OSError as error:
        raise SourceUnavailable(f"{name} does not work here: {error.strerror or error}") from error
