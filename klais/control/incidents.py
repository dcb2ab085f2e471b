"""Incidents on ``klais_control``: findings of the leader, and acknowledgements and mutes of operators.

- ``incident/<id>``: an incident of the leader (:meth:`klais.core.incidents.incident.Incident.state`), removed when it
  is no longer kept;
- ``incidents``: other state that the leader needs to continue: pending flags, and the offsets that it has read;
- ``ack/<id>``: an operator knows of the incident; removed with it;
- ``mute/device/<id>``, ``mute/prefix/<text>``, ``mute/feature/<name>``: no new incident for it until ``until_ms``.

The leader writes the first two under its fence. Operators write the others like overrides.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from klais.control.setpoints import ACK, INCIDENT, MUTE
from klais.core.incidents.incident import Incident, incident_of, shown
from klais.core.incidents.summary import FlagSeen

MUTED = ("device", "prefix", "feature")
Records = Mapping[str, Mapping[str, Any]]


def ack_scope(incident_id: str) -> str:
    """The scope of an acknowledgement."""
    return ACK + incident_id


def mute_scope(what: str, name: str) -> str:
    """The scope that mutes a ``device``, devices whose id begins with a ``prefix``, or a ``feature``.

    Examples
    --------
    >>> mute_scope("prefix", "meter-")
    'mute/prefix/meter-'
    """
    return f"{MUTE}{what}/{name}"


@dataclass(frozen=True, slots=True)
class Mutes:
    """The mutes in force."""

    devices: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Records, now_ms: int) -> "Mutes":
        """Create it from the records of ``klais_control``."""
        names: dict[str, list[str]] = {what: [] for what in MUTED}
        for each in mutes_in_force(records, now_ms):
            names[each["what"]].append(each["name"])
        return cls(frozenset(names["device"]), tuple(names["prefix"]), frozenset(names["feature"]))

    def cover(self, flag: FlagSeen) -> bool:
        """Whether a flag must not open an incident."""
        return flag.feature in self.features or flag.device in self.devices or flag.device.startswith(self.prefixes)


def mutes_in_force(records: Records, now_ms: int) -> list[dict[str, Any]]:
    """Mutes that have not expired: kind and name, with author, reason and end."""
    out = []
    for scope, record in records.items():
        what, _, name = scope.removeprefix(MUTE).partition("/")
        if not scope.startswith(MUTE) or what not in MUTED or not name or record.get("mute") is not True:
            continue
        if record.get("until_ms") is None or record["until_ms"] > now_ms:
            out.append({"what": what, "name": name, "scope": scope, **_by(record)})
    return sorted(out, key=lambda each: str(each["scope"]))


def _by(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in ("author", "reason", "at", "until_ms")}


def incidents_of(records: Records) -> list[Incident]:
    """The stored incidents, newest first; unreadable ones are skipped."""
    out = []
    for scope, record in records.items():
        if scope.startswith(INCIDENT):
            try:
                incident = incident_of(record)
            except ValueError:
                continue
            if scope == INCIDENT + incident.id:
                out.append(incident)
    return sorted(out, key=lambda one: (-one.opened_ms, one.id))


def shown_with_ack(incident: Incident, records: Records, now_ms: int) -> dict[str, Any]:
    """An incident for display, with its acknowledgement."""
    ack = records.get(ack_scope(incident.id))
    known = ack is not None and ack.get("ack") is True and (ack.get("until_ms") is None or ack["until_ms"] > now_ms)
    return shown(incident) | {"acknowledged": _by(ack) if ack is not None and known else None}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Selected incidents: ``state`` open, closed, or None for both; only those with this feature or device; those after
    the cursor; at most ``size``."""

    state: str | None = None
    feature: str | None = None
    device: str | None = None
    unacknowledged: bool = False
    after: str | None = None
    size: int = 100


def page(records: Records, wanted: Wanted, now_ms: int) -> dict[str, Any]:
    """A page of incidents, newest first, with the cursor of the next page."""
    every = incidents_of(records)
    found = [one for one in every if _fits(one, wanted)]
    items = [shown_with_ack(one, records, now_ms) for one in found]
    if wanted.unacknowledged:
        items = [item for item in items if item["acknowledged"] is None]
    total = len(items)
    if wanted.after is not None:
        place = read_cursor(wanted.after)
        items = [item for item in items if (-item["opened_at"], item["id"]) > place]
    rest, items = items[wanted.size :], items[: wanted.size]
    return {
        "total": total,
        "open": sum(one.is_open for one in every),
        "mutes": mutes_in_force(records, now_ms),
        "items": items,
        "next": write_cursor(items[-1]) if rest and items else None,
    }


def _fits(incident: Incident, wanted: Wanted) -> bool:
    return (
        (wanted.state is None or (wanted.state == "open") == incident.is_open)
        and (wanted.feature is None or wanted.feature in incident.what.features or wanted.feature == incident.feature)
        and (wanted.device is None or wanted.device in incident.what.members)
    )


def write_cursor(item: Mapping[str, Any]) -> str:
    """Encode a place in the list as text for the next request."""
    return base64.urlsafe_b64encode(orjson.dumps([item["opened_at"], item["id"]])).decode().rstrip("=")


def read_cursor(text: str) -> tuple[int, str]:
    """Decode the text of :func:`write_cursor`.

    Raises
    ------
    ValueError
        If the text is not a cursor.
    """
    try:
        at_ms, name = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(at_ms, int) or not isinstance(name, str):
            raise TypeError(text)
    except (ValueError, TypeError):
        raise ValueError("must be `next` of the previous page") from None
    return -at_ms, name
