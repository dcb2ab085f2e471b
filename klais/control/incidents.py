"""Incidents on ``klais_control``: what the leader found, and what operators said about it.

- ``incident/<id>``: an incident as the leader knows it (:meth:`klais.core.incidents.incident.Incident.state`), removed
  when it is not remembered any more;
- ``incidents``: what else the leader needs to go on: flags that wait, and up to where it has read;
- ``ack/<id>``: an operator knows of the incident; removed with it;
- ``mute/device/<id>``, ``mute/prefix/<text>``, ``mute/feature/<name>``: no new incident for it up to ``until_ms``.

The leader writes the first two with its fence. Operators write the others as they write overrides.
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
    """The scope that mutes a ``device``, the devices whose id begins with a ``prefix``, or a ``feature``.

    Examples
    --------
    >>> mute_scope("prefix", "meter-")
    'mute/prefix/meter-'
    """
    return f"{MUTE}{what}/{name}"


@dataclass(frozen=True, slots=True)
class Mutes:
    """What is muted now."""

    devices: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Records, now_ms: int) -> "Mutes":
        """From the records of ``klais_control``."""
        names: dict[str, list[str]] = {what: [] for what in MUTED}
        for each in mutes_in_force(records, now_ms):
            names[each["what"]].append(each["name"])
        return cls(frozenset(names["device"]), tuple(names["prefix"]), frozenset(names["feature"]))

    def cover(self, flag: FlagSeen) -> bool:
        """Whether a flag opens nothing."""
        return flag.feature in self.features or flag.device in self.devices or flag.device.startswith(self.prefixes)


def mutes_in_force(records: Records, now_ms: int) -> list[dict[str, Any]]:
    """Mutes whose end has not passed: what and name, with author, reason and end."""
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
    """The incidents that are remembered, the newest first; what cannot be read is left out."""
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
    """An incident for people and programs, and who acknowledged it."""
    ack = records.get(ack_scope(incident.id))
    known = ack is not None and ack.get("ack") is True and (ack.get("until_ms") is None or ack["until_ms"] > now_ms)
    return shown(incident) | {"acknowledged": _by(ack) if ack is not None and known else None}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which incidents: ``state`` open, closed, or None for both; only those with this feature or device; behind the
    cursor; not more than ``size``."""

    state: str | None = None
    feature: str | None = None
    device: str | None = None
    unacknowledged: bool = False
    after: str | None = None
    size: int = 100


def page(records: Records, wanted: Wanted, now_ms: int) -> dict[str, Any]:
    """A page of incidents, the newest first, with the cursor of the next one."""
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
    """A place in the list as text for the next request."""
    return base64.urlsafe_b64encode(orjson.dumps([item["opened_at"], item["id"]])).decode().rstrip("=")


def read_cursor(text: str) -> tuple[int, str]:
    """The place that :func:`write_cursor` wrote.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        at_ms, name = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(at_ms, int) or not isinstance(name, str):
            raise TypeError(text)
    except (ValueError, TypeError):
        raise ValueError("must be `next` of the page before") from None
    return -at_ms, name
