"""The XDP filter for a source behind it: load it if it is missing, set and keep the accept mode, reset it at the
end.
"""

import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from klais.config.load import Settings, child_environ
from klais.errors import SetupMissing, SourceUnavailable, XdpForeign, XdpUnavailable
from klais.system.processes import python_module
from klais.telemetry import log as logs
from klais.xdp import loader
from klais.xdp.maps import XdpMaps

log = logs.get("klais.edge.source")

LOAD_TIMEOUT_S = 120.0
# The thread that receives must not wait long for a process that was stopped while it held the lock of the maps.
KEEP_WAIT_S, RELEASE_WAIT_S = 0.2, 2.0


class Filter:
    """The filter's maps, and this edge's part of its configuration.

    Parameters
    ----------
    pin_dir : Path
        Folder of the pinned maps.
    iface : str
        The interface whose frames are handed over; ``ifindex`` is its number.
    port : int
        UDP port to add to those whose packets the filter judges.

    Raises
    ------
    XdpUnavailable
        If no filter is loaded, or rights are missing.
    """

    def __init__(self, pin_dir: Path, iface: str, port: int) -> None:
        self.iface, self.ifindex = iface, socket.if_nametoindex(iface)
        self.pin_dir, self._port, self._accept = pin_dir, port, ""
        self.maps = XdpMaps.open(pin_dir)
        self.lock = threading.Lock()  # held while the maps change, and by threads other than the spine's that use them
        self._seen = self._pinned()
        self._need_port()

    def _pinned(self) -> int:
        """A number that changes when another map is pinned; 0 = none."""
        try:
            return (self.pin_dir / "config").stat().st_ino
        except OSError:
            return 0

    def _need_port(self) -> None:
        ports = self.maps.status().ports
        if self._port not in ports:
            self.maps.set_ports([*ports, self._port])

    def accept(self, where: str) -> None:
        """Have accepted frames of our interface handed over: ``xsk`` or ``ring``."""
        self.maps.set_accept(where, self.ifindex)
        self._accept = where

    def release(self, where: str) -> None:
        """Set the mode back to ``pass``, unless another edge has changed it.

        Without its pins no filter uses the maps any more (``klais xdp unload``). If that or a process that holds the
        lock of the maps makes it impossible, it is logged: the edge drains all the same.
        """
        accepted, self._accept = self._accept, ""
        self.maps.lock_wait_s = RELEASE_WAIT_S
        try:
            if accepted and self.maps.status().accept == where:
                self.maps.set_accept("pass")
        except (OSError, XdpUnavailable) as error:
            log.warning("accept_mode_not_reset", pins=str(self.pin_dir), why=str(error))

    def refresh(self) -> bool:
        """Whether the source must register again: there are new maps, or another edge has reset the accept mode."""
        if not self._accept:
            return False
        now = self._pinned()
        replaced = now not in (0, self._seen)
        if replaced:
            with self.lock:
                self.maps, old = XdpMaps.open(self.pin_dir), self.maps
                old.close()
            self._seen = now
        self.maps.lock_wait_s = KEEP_WAIT_S  # it is tried again in a second
        self._need_port()  # a reload sets the ports
        return replaced or self.maps.status().accept == "pass"

    def details(self) -> dict[str, Any]:
        """For people."""
        return {"iface": self.iface}

    def close(self) -> None:
        """Release the maps; the filter continues to run."""
        self.maps.close()


def open_filter(settings: Settings, port: int) -> Filter:
    """The filter on ``settings.iface``, loaded if it is missing, for frames to UDP port ``port``.

    Raises
    ------
    SourceUnavailable
        If the interface does not exist, rights are missing, another program is attached to it, or there is no compiler.
    """
    iface = settings.iface
    if iface is None:
        raise SourceUnavailable("no interface is named: set KLAIS_IFACE (--iface) to the one that receives frames")
    try:
        socket.if_nametoindex(iface)
    except OSError:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise SourceUnavailable(f"there is no interface {iface!r}, only {known} (KLAIS_IFACE)") from None
    try:
        if (mode := _mode(settings)) is None:
            _load(settings)
            mode = _mode(settings)
        if settings.source == "auto" and mode != "native":
            raise SourceUnavailable(f"the filter on {iface} is in {mode} mode, where this source is no faster than udp")
        xdp = Filter(settings.xdp_pin_dir, iface, port)
        if mode != "native" and not xdp.maps.sees_aggregates:
            xdp.close()
            raise SourceUnavailable(f"the filter on {iface} is in {mode} mode: {loader.NO_TYPES}; use the source udp")
    except (XdpUnavailable, XdpForeign, SetupMissing) as error:
        raise SourceUnavailable(str(error)) from error
    except PermissionError as error:
        raise SourceUnavailable("the XDP filter needs root (CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW)") from error
    return xdp


def _mode(settings: Settings) -> str | None:
    """The attach mode of the filter on our interface; None = not attached."""
    found = loader.attached(settings.xdp_pin_dir)
    return next((one.link.mode for one in found if one.link.name == settings.iface), None)


def _load(settings: Settings) -> None:
    """Run ``klais xdp load`` in a child process with its defaults (limits, rings), so that the compiler's memory is
    freed.
    """
    assert settings.iface is not None
    mode = "native" if settings.source == "auto" else "auto"
    log.info("filter_loads", iface=settings.iface, mode=mode)
    command = python_module("klais", "xdp", "load", "--iface", settings.iface, "--mode", mode)
    env = child_environ(settings)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise XdpUnavailable(f"`klais xdp load` did not end within {LOAD_TIMEOUT_S:g} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise XdpUnavailable(
            f"the filter is not loaded: {lines[-1] if lines else f'the loader exited with code {done.returncode}'}"
        )
