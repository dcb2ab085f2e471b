"""The XDP filter as a source behind it sees it: load it where it is missing, set and keep the accept mode, put it back."""

import math
import socket
from pathlib import Path
from typing import Any

from klais import log as logs
from klais.config import Settings
from klais.errors import SetupMissing, SourceUnavailable, XdpForeign, XdpUnavailable
from klais.xdp import loader
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps

log = logs.get("klais.edge.source")

RING_BYTES = 64 << 20


class Filter:
    """The filter's maps, and this edge's part in its configuration.

    Parameters
    ----------
    pin_dir : Path
        Where the maps are pinned.
    iface : str
        The interface whose frames are to be handed over; ``ifindex`` is its number.

    Raises
    ------
    XdpUnavailable
        No filter is loaded there, or the rights are missing.
    """

    def __init__(self, pin_dir: Path, iface: str) -> None:
        self.iface, self.ifindex = iface, socket.if_nametoindex(iface)
        self._pin_dir, self._accept = pin_dir, ""
        self.maps = XdpMaps.open(pin_dir)
        self._seen = self._pinned()

    def _pinned(self) -> int:
        """A number that changes when another map is pinned; 0 = none is."""
        try:
            return (self._pin_dir / "config").stat().st_ino
        except OSError:
            return 0

    def need_port(self, port: int) -> None:
        """Let the filter judge packets to ``port``, besides those it judges already."""
        ports = self.maps.status().ports
        if port not in ports:
            self.maps.set_ports([*ports, port])

    def accept(self, where: str) -> None:
        """Hand accepted frames of our interface over: ``xsk`` or ``ring``."""
        self.maps.set_accept(where, self.ifindex)
        self._accept = where

    def release(self, where: str) -> None:
        """Back to ``pass``, unless another edge has set something else meanwhile."""
        self._accept = ""
        if self.maps.status().accept == where:
            self.maps.set_accept("pass")

    def look(self) -> bool:
        """Whether the source must register again: maps were made anew, or another edge put the accept mode back."""
        if not self._accept:
            return False
        now = self._pinned()
        if now and now != self._seen:
            self.maps, old = XdpMaps.open(self._pin_dir), self.maps
            old.close()
            self._seen = now
            return True
        return self.maps.status().accept == "pass"

    def details(self) -> dict[str, Any]:
        """For people."""
        return {"iface": self.iface}

    def close(self) -> None:
        """Give the maps back; the filter goes on."""
        self.maps.close()


def open_filter(settings: Settings, port: int) -> Filter:
    """The filter on ``settings.iface``, loaded where it is missing, for frames to UDP port ``port``.

    Raises
    ------
    SourceUnavailable
        No such interface, no right to, a foreign program on it, or nothing to compile it with; says which.
    """
    iface = settings.iface
    if iface is None:
        raise SourceUnavailable("no interface is named: KLAIS_IFACE (--iface) says by which one frames come in")
    try:
        socket.if_nametoindex(iface)
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise SourceUnavailable(f"there is no interface {iface!r}: there are {known}") from None
    try:
        at = [found.link for found in loader.attached(settings.xdp_pin_dir) if found.link.name == iface]
        # The compiler runs in a child of the loader: its memory does not stay with us.
        mode = at[0].mode if at else _load(settings).mode
        if settings.source == "auto" and mode != "native":
            raise SourceUnavailable(f"the filter on {iface} is in {mode} mode, where this way is no faster than udp")
        xdp = Filter(settings.xdp_pin_dir, iface)
        xdp.need_port(port)
    except (XdpUnavailable, XdpForeign, SetupMissing) as error:
        raise SourceUnavailable(str(error)) from error
    except PermissionError as error:
        raise SourceUnavailable("the XDP filter needs root (CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW)") from error
    return xdp


def _load(settings: Settings) -> loader.Loaded:
    """Load the filter without limits of its own: what it drops then is what is no frame, and what is blocked."""
    assert settings.iface is not None
    done = loader.load(
        loader.Request(
            iface=settings.iface,
            pin_dir=settings.xdp_pin_dir,
            ports=[],
            limits=Limits(math.inf, math.inf, math.inf, math.inf),
            heartbeat_s=settings.xdp_heartbeat_s,
            devices=settings.xdp_devices,
            ring_bytes=RING_BYTES,
            mode="native" if settings.source == "auto" else "auto",
        )
    )
    log.info("filter_loaded", iface=done.iface, mode=done.mode, notices=done.notices)
    return done
