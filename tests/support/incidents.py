"""Incidents on ``klais_control``, as a leader writes them."""

import orjson

from klais.config.load import Settings
from klais.control.setpoints import INCIDENT, ControlFollower
from klais.core.incidents.incident import Incident, id_of
from klais.core.incidents.summary import FlagSeen, Summary

T0_MS = 1_700_000_000_000


def incident(number: int, closed: bool = False, feature: str = "t", device: str = "") -> Incident:
    """A group of three devices, or one device alone; higher numbers are newer."""
    flags = [
        FlagSeen(name, feature, "level", T0_MS + 1000 * number + i, 6.0 + i, 30.0, 20.0, 0, 1, 1, "2.1", "t was 30.")
        for i, name in enumerate([device] if device else ["a", "b", f"dev-{number}"])
    ]
    what = Summary.of(flags[0])
    for flag in flags[1:]:
        what.merge(Summary.of(flag))
    kind = "device" if device else "group"
    opened = T0_MS + 1000 * number + 5
    return Incident(id_of(flags[0]), kind, feature, what, opened, opened + 9 if closed else 0)


def follower_with(*incidents: Incident) -> ControlFollower:
    """A follower of a topic with these incidents."""
    follower = ControlFollower(Settings())
    for each in incidents:
        follower.consume(INCIDENT + each.id, orjson.dumps(each.state()))
    return follower
