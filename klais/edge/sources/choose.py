"""Open the source named in the settings, or with ``auto`` the fastest one that works here."""

from collections.abc import Callable
from dataclasses import dataclass, field

from klais.config.load import Settings
from klais.edge.sources.base import Source
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import UdpSource
from klais.errors import SourceUnavailable


@dataclass(frozen=True, slots=True)
class Chosen:
    """An open source, and why ``auto`` skipped the faster ones (name: reason)."""

    source: Source
    skipped: dict[str, str] = field(default_factory=dict)


def _open_udp(_settings: Settings, udp: UdpSocket) -> Source:
    return UdpSource(udp)


def _open_io_uring(_settings: Settings, udp: UdpSocket) -> Source:
    from klais.edge.sources.io_uring.source import IoUringSource  # its kernels take memory if it is not used

    return IoUringSource(udp)


def _open_af_xdp(settings: Settings, udp: UdpSocket) -> Source:
    from klais.edge.sources.xdp_filter.open import open_af_xdp

    return open_af_xdp(settings, udp)


def _open_ringbuf(settings: Settings, udp: UdpSocket) -> Source:
    from klais.edge.sources.xdp_filter.open import open_ringbuf

    return open_ringbuf(settings, udp)


# The fastest first, as measured (docs/sources.md). udp works everywhere, so auto never reaches the sources after it.
OPENERS: dict[str, Callable[[Settings, UdpSocket], Source]] = {
    "af_xdp": _open_af_xdp,
    "ringbuf": _open_ringbuf,
    "udp": _open_udp,
    "io_uring": _open_io_uring,
}


def open_source(settings: Settings, udp: UdpSocket) -> Chosen:
    """Open the source ``settings.source`` on a bound socket, which stays open if this fails.

    Raises
    ------
    SourceUnavailable
        If the named source does not work here; the message has the reason and what to do.
    """
    if settings.source != "auto":
        return Chosen(_opened(settings.source, settings, udp))
    skipped: dict[str, str] = {}
    for name in OPENERS:
        try:
            return Chosen(_opened(name, settings, udp), skipped)
        except SourceUnavailable as error:
            skipped[name] = str(error)
    raise SourceUnavailable("no source works here: " + "; ".join(f"{name}: {why}" for name, why in skipped.items()))


def _opened(name: str, settings: Settings, udp: UdpSocket) -> Source:
    try:
        return OPENERS[name](settings, udp)
    except OSError as error:
        raise SourceUnavailable(f"{name} does not work here: {error.strerror or error}") from error
