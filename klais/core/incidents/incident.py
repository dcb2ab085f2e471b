"""An incident, its record, and the sentence that describes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from klais.core.anomaly.explain import span
from klais.core.incidents.summary import FEW, MAX_TEXT_CHARS, FlagSeen, Summary, check_whole, summary_of
from klais.text import escape, iso_seconds

VERSION = 1
ID = re.compile(r"i-[0-9a-f]{10}")
INCIDENT_HEADER = ("kind", b"incident")
"""The header of records on ``klais_anomalies`` that are incidents; flags have none."""

KINDS = ("device", "group", "fleet")
Kind = Literal["device", "group", "fleet"]
FLEET_FEATURE = "frames_per_s"
"""The feature of an incident of the whole fleet: frames that all edges receive in a second."""

FEATURES = ("field", "interval", "size", "fleet")
"""Values of the label ``feature``: names of a device's own fields are not used as labels."""
_CLASSES = {"interval_s": "interval", "payload_bytes": "size", FLEET_FEATURE: "fleet"}


def feature_class(feature: str) -> str:
    """The member of ``FEATURES`` that a feature belongs to."""
    return _CLASSES.get(feature, "field")


@dataclass(slots=True)
class Incident:
    """Flags with one cause.

    Attributes
    ----------
    id : str
        Derived from its first flag: the same in whichever worker opens it.
    kind : {'device', 'group', 'fleet'}
        One device; several with the same feature at the same time; the rate of the whole fleet.
    feature : str
        The main feature; further ones are in ``what.features``.
    opened_ms, closed_ms : int
        ms since the epoch; ``closed_ms`` is 0 while it is open.
    revision : int
        Rises with each record on ``klais_anomalies``, from 1.
    before : int
        Earlier incidents of the same kind and feature, as far as they are remembered.
    """

    id: str
    kind: Kind
    feature: str
    what: Summary
    opened_ms: int
    closed_ms: int = 0
    revision: int = 1
    before: int = 0
    written_ms: int = 0
    written_members: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is still open."""
        return self.closed_ms == 0

    def add(self, what: Summary) -> None:
        """Add flags with the same cause. The fleet's incident keeps its rate as first and worst flag."""
        if self.kind != "fleet":
            self.what.merge(what)
            return
        self.what.flags += what.flags
        self.what.members.merge(what.members)

    def observe(self, flag: FlagSeen) -> None:
        """Update the rate of an incident of the fleet."""
        self.what.newest_ms = flag.at_ms
        if flag.score > self.what.worst.score:
            self.what.worst = flag

    def state(self) -> dict[str, Any]:
        """The incident as JSON, lossless; :func:`incident_of` reads it."""
        out: dict[str, Any] = {name: getattr(self, name) for name in _KEPT}
        return out | {"v": VERSION, "what": self.what.record(), "explanation": sentence(self)}


_KEPT = ("id", "kind", "feature", "opened_ms", "closed_ms", "revision", "before", "written_ms", "written_members")


def incident_of(record: Mapping[str, Any]) -> Incident:
    """The incident that :meth:`Incident.state` wrote.

    Raises
    ------
    ValueError
        If it is not an incident, or one of another version.
    """
    if record.get("v") != VERSION:
        raise ValueError(f"this is not an incident of version {VERSION}: v is {record.get('v')!r}")
    try:
        out = Incident(what=summary_of(record["what"]), **{name: record[name] for name in _KEPT})
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is not an incident: {error!r}") from None
    texts = isinstance(out.feature, str) and isinstance(out.id, str) and is_id(out.id)
    if out.kind not in KINDS or not texts or len(out.feature) > MAX_TEXT_CHARS:
        raise ValueError(f"this is not an incident: {record!r:.200}")
    check_whole(*(getattr(out, name) for name in _KEPT[3:]))
    return out


def id_of(flag: FlagSeen) -> str:
    """The id of an incident that starts with this flag.

    Examples
    --------
    >>> id_of(FlagSeen("dev-1", "t", "stuck", 1_700_000_000_000))
    'i-557ebcd804'
    """
    text = f"{flag.at_ms}\0{flag.device}\0{flag.feature}\0{flag.cause}".encode(errors="replace")
    return f"i-{blake2b(text, digest_size=5).hexdigest()}"


def is_id(text: str) -> bool:
    """Whether a text can be the id of an incident."""
    return ID.fullmatch(text) is not None


def shown(incident: Incident) -> dict[str, Any]:
    """The incident for people and programs: views, commands, and records of ``klais_anomalies``."""
    what = incident.what
    return {
        "id": incident.id,
        "state": "open" if incident.is_open else "closed",
        "type": incident.kind,
        "feature": incident.feature,
        "features": list(what.features[:FEW]),
        "causes": list(what.causes),
        "direction": _direction(what),
        "opened_at": incident.opened_ms,
        "newest_at": what.newest_ms,
        "closed_at": incident.closed_ms or None,
        "revision": incident.revision,
        "flags": what.flags,
        "devices": what.members.count,
        "devices_exact": what.members.exact,
        "members": what.members.names(),
        "partitions": list(what.partitions[:FEW]),
        "edges": list(what.edges[:FEW]),
        "firmwares": list(what.firmwares[:FEW]),
        "more": [name for name in ("features", "partitions", "edges", "firmwares") if len(getattr(what, name)) > FEW],
        "first": what.first.record(),
        "worst": what.worst.record(),
        "before": incident.before,
        "explanation": sentence(incident),
    }


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about an incident that the language model may use, from the record of :func:`shown`."""
    worst, first = record["worst"], record["first"]
    out = {
        "feature": record["feature"],
        "seen": worst["value"],
        "expected": worst["expected"],
        "kind": record["type"],
        "since": iso_seconds(record["opened_at"]),
        "until": iso_seconds(record["closed_at"]) if record["closed_at"] else None,
        "score": worst["score"],
        "before": record["before"] or None,
    }
    if record["devices"] == 1:
        out["device"] = first["device"]
    elif record["devices"]:
        out |= {"devices": record["devices"], "first": first["device"], "worst": worst["device"]}
        out["members"] = record["members"][:FEW]
    for one, many in (("partition", "partitions"), ("edge", "edges"), ("firmware", "firmwares")):
        if record["type"] != "fleet" and len(record[many]) == 1:  # the whole fleet has no partition
            out[one] = record[many][0]
    return {name: value for name, value in out.items() if value is not None}


def sentence(incident: Incident) -> str:
    """One sentence: observed and expected value, how unusual, since when, how often before."""
    what = incident.what
    since = f"since {iso_seconds(what.first.at_ms)}"
    lasted = "" if incident.is_open else f", over after {span((incident.closed_ms - what.first.at_ms) / 1000)}"
    if incident.kind == "fleet":
        seen, usual = what.worst.value or 0.0, what.worst.expected or 0.0
        verb = "sends hardly anything" if what.worst.cause == "pause" else "sends far more than usual"
        body = f"the whole fleet {verb} {since}: {seen:,.0f} frames/s, expected about {usual:,.0f}"
        body += f" ({what.worst.score:.3g} times {'less' if what.worst.cause == 'pause' else 'more'})"
    elif incident.kind == "device":
        more = "" if what.flags == 1 else f"; {what.flags:,} flags in {_list(what.features)}"
        body = f"{escape(what.first.device)} {since}: {_said(what.worst)}{more}"
    else:
        about = "" if what.members.exact else "about "
        body = f"{about}{what.members.count:,} devices together {since}: {escape(incident.feature)} {_direction(what)}"
        body += f"{_common(what)}; first {escape(what.first.device)}, worst {escape(what.worst.device)}: "
        body += _said(what.worst)
    times = "the first of its kind" if not incident.before else f"{incident.before:,} like it before"
    return f"{body}{lasted}; {times}."


def _said(flag: FlagSeen) -> str:
    return escape(flag.explanation.rstrip(".")) or f"{escape(flag.feature)} is {flag.cause}"


def _list(names: tuple[str, ...]) -> str:
    text = ", ".join(escape(name) for name in names[:FEW])
    return text if len(names) <= FEW else f"{text} and others"


def _direction(what: Summary) -> str:
    if not what.up and not what.down:
        return "changed"
    if what.up >= 9 * what.down:
        return "rose"
    return "fell" if what.down >= 9 * what.up else "changed"


def _common(what: Summary) -> str:
    """What all members share, if it is worth mentioning."""
    shared = [("firmware", what.firmwares), ("partition", what.partitions), ("edge", what.edges)]
    found = [f"{name} {escape(str(values[0]))}" for name, values in shared if len(values) == 1]
    return f" (all: {', '.join(found)})" if found else ""
