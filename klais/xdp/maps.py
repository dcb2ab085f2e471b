"""The filter's pinned maps, for any process with the rights: limits, rules, counts, state (without bcc or numba).

The configuration is in memory that the kernel shares with us, so a set-point costs no system call. Limits of several
words are written into an unused slot, then the configuration selects that slot: a packet sees either the old limits or
the new ones, never half of each.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.errors import XdpUnavailable
from klais.xdp import bpf, netlink, table
from klais.xdp.bpffs import PROGRAM
from klais.xdp.layout import (
    ABOUT,
    CONFIG,
    COUNT,
    GENERIC,
    MARKS,
    PORTS,
    SLOTS,
    VERDICTS,
    Accept,
    Monitor,
    Verdict,
    map_specs,
)
from klais.xdp.limits import Limits, pack, unpack
from klais.xdp.pins import (
    LOCK_WAIT_S,
    check_layout,
    close_all,
    inodes,
    locked,
    possible_cpus,
    read_spread,
    shared,
    unavailable,
)
from klais.xdp.rules import NO_LIMIT, Rule, Rules, until_ns
from klais.xdp.source_blocks import SourceBlock, SourceBlocks
from klais.xdp.sources import SourceLimit, Sources

FRAGMENTS = ("pass", "drop")
_NAMES = tuple(spec.name for spec in map_specs(1, 4096))


@dataclass(frozen=True, slots=True)
class XdpStatus:
    """The present state of the filter.

    Attributes
    ----------
    heartbeat_age_s : float or None
        Since the controller last confirmed its set-points; None = never.
    fresh : bool
        Whether the set-points are in force (otherwise the limits given at load are).
    """

    heartbeat_age_s: float | None
    heartbeat_s: float
    fresh: bool
    in_force: Limits
    at_load: Limits
    set_points: Limits | None
    source_limit: SourceLimit
    allowed_sources: tuple[str, ...]
    blocked_sources: tuple[SourceBlock, ...]
    fragments: str
    monitor: tuple[str, ...]
    accept: str
    accept_ifindex: int
    ports: tuple[int, ...]
    about: dict[str, Any]


class XdpMaps:
    """The maps of a loaded filter; close it, or use it as a context manager.

    ``lock_wait_s``: how long a change waits for another process that holds the lock of the maps (XdpUnavailable).
    """

    lock_wait_s = LOCK_WAIT_S

    def __init__(self, pin_dir: Path, fds: dict[str, int], pins: dict[str, int]) -> None:
        self.pin_dir = pin_dir
        self._fds, self._pins = fds, pins
        self._config_memory, self._config = shared(fds["config"], CONFIG)
        self._ports_memory, self._ports = shared(fds["ports"], PORTS)
        self._marks_memory, self._marks = shared(fds["marks"], MARKS)
        self._multipliers = read_spread(fds["spread"])["multipliers"][-1]
        self._rules = Rules(fds["rules"], self._marks["bits"], self._multipliers, self._lock)
        self.sources = Sources(fds["src_allow"], self._config, self._lock)
        self.source_blocks = SourceBlocks(fds["src_block"], self._config, self._lock)
        self._cpus = possible_cpus()

    @classmethod
    def open(cls, pin_dir: Path) -> "XdpMaps":
        """Open the maps that ``klais xdp load`` pinned in ``pin_dir``.

        Raises
        ------
        XdpUnavailable
            If no filter is loaded there, its layout has another version, or rights are missing.
        """
        fds: dict[str, int] = {}
        try:
            pins = inodes(pin_dir, _NAMES)  # before the maps are opened: a load in between is noticed by `check_pins`
            for name in _NAMES:
                fds[name] = bpf.get(pin_dir / name)
            check_layout(fds, pin_dir)
            return cls(pin_dir, fds, pins)
        except OSError as error:
            close_all(fds)
            raise unavailable(error, pin_dir) from None
        except XdpUnavailable:
            close_all(fds)
            raise

    def __enter__(self) -> "XdpMaps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close descriptors and memory; the filter continues to run. A second call has no effect."""
        if not self._fds:
            return
        del self._config, self._ports, self._marks, self._rules, self.sources, self.source_blocks
        for memory in (self._config_memory, self._ports_memory, self._marks_memory):
            memory.close()
        close_all(self._fds)

    def check_pins(self) -> None:
        """Check that the folder still has these maps: without its pins a map exists on, but no filter may use it.

        Raises
        ------
        XdpUnavailable
            If the filter was unloaded, or loaded again with new maps.
        """
        try:
            if inodes(self.pin_dir, _NAMES) == self._pins:
                return
        except OSError as error:
            raise unavailable(error, self.pin_dir) from None
        raise XdpUnavailable(f"the filter in {self.pin_dir} was loaded again with new maps")

    def interfaces(self) -> tuple[str, ...]:
        """Interfaces of this network namespace that have the pinned program.

        Raises
        ------
        OSError
            If the program cannot be opened.
        """
        fd = bpf.get(self.pin_dir / PROGRAM)
        try:
            number = bpf.prog_info(fd).id
        finally:
            os.close(fd)
        return tuple(at.name for at in netlink.links() if at.prog_id == number)

    def fd(self, name: str) -> int:
        """Descriptor of a map (``xsks``, ``ring``, ...); valid until :meth:`close`."""
        return self._fds[name]

    # --- limits and modes
    # ----------------------------------------------------------------------------------------------

    def set_limits(self, rate_per_s: float, burst: float, device_rate: float, device_burst: float) -> None:
        """Set the controller's set-points, in force until their heartbeat expires; ``inf`` = no limit."""
        with self._lock():
            self._config["set_slot"] = self._write_slot(Limits(rate_per_s, burst, device_rate, device_burst))
            self.heartbeat()

    def heartbeat(self) -> None:
        """Confirm the set-points: they stay in force for another ``heartbeat_s``."""
        self._config["set_at_ns"] = time.monotonic_ns()

    def drop_set_points(self) -> None:
        """Return to the limits given at load immediately (when a controller stops on purpose)."""
        self._config["set_at_ns"] = 0

    def set_limits_at_load(self, limits: Limits, heartbeat_s: float | None = None) -> None:
        """Set the limits that apply while there are no set-points, given by the operator at load or later."""
        with self._lock():
            self._config["load_slot"] = self._write_slot(limits)
            if heartbeat_s is not None:
                self._config["heartbeat_ns"] = int(heartbeat_s * 1e9)

    def _write_slot(self, limits: Limits) -> int:
        used = {int(self._config["load_slot"]), int(self._config["set_slot"])}
        last = (max(used) + 1) % SLOTS  # not the slot that was active before: a packet may still be reading it
        slot = next((last + i) % SLOTS for i in range(SLOTS) if (last + i) % SLOTS not in used)
        self._config["slots"][slot] = pack(limits)
        return slot

    def set_monitor(self, rule: str, on: bool) -> None:
        """Make a rule (a name of ``Monitor`` in lower case) only count what it would drop."""
        bit = int(Monitor[rule.upper()])
        with self._lock():
            flags = int(self._config["monitor"])
            self._config["monitor"] = flags | bit if on else flags & ~bit

    def set_accept(self, where: str, ifindex: int = 0) -> None:
        """Set the destination of accepted frames: ``pass`` (the stack), ``xsk`` or ``ring``; the latter two for one
        interface, 0 = any.
        """
        with self._lock():
            self._config["accept_ifindex"] = ifindex
            self._config["accept"] = int(Accept[where.upper()])

    def set_fragments(self, what: str) -> None:
        """``drop`` every fragment, or ``pass``: judge the first by its contents and pass the others."""
        if what not in FRAGMENTS:
            raise ValueError(f"fragments {' or '.join(FRAGMENTS)}, not {what!r}")
        with self._lock():
            self._config["drop_fragments"] = FRAGMENTS.index(what)

    def set_generic(self, ifindexes: Sequence[int], skb_tail: int) -> None:
        """Set the interfaces with the filter in generic mode (at most ``GENERIC``), and where their socket buffers show
        that they have several datagrams; 0 = unknown (the loader only)."""
        with self._lock():
            self._config["skb_tail"] = skb_tail
            self._config["generic"] = [*ifindexes, *[0] * (GENERIC - len(ifindexes))]

    @property
    def sees_aggregates(self) -> bool:
        """Whether the filter recognises packets with several datagrams in generic mode."""
        return bool(self._config["skb_tail"])

    def set_ports(self, ports: Sequence[int]) -> None:
        """Set the UDP destination ports whose packets the filter judges."""
        bits = np.zeros(PORTS["bits"].shape[0], np.uint64)
        for port in ports:
            bits[port >> 6] |= np.uint64(1 << (port & 63))
        with self._lock():
            self._ports["bits"][:] = bits

    # --- devices
    # -------------------------------------------------------------------------------------------------------

    def set_device(self, device_id: bytes | str, rate_per_s: float, burst: float) -> None:
        """Set a separate limit for one device."""
        self._rules.set_limits([device_id], rate_per_s, burst)

    def set_devices(self, device_ids: Sequence[bytes | str], rate_per_s: float, burst: float) -> None:
        """Set the same limit for many devices, each with its own bucket."""
        self._rules.set_limits(device_ids, rate_per_s, burst)

    def clear_device(self, device_id: bytes | str) -> bool:
        """Return to the limit of all devices; False if the device had no separate one."""
        had = (
            any(rule.device_id == device_id for rule in self.devices_overridden())
            if isinstance(device_id, str)
            else True
        )
        self._rules.change(device_id, limit=NO_LIMIT)
        return had

    def block(self, device_id: bytes | str, ttl_s: float | None = None) -> None:
        """Drop a device's frames, for ``ttl_s`` seconds or until :meth:`unblock`; the kernel applies the expiry."""
        self._rules.change(device_id, block_until_ns=until_ns(ttl_s))

    def unblock(self, device_id: bytes | str) -> bool:
        """Remove a block; returns whether the device had a rule."""
        return self._rules.change(device_id, block_until_ns=0)

    def allow(self, device_id: bytes | str, ttl_s: float | None = None) -> None:
        """Let a device's frames pass despite blocks and rates, for ``ttl_s`` seconds or until :meth:`disallow`."""
        self._rules.change(device_id, allow_until_ns=until_ns(ttl_s))

    def disallow(self, device_id: bytes | str) -> bool:
        """Remove a device from the allow list; returns whether it had a rule."""
        return self._rules.change(device_id, allow_until_ns=0)

    def rules(self) -> list[Rule]:
        """All rules for single devices in force now."""
        return self._rules.all()

    def blocked(self) -> list[Rule]:
        """Devices that are blocked now."""
        return [rule for rule in self.rules() if rule.blocked_for_s is not None]

    def block_rows(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
        """The same as columns: ids (S16 [n]), seconds until each block ends (inf = until it is removed), and the
        packets that it dropped."""
        return self._rules.blocks()

    def allowed(self) -> list[Rule]:
        """Devices on the allow list now."""
        return [rule for rule in self.rules() if rule.allowed_for_s is not None]

    def devices_overridden(self) -> list[Rule]:
        """Devices with a separate limit."""
        return [rule for rule in self.rules() if rule.rate_per_s is not None]

    def sweep(self) -> int:
        """Remove expired rules; returns their number."""
        return self._rules.sweep()

    def device_rows(self) -> Iterator[npt.NDArray[np.void]]:
        """Devices in the filter's table, in batches of ``table.DEVICE [n]``."""
        sets = bpf.map_info(self._fds["sets"]).entries
        yield from table.rows(self._fds["sets"], self._fds["owners"], sets, self._multipliers)

    # --- reading

    def counts(self) -> dict[str, tuple[int, int]]:
        """Verdict -> (packets, bytes) since load, summed over CPUs."""
        totals = self.count_rows()
        return {verdict.label: (int(totals[verdict]["packets"]), int(totals[verdict]["bytes"])) for verdict in Verdict}

    def count_rows(self) -> npt.NDArray[np.void]:
        """The same as ``COUNT [VERDICTS]``."""
        totals = np.zeros(VERDICTS, COUNT)
        keys, values = np.zeros(VERDICTS, np.uint32), np.zeros(VERDICTS, (COUNT, self._cpus))
        done = bpf.lookup_array(self._fds["counts"], keys, values)
        for name in ("packets", "bytes"):
            totals[name][keys[:done]] = values[:done][name].sum(axis=1)
        return totals

    def set_points_age(self) -> tuple[float | None, bool]:
        """Seconds since the set-points were last confirmed (None = never), and whether they are in force."""
        set_at, age_ns = int(self._config["set_at_ns"]), time.monotonic_ns() - int(self._config["set_at_ns"])
        return (age_ns / 1e9, age_ns < int(self._config["heartbeat_ns"])) if set_at else (None, False)

    def status(self) -> XdpStatus:
        """Limits in force and the reason, modes, ports."""
        config, (age_s, fresh) = self._config.copy(), self.set_points_age()
        at_load, set_points = (unpack(config["slots"][int(config[name]) % SLOTS]) for name in ("load_slot", "set_slot"))
        return XdpStatus(
            heartbeat_age_s=age_s,
            heartbeat_s=int(config["heartbeat_ns"]) / 1e9,
            fresh=fresh,
            in_force=set_points if fresh else at_load,
            at_load=at_load,
            set_points=set_points if age_s is not None else None,
            source_limit=self.sources.limit(),
            allowed_sources=tuple(map(str, self.sources.allowed())),
            blocked_sources=tuple(self.source_blocks.all()),
            fragments=FRAGMENTS[int(config["drop_fragments"])],
            monitor=tuple(str(rule.name).lower() for rule in Monitor if int(config["monitor"]) & rule),
            accept=Accept(int(config["accept"])).name.lower(),
            accept_ifindex=int(config["accept_ifindex"]),
            ports=tuple(
                int(p) for p in np.flatnonzero(np.unpackbits(self._ports["bits"].view(np.uint8), bitorder="little"))
            ),
            about=self.about(),
        )

    def about(self) -> dict[str, Any]:
        """Who loaded the filter, when, with which arguments (as written by :meth:`set_about`)."""
        value = np.zeros((), ABOUT)
        bpf.lookup(self._fds["about"], np.zeros(1, np.uint32), value)
        text = bytes(value["json"]).rstrip(b"\0")
        found: dict[str, Any] = orjson.loads(text) if text else {}
        return found

    def set_about(self, about: dict[str, Any]) -> None:
        """Record who loaded the filter (the loader only)."""
        value = np.zeros((), ABOUT)
        text = orjson.dumps(about)[: ABOUT.itemsize]
        value["json"][: len(text)] = np.frombuffer(text, np.uint8)
        bpf.update(self._fds["about"], np.zeros(1, np.uint32), value)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Lock out other writers: a change is a read followed by a write."""
        with locked(self.pin_dir, self.lock_wait_s):
            yield
