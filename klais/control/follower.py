"""Set-points and overrides in force, followed from ``klais_control`` (compacted): the same class in edge and worker.

A record's key is its scope, ``global``, ``edge/<id>`` or ``device/<id>``; its value a JSON object with ``rate`` and
``burst`` (frames/s, frames), ``block`` (true) with ``until_ms`` (epoch ms, absent = for good) or ``unblock`` (true),
``author``, ``reason`` and ``at`` (epoch ms). The newest record of a scope holds; no value = nothing set. Fields that this
reader does not know are left alone; a record that is no such object is logged and passed over.
"""

import math
import threading
from typing import Any

import orjson

from klais.config import Settings
from klais.control.topic_follower import TopicFollower
from klais.kafka.topics import Topics

GLOBAL = "global"
DEVICE = "device/"


class ControlFollower(TopicFollower):
    """What ``klais_control`` says now.

    Attributes
    ----------
    version : int
        Goes up with every record that changed something.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).control, from_start=True)
        self.version = 0
        self._change = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        self._blocked: dict[bytes, int | None] = {}

    def take(self, key: str, value: bytes | None) -> None:
        """Apply one record.

        Raises
        ------
        ValueError
            It is not a JSON object, or a field has a value that cannot be.
        """
        record = None if value is None else orjson.loads(value)
        if record is not None:
            if not isinstance(record, dict):
                raise ValueError(f"control record of {key!r} is not a JSON object")
            _check(record)
        with self._change:
            if record == self._records.get(key):
                return
            records = {scope: kept for scope, kept in self._records.items() if scope != key}
            if record is not None:
                records[key] = record
            # Readers in other threads see the old mappings or the new ones, never half of a change.
            self._blocked = _blocked(records)
            self._records = records
            self.version += 1

    def record(self, scope: str) -> dict[str, Any] | None:
        """The record of a scope as it stands, or None."""
        return self._records.get(scope)

    def rate(self, default: float) -> float:
        """Global rate in force (frames/s), or ``default`` where none was set."""
        return self._global("rate", default)

    def burst(self, default: float) -> float:
        """Global burst in force (frames), or ``default`` where none was set."""
        return self._global("burst", default)

    def _global(self, name: str, default: float) -> float:
        value = self._records.get(GLOBAL, {}).get(name)
        return default if value is None else float(value)

    def device(self, device_id: bytes | str) -> dict[str, Any] | None:
        """The record of one device, or None."""
        name = device_id.decode(errors="replace") if isinstance(device_id, bytes) else device_id
        return self._records.get(DEVICE + name)

    def blocked(self) -> dict[bytes, int | None]:
        """Blocked devices: device_id -> end of the block (ns since the epoch), None = for good. Ends may have passed."""
        return self._blocked


def _check(record: dict[str, Any]) -> None:
    for name in ("rate", "burst"):
        value = record.get(name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if value is not None and not good:
            raise ValueError(f"{name} is {value!r}, not a number above 0")
    until_ms = record.get("until_ms")
    if until_ms is not None and (not isinstance(until_ms, int) or not 0 <= until_ms < 1 << 43):
        raise ValueError(f"until_ms is {until_ms!r}, not a time in epoch ms")


def _blocked(records: dict[str, dict[str, Any]]) -> dict[bytes, int | None]:
    out: dict[bytes, int | None] = {}
    for scope, record in records.items():
        if scope.startswith(DEVICE) and record.get("block") is True and record.get("unblock") is not True:
            until_ms = record.get("until_ms")
            out[scope.removeprefix(DEVICE).encode()] = None if until_ms is None else until_ms * 1_000_000
    return out
