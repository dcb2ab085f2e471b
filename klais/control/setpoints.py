"""Set-points and overrides in force, followed from ``klais_control`` (compacted), with one class for edge and worker.

A record's key is its scope, its value a JSON object with its fields and ``author``, ``reason``, ``at`` (epoch ms):

- ``global``: the newest decision of the controller, with ``rate``, ``burst``, ``mode``, ``shares``, ``hosts`` and its
  inputs;
- ``override``: the request of an operator: ``mode`` (``manual`` with a ``rate``, or ``auto``), ``burst``, ``gains``, to
  ``until_ms``;
- ``device/<id>``: ``block`` with ``until_ms`` or ``unblock``; ``rate`` and ``burst`` of the device, to
  ``limits_until_ms``; ``forget_ms``: its lane forgets the state of the device as of that time;
- ``source/<prefix>``: ``block`` with ``until_ms`` or ``unblock``, see :mod:`klais.control.source_blocks`;
- ``edge-id/<name>``: kept, not interpreted;
- ``incident/<id>``, ``incidents``, ``ack/<id>``, ``mute/...``: see :mod:`klais.control.incidents`.

A record without an end is in force until it is replaced. The newest record of a scope counts, and a record without a
value deletes it. This reader ignores unknown fields and those that are null, and logs and skips a record that is not
such an object.

If the topic is created again or loses records, what was read stays in force, and the leader writes it again
(:meth:`ControlFollower.missing`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from klais.config.load import Settings
from klais.control.ends import acts_now, in_force, in_force_ms, is_block, to_ns, without_ended
from klais.control.record_rules import check
from klais.control.scope_watch import Watch
from klais.control.source_blocks import SOURCE, source_of_scope
from klais.core.wire.constants import ID_RULE, is_device_id
from klais.kafka.follower import STALE_S, TopicFollower
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.prefix import Network
from klais.system.shared_clock import shared

GLOBAL = "global"
OVERRIDE = "override"
DEVICE = "device/"
INCIDENT, INCIDENTS, ACK, MUTE = "incident/", "incidents", "ack/", "mute/"
SCOPES_SHOWN = 5
DECISIONS = 600  # newest decisions kept for display


class DeviceLimit(NamedTuple):
    """A device's own rate (frames/s) and burst (frames), each None = the default; in force up to ``until_ns``,
    None = without end."""

    rate: float | None
    burst: float | None
    until_ns: int | None


class _Seen(NamedTuple):
    """An immutable snapshot for readers. After a change of the records, the next read makes a new one."""

    records: dict[str, dict[str, Any]]
    blocked: dict[bytes, int | None]
    device_limits: dict[bytes, DeviceLimit]
    to_forget: dict[bytes, int]


class ControlFollower(TopicFollower):
    """The present records of ``klais_control``.

    Attributes
    ----------
    version : int
        Increases with every record that changed something.
    decisions : deque
        The newest ``global`` records, oldest first.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).control, from_start=True)
        self.version = 0
        self.decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS)
        self._auto = settings.auto_control
        self._change = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        self._blocked: dict[bytes, int | None] = {}
        self._device_limits: dict[bytes, DeviceLimit] = {}
        self._to_forget: dict[bytes, int] = {}
        self._blocked_sources: dict[Network, int | None] = {}
        self._sources_seen: dict[Network, int | None] | None = None
        self._seen: _Seen | None = None
        self._watches: list[tuple[str, Watch]] = []
        self._on_change: tuple[Callable[[], object], ...] = ()
        self._missing: dict[str, dict[str, Any]] = {}  # of a topic that lost its records, and not read again since
        self._missing_since_s = 0.0

    def _by_device(self) -> tuple[dict[bytes, Any], ...]:
        return self._blocked, self._device_limits, self._to_forget

    @contextmanager
    def changes(self, call: Callable[[], object]) -> Iterator[None]:
        """Within the block, call ``call`` after each increase of ``version``, in the thread that increased it."""
        with self._change:
            self._on_change += (call,)
        try:
            yield
        finally:
            with self._change:
                self._on_change = tuple(one for one in self._on_change if one is not call)

    def _changed(self) -> None:
        self.version += 1
        for call in self._on_change:
            call()

    def reset(self) -> None:
        """Keep all records in force until they are replaced (see :class:`TopicFollower`)."""
        with self._change:
            # A decision is not missing: the next one of the leader replaces it.
            lost = {scope: r for scope, r in self._records.items() if scope != GLOBAL or "mode" not in r}
            self._missing_since_s = self._missing_since_s if self._missing else time.monotonic()
            self._missing = lost

    def missing(self) -> dict[str, dict[str, Any]]:
        """Records in force here that the topic lacks, by scope: it was created again, or lost them."""
        if not self._missing:
            return {}
        with self._change:
            self._missing = {scope: record for scope, record in self._missing.items() if _is_needed(scope, record)}
            return self._missing.copy()

    def problem(self) -> str | None:
        """Why the state differs from the topic, as text; None while it does not."""
        if (text := super().problem()) is not None:
            return text
        missing = self.missing()
        since_s = time.monotonic() - self._missing_since_s
        if not missing or since_s < STALE_S:
            return None
        scopes = sorted(missing, key=lambda scope: (scope != OVERRIDE, not scope.startswith(DEVICE), scope))
        some = ", ".join(scopes[:SCOPES_SHOWN]) + (", ..." if len(scopes) > SCOPES_SHOWN else "")
        return (
            f"topic {self.topic} was created again or lost records, and for {since_s:.0f} s has lacked {len(scopes)} "
            f"that are in force here ({some}): a worker that knows them and leads writes them again; otherwise this "
            "process follows them until it ends: set them again, or restart it to give them up"
        )

    def consume(self, key: str, value: bytes | None, appended_ms: int | None = None) -> None:
        """Apply one record.

        Raises
        ------
        ValueError
            If it is not a JSON object, or a field has an invalid value.
        """
        record = self._parsed(key, value)
        with self._change:
            for scope, watch in self._watches:
                if scope == key:
                    watch.note(self._reading, record, appended_ms)
            self._put(key, record, appended_ms)

    def wrote(self, scope: str, value: bytes, offset: int | None) -> None:
        """Apply a record that this process wrote at ``offset``, unless the topic has been read further already: its
        next record may be newer. Errors as :meth:`consume`."""
        record = self._parsed(scope, value)
        with self._change:
            if offset is None or self._reading < offset:
                self._put(scope, record, None)

    @contextmanager
    def watch(self, scope: str) -> Iterator[Watch]:
        """Keep the records of a scope that are read within the block."""
        with self._change:
            mine = (scope, Watch(self._records.get(scope)))
            self._watches.append(mine)
        try:
            yield mine[1]
        finally:
            with self._change:
                self._watches.remove(mine)

    @staticmethod
    def _parsed(key: str, value: bytes | None) -> dict[str, Any] | None:
        record: dict[str, Any] | None = None if value is None else shallow_json.loads(value)
        if record is not None:
            if key.startswith(DEVICE) and not is_device_id(key.removeprefix(DEVICE).encode()):
                # Columns hold 16 bytes: a truncated id would name another device.
                raise ValueError(f"{key!r} names no device of a frame: {ID_RULE}")
            if not isinstance(record, dict):
                raise ValueError(f"control record of {key!r} is not a JSON object")
            if key.startswith(SOURCE):
                source_of_scope(key)
            record = {name: value for name, value in record.items() if value is not None}
            check(record)
        return record

    def _put(self, key: str, record: dict[str, Any] | None, appended_ms: int | None) -> None:
        """Make a record the present one of its scope. Needs the lock ``_change``."""
        self._missing.pop(key, None)
        if record == self._records.get(key):
            return
        # Update one entry: rebuilding a mapping for each record takes minutes for ten thousand blocks.
        self._records.pop(key, None)
        if record is not None:
            self._records[key] = record
        if key.startswith(DEVICE):
            self._note_device(key.removeprefix(DEVICE).encode(), record or {}, appended_ms)
        elif key.startswith(SOURCE):
            self._note_source(key, record or {})
        elif key == GLOBAL and record is not None:
            self.decisions.append(record)
        self._seen = None
        if key.startswith((INCIDENT, INCIDENTS)):
            return  # it sets no limit
        self._changed()

    def _note_device(self, device_id: bytes, record: dict[str, Any], appended_ms: int | None) -> None:
        for kept in self._by_device():
            kept.pop(device_id, None)
        rate, burst, forget_ms = record.get("rate"), record.get("burst"), record.get("forget_ms")
        if is_block(record):
            self._blocked[device_id] = to_ns(record.get("until_ms"))
        if rate is not None or burst is not None:
            burst = None if burst is None else max(1.0, burst)  # with less, no frame would ever pass
            self._device_limits[device_id] = DeviceLimit(rate, burst, to_ns(record.get("limits_until_ms")))
        if forget_ms is not None:
            # A request from a clock that is ahead would hold for rows that are not made yet: again at each restart.
            self._to_forget[device_id] = min(forget_ms, appended_ms or forget_ms) // 1000

    def _note_source(self, scope: str, record: dict[str, Any]) -> None:
        try:
            network = source_of_scope(scope)
        except ValueError:
            return  # a deleted record of a scope that never counted
        self._sources_seen = None
        self._blocked_sources.pop(network, None)
        if is_block(record):
            self._blocked_sources[network] = to_ns(record.get("until_ms"))

    def _now(self) -> _Seen:
        """The present mappings; the same objects until a record changes something."""
        seen = self._seen
        if seen is None:
            with self._change:
                blocked, limits, to_forget = (kept.copy() for kept in self._by_device())
                seen = self._seen = _Seen(self._records.copy(), blocked, limits, to_forget)
        return seen

    def record(self, scope: str) -> dict[str, Any] | None:
        """The present record of a scope, or None."""
        return self._records.get(scope)

    def records(self) -> dict[str, dict[str, Any]]:
        """All present records, by scope."""
        return self._now().records

    def override(self) -> dict[str, Any] | None:
        """The operator's request while it is in force. A rate written as ``global`` without a mode also counts."""
        records = self._records
        record = records.get(OVERRIDE)
        if record is not None:
            until_ms = record.get("until_ms")
            return record if in_force_ms(until_ms) else None
        plain = records.get(GLOBAL)
        return plain if plain is not None and "mode" not in plain and "rate" in plain else None

    def mode(self) -> str:
        """``manual`` while an override sets the rate, else ``auto`` if the controller sets it, else ``fixed``."""
        override = self.override()
        if override is not None and override.get("rate") is not None and override.get("mode") != "auto":
            return "manual"
        return "auto" if self._auto or (override or {}).get("mode") == "auto" else "fixed"

    def rate(self, default: float) -> float:
        """Global rate in force (frames/s), or ``default`` if none is set."""
        return self._in_force("rate", default)

    def burst(self, default: float) -> float:
        """Global burst in force (frames), or ``default`` if none is set."""
        return self._in_force("burst", default)

    def _in_force(self, name: str, default: float) -> float:
        override = self.override()
        if override is not None and override.get("mode") != "auto" and override.get(name) is not None:
            return float(override[name])
        value = self._decision().get(name) if self.mode() == "auto" else None
        return default if value is None else float(value)

    def _decision(self) -> dict[str, Any]:
        """The controller's newest record; empty if there is none."""
        record = self._records.get(GLOBAL, {})
        return record if "mode" in record else {}

    def share(self, partition: int, partitions: int) -> float:
        """A lane's share of the global rate: that of the newest decision, or an even share."""
        shares = self._decision().get("shares") or {}
        if self.mode() == "fixed" or len(shares) != partitions:
            return 1.0 / partitions
        return float(shares.get(str(partition), 1.0 / partitions))

    def device_rate(self, default: float) -> float:
        """Limit of a device without its own limit (frames/s): ``default``, or less during an attack."""
        value = self._decision().get("device_rate") if self.mode() == "auto" else None
        return default if value is None else min(default, float(value))

    def intake(self, host: str) -> tuple[float, float] | None:
        """Rate (frames/s) and burst (frames) that a host's edges may admit, or None if the controller sets none."""
        found = (self._decision().get("hosts") or {}).get(host)
        if found is None or self.mode() == "fixed":
            return None
        return float(found["rate"]), max(1.0, float(found["burst"]))

    def device(self, device_id: bytes | str) -> dict[str, Any] | None:
        """The record of one device, or None."""
        name = device_id.decode(errors="replace") if isinstance(device_id, bytes) else device_id
        return self._records.get(DEVICE + name)

    def blocked(self) -> dict[bytes, int | None]:
        """Blocked devices: device_id -> end of the block (ns since the epoch), None = without end. Includes expired
        blocks."""
        return self._now().blocked

    def blocked_sources(self) -> dict[Network, int | None]:
        """Blocked source addresses: prefix -> end as in :meth:`blocked`; the same object until one of these records
        changes. Includes expired blocks."""
        seen = self._sources_seen
        if seen is None:
            with self._change:
                seen = self._sources_seen = self._blocked_sources.copy()
        return seen

    def blocked_sources_in_force(self) -> dict[Network, int | None]:
        """The same without expired blocks."""
        now_ns = shared.time_ns()
        return {network: end for network, end in self.blocked_sources().items() if in_force(end, now_ns)}

    def device_limits(self) -> dict[bytes, DeviceLimit]:
        """Devices with their own limits, including expired ones."""
        return self._now().device_limits

    def to_forget(self) -> dict[bytes, int]:
        """Devices to forget: device_id -> time of the request (s since the epoch)."""
        return self._now().to_forget

    def overrides(self) -> list[dict[str, Any]]:
        """Overrides in force: scope, author, reason, end and the other fields of each record."""
        override = self.override() or {}
        tunes = any(override.get(name) is not None for name in ("burst", "gains", "setpoints"))
        as_set = not tunes and self._auto and override.get("mode") == "auto"  # the settings say the same
        out = [{**override, "scope": OVERRIDE}] if override and not as_set else []
        for scope, record in self.records().items():
            if scope.startswith((DEVICE, SOURCE)) and acts_now(record):
                out.append({**without_ended(record), "scope": scope})
        return out


def _is_needed(scope: str, record: dict[str, Any]) -> bool:
    """Whether a record has an effect now: it sets something, or says that something must not be set."""
    if not scope.startswith((DEVICE, SOURCE)):
        return in_force_ms(record.get("until_ms"))
    return acts_now(record) or record.get("unblock") is True or record.get("forget_ms") is not None
