"""Set-points and overrides in force, followed from ``klais_control`` (compacted): the same class in edge and worker.

A record's key is its scope, its value a JSON object with what it sets and ``author``, ``reason``, ``at`` (epoch ms):

- ``global``: the newest decision of the controller, with ``rate``, ``burst``, ``mode``, ``shares``, ``hosts`` and its
  inputs;
- ``override``: the request of an operator: ``mode`` (``manual`` with a ``rate``, or ``auto``), ``burst``, ``gains``, to
  ``until_ms``;
- ``device/<id>``: ``block`` with ``until_ms`` or ``unblock``; ``rate`` and ``burst`` of the device, to
  ``limits_until_ms``; ``forget_ms``: its lane forgets what it knew of the device at that time;
- ``edge/<id>``: kept, not interpreted;
- ``incident/<id>``, ``incidents``, ``ack/<id>``, ``mute/...``: see :mod:`klais.control.incidents`.

Without an end a record holds until it is replaced. The newest record of a scope counts; a record without a value
deletes it. This reader ignores unknown fields; it logs and skips a record that is no such object.
"""

import math
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import orjson

from klais.config.load import Settings
from klais.core.wire.constants import ID_SIZE
from klais.kafka.follower import TopicFollower
from klais.kafka.topics import Topics
from klais.system.clock import now_ms

GLOBAL = "global"
OVERRIDE = "override"
DEVICE = "device/"
INCIDENT, INCIDENTS, ACK, MUTE = "incident/", "incidents", "ack/", "mute/"
DECISIONS = 600  # the newest ones, kept for display


class DeviceLimit(NamedTuple):
    """A device's own rate (frames/s) and burst (frames), each None = the default; in force up to ``until_ns``,
    None = without end."""

    rate: float | None
    burst: float | None
    until_ns: int | None


class ControlFollower(TopicFollower):
    """The records of ``klais_control`` as they stand.

    Attributes
    ----------
    version : int
        Rises with every record that changed something.
    changed : threading.Event
        Set when the version rises; the waiting thread clears it.
    decisions : deque
        The newest ``global`` records, oldest first.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).control, from_start=True)
        self.version = 0
        self.changed = threading.Event()
        self.decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS)
        self._auto = settings.auto_control
        self._change = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        self._blocked: dict[bytes, int | None] = {}
        self._device_limits: dict[bytes, DeviceLimit] = {}
        self._to_forget: dict[bytes, int] = {}

    def reset(self) -> None:
        """Drop all records (see :class:`TopicFollower`)."""
        with self._change:
            self._records, self._blocked, self._device_limits = {}, {}, {}
            self.version += 1
        self.changed.set()

    def consume(self, key: str, value: bytes | None, appended_ms: int | None = None) -> None:
        """Apply one record.

        Raises
        ------
        ValueError
            It is not a JSON object, or a field has an invalid value.
        """
        record = None if value is None else orjson.loads(value)
        if record is not None:
            if key.startswith(DEVICE) and len(key.removeprefix(DEVICE).encode()) > ID_SIZE:
                # Cut to 16 bytes, as columns hold it, it would be another device.
                raise ValueError(f"{key!r} names a device by more than {ID_SIZE} bytes: no frame has such an id")
            if not isinstance(record, dict):
                raise ValueError(f"control record of {key!r} is not a JSON object")
            _check(record)
        with self._change:
            if record == self._records.get(key):
                return
            records = {scope: kept for scope, kept in self._records.items() if scope != key}
            if record is not None:
                records[key] = record
            # Other threads read the old mappings or the new ones, never a mixture: so replace them, do not change them.
            if key.startswith(DEVICE):
                self._blocked = _blocked(records)
                self._device_limits = _device_limits(records)
                self._to_forget = _to_forget(records)
            elif key == GLOBAL and record is not None:
                self.decisions.append(record)
            self._records = records
            if key.startswith((INCIDENT, INCIDENTS)):
                return  # no limit follows from it
            self.version += 1
        self.changed.set()

    def record(self, scope: str) -> dict[str, Any] | None:
        """The record of a scope as it stands, or None."""
        return self._records.get(scope)

    def records(self) -> dict[str, dict[str, Any]]:
        """All records as they stand, by scope."""
        return self._records

    def override(self) -> dict[str, Any] | None:
        """The operator's request while it is in force. A rate written as ``global`` without a mode counts as one
        too."""
        records = self._records
        record = records.get(OVERRIDE)
        if record is not None:
            until_ms = record.get("until_ms")
            return record if until_ms is None or until_ms > now_ms() else None
        plain = records.get(GLOBAL)
        return plain if plain is not None and "mode" not in plain and "rate" in plain else None

    def mode(self) -> str:
        """``manual`` while an override sets the rate, else ``auto`` where the controller does, else ``fixed``."""
        override = self.override()
        if override is not None and override.get("rate") is not None and override.get("mode") != "auto":
            return "manual"
        return "auto" if self._auto or (override or {}).get("mode") == "auto" else "fixed"

    def rate(self, default: float) -> float:
        """Global rate in force (frames/s), or ``default`` where none was set."""
        return self._in_force("rate", default)

    def burst(self, default: float) -> float:
        """Global burst in force (frames), or ``default`` where none was set."""
        return self._in_force("burst", default)

    def _in_force(self, name: str, default: float) -> float:
        override = self.override()
        if override is not None and override.get("mode") != "auto" and override.get(name) is not None:
            return float(override[name])
        value = self._decision().get(name) if self.mode() == "auto" else None
        return default if value is None else float(value)

    def _decision(self) -> dict[str, Any]:
        """The controller's newest record; empty where it wrote none."""
        record = self._records.get(GLOBAL, {})
        return record if "mode" in record else {}

    def share(self, partition: int, partitions: int) -> float:
        """A lane's share of the global rate: as in the newest decision, else an even one."""
        shares = self._decision().get("shares", {})
        if self.mode() == "fixed" or len(shares) != partitions:
            return 1.0 / partitions
        return float(shares.get(str(partition), 1.0 / partitions))

    def device_rate(self, default: float) -> float:
        """Limit of a device without one of its own (frames/s): ``default``, or less while an attack is on."""
        value = self._decision().get("device_rate") if self.mode() == "auto" else None
        return default if value is None else min(default, float(value))

    def intake(self, host: str) -> tuple[float, float] | None:
        """Rate (frames/s) and burst (frames) that a host's edges may admit, or None where the controller sets
        none."""
        found = self._decision().get("hosts", {}).get(host)
        return None if found is None or self.mode() == "fixed" else (float(found["rate"]), float(found["burst"]))

    def device(self, device_id: bytes | str) -> dict[str, Any] | None:
        """The record of one device, or None."""
        name = device_id.decode(errors="replace") if isinstance(device_id, bytes) else device_id
        return self._records.get(DEVICE + name)

    def blocked(self) -> dict[bytes, int | None]:
        """Blocked devices: device_id -> end of the block (ns since the epoch), None = without end. Ends may have
        passed."""
        return self._blocked

    def device_limits(self) -> dict[bytes, DeviceLimit]:
        """Devices with limits of their own; ends may have passed."""
        return self._device_limits

    def to_forget(self) -> dict[bytes, int]:
        """Devices to forget: device_id -> when that was asked for (s since the epoch)."""
        return self._to_forget

    def overrides(self) -> list[dict[str, Any]]:
        """Overrides in force: scope, author, reason, end and the other fields of each record."""
        now = now_ms()
        out = []
        override = self.override()
        if override is not None:
            out.append({"scope": OVERRIDE, **override})
        for scope, record in self._records.items():
            ends: list[int] = [record[name] for name in ("until_ms", "limits_until_ms") if record.get(name) is not None]
            if scope.startswith(DEVICE) and not (ends and max(ends) <= now) and _sets_something(record):
                out.append({**record, "scope": scope})
        return out


def _sets_something(record: dict[str, Any]) -> bool:
    return any(record.get(name) is not None for name in ("rate", "burst")) or (
        record.get("block") is True and record.get("unblock") is not True
    )


def _check(record: dict[str, Any]) -> None:
    for name in ("rate", "burst", "device_rate"):
        value = record.get(name)
        if value is not None and not _is_limit(value):
            raise ValueError(f"{name} is {value!r}, not a number above 0")
    for name in ("until_ms", "limits_until_ms", "forget_ms"):
        until_ms = record.get(name)
        if until_ms is not None and (not isinstance(until_ms, int) or not 0 <= until_ms < 1 << 43):
            raise ValueError(f"{name} is {until_ms!r}, not a time in epoch ms")
    for name, values in (("shares", float), ("hosts", dict), ("gains", float)):
        found = record.get(name)
        kinds = (int, float) if values is float else dict
        if found is not None and not (isinstance(found, dict) and all(isinstance(v, kinds) for v in found.values())):
            raise ValueError(f"{name} is {found!r}, not an object of such values")
    for host, limit in (record.get("hosts") or {}).items():
        if not all(_is_limit(limit.get(name)) for name in ("rate", "burst")):
            raise ValueError(f"hosts[{host!r}] is {limit!r}, not an object with rate and burst")


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _until_ns(until_ms: int | None) -> int | None:
    return None if until_ms is None else until_ms * 1_000_000


def _blocked(records: dict[str, dict[str, Any]]) -> dict[bytes, int | None]:
    return {
        scope.removeprefix(DEVICE).encode(): _until_ns(record.get("until_ms"))
        for scope, record in records.items()
        if scope.startswith(DEVICE) and record.get("block") is True and record.get("unblock") is not True
    }


def _device_limits(records: dict[str, dict[str, Any]]) -> dict[bytes, DeviceLimit]:
    return {
        scope.removeprefix(DEVICE).encode(): DeviceLimit(
            record.get("rate"), record.get("burst"), _until_ns(record.get("limits_until_ms"))
        )
        for scope, record in records.items()
        if scope.startswith(DEVICE) and (record.get("rate") is not None or record.get("burst") is not None)
    }


def _to_forget(records: dict[str, dict[str, Any]]) -> dict[bytes, int]:
    return {
        scope.removeprefix(DEVICE).encode(): record["forget_ms"] // 1000
        for scope, record in records.items()
        if scope.startswith(DEVICE) and record.get("forget_ms") is not None
    }


def in_force_ms(until_ms: int | None) -> bool:
    """Whether an end (epoch ms) has not passed."""
    return until_ms is None or until_ms > now_ms()


def in_force(until_ns: int | None, now_ns: int | None = None) -> bool:
    """Whether an end has not passed."""
    return until_ns is None or until_ns > (time.time_ns() if now_ns is None else now_ns)


def control_in_force(follower: ControlFollower, settings: Settings, most: int) -> dict[str, Any]:
    """Limits in force, what they aim at, overrides, and the newest ``most`` decisions, the newest first."""
    decisions = list(follower.decisions)
    return {
        "mode": follower.mode(),
        "rate": follower.rate(settings.dam_max_rate),
        "burst": follower.burst(settings.dam_burst_size),
        "setpoints": {
            "lag": settings.pid_lag_setpoint,
            "cpu": settings.pid_cpu_setpoint,
            "rate_min": settings.pid_rate_min,
            "rate_max": settings.pid_rate_max,
        },
        "overrides": follower.overrides(),
        "decisions": decisions[::-1][:most],
    }
