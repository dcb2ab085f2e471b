"""Runs next to each edge and the controller: copies set-points of ``klais_control`` to this host's pinned XDP maps.

A thread that polls ten times a second. Without pinned maps it logs this once, checks again every few seconds, and all
other work continues. Blocks are written with a short time to live and renewed, so that a block that was lifted while no
process ran here expires. Limits of devices have no end in the map: those that ended while no process ran here are
removed once the set-points are read. The heartbeat is renewed while the set-points are confirmed: an operator's as long
as this process lives, the controller's as long as it reports. Otherwise the filter falls back to the limits given at
load.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control.ends import in_force
from klais.control.filter_figures import FilterFigures, LocalBlock, packet_rates, reported_blocks
from klais.control.setpoints import ControlFollower
from klais.control.source_applier import SourceApplier, SourceMaps, block_ttl_s
from klais.errors import RulesFull
from klais.system.prefix import Network
from klais.system.shared_clock import shared
from klais.telemetry import log as logs

log = logs.get("klais.control.xdp_applier")

POLL_S = 0.1
OPEN_S = 5.0  # between two checks for pinned maps
COUNTS_S = 1.0  # between two reads of the filter's counters
BLOCKS_S = 5.0  # between two reads of its blocks
RENEW_S = 10.0
STOP_S = 2.0  # how long a stop waits for the thread
MAX_NAMED = 10  # devices in one line of the log
HEARTBEATS_PER_TIMEOUT = 4  # heartbeats within the time after which the filter considers them stale


class OwnLimit(Protocol):
    """The limit of one device in the map (``klais.xdp.rules.Rule``)."""

    @property
    def device_id(self) -> str:
        """The device."""


class Maps(SourceMaps, Protocol):
    """The used part of ``klais.xdp.maps.XdpMaps``."""

    def set_limits(self, rate_per_s: float, burst: float, device_rate: float, device_burst: float) -> None:
        """Set global and device limits; counts as a heartbeat."""

    def heartbeat(self) -> None:
        """Confirm the set-points."""

    def drop_set_points(self) -> None:
        """Return to the limits given at load."""

    def set_device(self, device_id: bytes | str, rate_per_s: float, burst: float) -> None:
        """Set the limits of one device."""

    def clear_device(self, device_id: bytes | str) -> bool:
        """Remove the limits of one device."""

    def devices_overridden(self) -> Sequence[OwnLimit]:
        """Devices with their own limits."""

    def block(self, device_id: bytes | str, ttl_s: float | None = None) -> None:
        """Drop the frames of a device."""

    def unblock(self, device_id: bytes | str) -> bool:
        """Let the frames of a device pass."""

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Packets and bytes by verdict."""

    def set_points_age(self) -> tuple[float | None, bool]:
        """Seconds since the set-points were confirmed (None = never), and whether they are in force."""

    def block_rows(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
        """Ids of all blocked devices, seconds until each block ends, and the packets that it dropped."""

    def check_pins(self) -> None:
        """Raise an error if the filter was unloaded, or loaded again with new maps."""

    def interfaces(self) -> tuple[str, ...]:
        """Interfaces of this network namespace with the filter; OSError if that cannot be seen."""

    def close(self) -> None:
        """Close the maps."""


def open_pinned(pin_dir: Path) -> Maps:
    """Open the maps pinned in a folder.

    Raises
    ------
    klais.errors.KlaisError
        If there are none, or this process may not use them.
    """
    from klais.xdp.maps import XdpMaps

    return XdpMaps.open(pin_dir)


@dataclass(slots=True)
class _Applied:
    """The contents of the maps that this process wrote."""

    limits: tuple[float, float, float] | None = None  # rate and burst of this host, rate of a device
    devices: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    blocked: set[bytes] = field(default_factory=set)
    renewed_s: float = float("-inf")
    compared: bool = False  # limits of an earlier process with the set-points
    full: bool = False  # the map of rules: rules of further devices wait for the next renewal


class Applier:
    """Writes the maps of one host.

    Parameters
    ----------
    settings : Settings
        Folder of the pinned maps, and limits of devices without their own.
    follower : ControlFollower
        The set-points in force.
    controlled : callable
        Whether the controller reports (not called in manual mode).
    opened : callable
        Opens the maps in a folder.

    Attributes
    ----------
    available : bool
        Whether there are maps to write.
    applied : int
        Number of changes written to them.
    figures : FilterFigures
        Counters of the filter, and the source of the limits in force.
    sources : SourceApplier
        Its part for blocked sources.
    """

    def __init__(
        self,
        settings: Settings,
        follower: ControlFollower,
        controlled: Callable[[], bool] = lambda: True,
        opened: Callable[[Path], Maps] = open_pinned,
    ) -> None:
        self._settings, self._follower = settings, follower
        self._controlled, self._opened = controlled, opened
        self._host = host_of(settings)
        self._maps: Maps | None = None
        self._done, self.sources = _Applied(), SourceApplier(follower)
        self._next_open_s = self._next_beat_s = self._next_counts_s = self._next_blocks_s = 0.0
        self._blocks: tuple[int, tuple[LocalBlock, ...], dict[str, int]] = (0, (), {})
        self._interfaces: tuple[str, ...] | None = None
        self._bypassed, self._packets = False, 0  # at the last reading of the blocks
        self._reported = False
        self.available, self.applied = False, 0
        self.figures = FilterFigures()
        self._counted_s = 0.0  # when `figures` were read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="apply", daemon=True)

    def allowed_sources(self) -> tuple[Network, ...]:
        """The filter's list of allowed sources, see :class:`SourceApplier`."""
        return self.sources.allowed

    def start(self) -> None:
        """Start the thread and return immediately."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, which closes the maps; they keep their contents. Waits for some seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if not self._thread.is_alive():  # else it still writes: a closed descriptor may be another file's
            self._close_maps()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._wait_s(time.monotonic())):
                self.poll(time.monotonic())
        finally:
            self._close_maps()

    def _wait_s(self, now_s: float) -> float:
        """Time until the next poll: without maps, until the next attempt to open them."""
        return POLL_S if self._maps is not None else max(POLL_S, self._next_open_s - now_s)

    def poll(self, now_s: float) -> None:
        """Open the maps if they exist now, and write changes."""
        try:
            if self._maps is None and now_s >= self._next_open_s:
                self._next_open_s = now_s + OPEN_S
                self._maps, self._done = self._opened(self._settings.xdp_pin_dir), _Applied()
                self.sources.forget()
                self.available, self._reported = True, False
                log.info("xdp_maps_opened", folder=str(self._settings.xdp_pin_dir))
            if self._maps is not None:
                self._write(self._maps, now_s)
        except Exception as error:  # the filter was unloaded or never loaded: the dam works alone
            if not self._reported:
                self._reported = True
                log.info("xdp_maps_missing", why=str(error), means="limits act in the workers only")
            self._close_maps()

    def _close_maps(self) -> None:
        maps, self._maps, self.available = self._maps, None, False
        self.figures, self._next_blocks_s = FilterFigures(), 0.0
        self.sources.forget()
        if maps is not None:
            try:
                maps.close()
            except OSError as error:
                log.debug("xdp_maps_not_closed", error=str(error))

    def _write(self, maps: Maps, now_s: float) -> None:
        if now_s >= self._next_counts_s:
            maps.check_pins()  # otherwise, after an unload and a load, this would write to maps that no filter reads
        renew = now_s - self._done.renewed_s >= RENEW_S
        self._done.full = self._done.full and not renew
        changes = self._write_limits(maps, now_s) + self._write_devices(maps) + self._write_blocks(maps, renew)
        changes += self._remove_ended(maps)
        changes += self.sources.write(maps, renew)
        if renew:
            self._done.renewed_s = now_s
        self.applied += changes
        if now_s >= self._next_counts_s:
            self._next_counts_s = now_s + COUNTS_S
            self.figures, self._counted_s = self._read(maps, now_s), now_s

    def _read(self, maps: Maps, now_s: float) -> FilterFigures:
        counts = maps.counts()
        packets = {name: at[0] for name, at in counts.items()}
        if now_s >= self._next_blocks_s:
            self._next_blocks_s = now_s + BLOCKS_S
            self._blocks = reported_blocks(*maps.block_rows(), self._done.blocked)
            self.sources.read(maps)
            self._find_interfaces(maps, sum(packets.values()))
        age_s, in_force = maps.set_points_age()
        by = ("operator" if self._follower.mode() == "manual" else "controller") if in_force else "load"
        rates = packet_rates(self.figures.packets, packets, now_s - self._counted_s)
        size = {name: at[1] for name, at in counts.items()}
        return FilterFigures(
            packets, size, rates, age_s, by, *self._blocks, *self.sources.figures, self._interfaces, self._bypassed
        )

    def _find_interfaces(self, maps: Maps, packets: int) -> None:
        """Find where the filter is attached. In a network namespace of its own an edge cannot see that, so only a
        filter without packets is bypassed.
        """
        before, self._packets = self._packets, packets
        try:
            self._interfaces = maps.interfaces()
        except OSError:  # a process that may use the maps need not have the right to see programs
            self._interfaces = None
        self._bypassed = self._interfaces == () and self._packets == before

    def _write_limits(self, maps: Maps, now_s: float) -> int:
        mode, limits = self._follower.mode(), self._follower.intake(self._host)
        if limits is None:  # no set-points any more: return to the limits given at load
            was, self._done.limits = self._done.limits, None
            if was is not None:
                maps.drop_set_points()
            return int(was is not None)
        if mode == "auto" and not self._controlled():
            self._done.limits = None
            return 0
        s = self._settings
        device_rate = self._follower.device_rate(s.dam_device_rate)
        wanted = (*limits, device_rate)
        if wanted != self._done.limits:
            device_burst = max(1.0, s.dam_device_burst * device_rate / s.dam_device_rate)
            maps.set_limits(*limits, device_rate, device_burst)
            self._done.limits = wanted
        elif now_s >= self._next_beat_s:
            maps.heartbeat()
        else:
            return 0
        self._next_beat_s = now_s + self._settings.xdp_heartbeat_s / HEARTBEATS_PER_TIMEOUT
        return 1

    def _write_devices(self, maps: Maps) -> int:
        s = self._settings
        wanted = {
            device_id: (at.rate or s.dam_device_rate, at.burst or s.dam_device_burst)
            for device_id, at in self._follower.device_limits().items()
            if in_force(at.until_ns)
        }
        done = self._done.devices
        if wanted == done or (self._done.full and not done.keys() - wanted.keys()):
            return 0
        for device_id in done.keys() - wanted.keys():
            maps.clear_device(device_id)
        self._done.devices = {
            device_id: limits
            for device_id, limits in wanted.items()
            if done.get(device_id) == limits or self._fits(maps.set_device, device_id in done, device_id, *limits)
        }
        return 1

    def _remove_ended(self, maps: Maps) -> int:
        """Once: remove limits in the map whose record has none any more. Those without a record are of `klais xdp rate`
        on this host.
        """
        if self._done.compared or not self._follower.wait_caught_up(0.0):
            return 0
        self._done.compared, wanted = True, self._done.devices.keys()
        found = [at.device_id for at in maps.devices_overridden() if self._follower.device(at.device_id) is not None]
        ended = [device_id for device_id in found if device_id.encode() not in wanted]
        for device_id in ended:
            maps.clear_device(device_id.encode())
        if ended:
            log.info("xdp_limits_removed", devices=ended[:MAX_NAMED], count=len(ended), why="klais_control has none")
        return int(bool(ended))

    def _write_blocks(self, maps: Maps, renew: bool) -> int:
        now_ns = shared.time_ns()
        ends = {name: end for name, end in self._follower.blocked().items() if in_force(end, now_ns)}
        written = self._done.blocked & ends.keys()
        lifted, new = self._done.blocked - written, ends.keys() - written
        for device_id in lifted:
            maps.unblock(device_id)
        for device_id in [*(written if renew else ()), *new]:  # those that have a rule first: there is room for them
            ttl_s = block_ttl_s(ends[device_id], now_ns)
            if self._fits(maps.block, device_id in self._done.blocked, device_id, ttl_s):
                written.add(device_id)
        changed = bool(lifted) or written != self._done.blocked
        self._done.blocked = written
        return int(changed)

    def _fits(self, write: Callable[..., None], known: bool, device_id: bytes, *values: float) -> bool:
        """Write the rule of a device; False if the map has no room for it. Workers act on these devices.

        A search for room reads the whole map, so a full one is tried again only at the next renewal.
        """
        if self._done.full and not known:
            return False
        try:
            write(device_id, *values)
        except RulesFull as error:
            self._done.full = True
            if calls := logs.every(60, "control.xdp_rules_full"):
                log.warning("xdp_rules_full", why=str(error), calls=calls, means="only workers act on further devices")
            return False
        return True
