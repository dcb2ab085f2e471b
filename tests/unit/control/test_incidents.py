"""Incidents, acknowledgements and mutes as ``klais_control`` has them."""

import orjson
import pytest

from klais.control.incidents import Mutes, Wanted, ack_scope, mute_scope, mutes_in_force, page, read_cursor
from klais.core.incidents.summary import FlagSeen
from tests.support.incidents import T0_MS, follower_with, incident

NOW = T0_MS + 3_600_000


def flag(device: str, feature: str = "t") -> FlagSeen:
    return FlagSeen(device, feature, "level", NOW)


def mute(what: str, name: str, until_ms: int | None = None, **more: object) -> dict[str, dict]:
    return {mute_scope(what, name): {"mute": True, "until_ms": until_ms, "author": "ops"} | more}


def test_mutes_cover_devices_prefixes_and_features_until_their_end():
    records = mute("device", "a/b") | mute("prefix", "test-", NOW + 1) | mute("feature", "rpm")
    records |= mute("device", "over", NOW) | mute("device", "gone", mute=None) | mute("odd", "x")
    mutes = Mutes.of(records, NOW)
    covered = [flag("a/b"), flag("test-1"), flag("other", "rpm")]
    assert all(mutes.cover(each) for each in covered)
    assert not any(mutes.cover(each) for each in [flag("a"), flag("over"), flag("gone"), flag("x"), flag("tes")])
    assert [(each["what"], each["name"]) for each in mutes_in_force(records, NOW)] == [
        ("device", "a/b"),
        ("feature", "rpm"),
        ("prefix", "test-"),
    ]


def test_nothing_is_muted_without_records():
    assert not Mutes.of({}, NOW).cover(flag("dev"))


def test_pages_hold_each_incident_once_the_newest_first():
    many = [incident(i, closed=i % 2 == 0, feature="t" if i < 4 else "rpm") for i in range(7)]
    records = follower_with(*many).records()
    seen, after = [], None
    while True:
        body = page(records, Wanted(size=3, after=after), NOW)
        seen += [item["id"] for item in body["items"]]
        if (after := body["next"]) is None:
            break
    assert seen == [one.id for one in many[::-1]] and (body["total"], body["open"]) == (7, 3)
    assert len(page(records, Wanted(state="open"), NOW)["items"]) == 3
    assert len(page(records, Wanted(feature="rpm"), NOW)["items"]) == 3
    assert [one["id"] for one in page(records, Wanted(device="dev-2"), NOW)["items"]] == [many[2].id]


def test_an_acknowledgement_is_shown_until_its_end():
    one, other = incident(1), incident(2)
    follower = follower_with(one, other)
    ack = {"ack": True, "author": "ops", "reason": "known", "at": NOW, "until_ms": NOW + 10}
    follower.consume(ack_scope(one.id), orjson.dumps(ack))
    acked = {item["id"]: item["acknowledged"] for item in page(follower.records(), Wanted(), NOW)["items"]}
    assert acked[one.id]["author"] == "ops" and acked[other.id] is None
    assert [item["id"] for item in page(follower.records(), Wanted(unacknowledged=True), NOW)["items"]] == [other.id]
    late = page(follower.records(), Wanted(unacknowledged=True), NOW + 10)
    assert late["total"] == 2


def test_incidents_change_no_limit():
    follower = follower_with(incident(1))
    assert follower.version == 0 and follower.overrides() == []


@pytest.mark.parametrize("text", ["", "x", "W10", "WyJhIiwxXQ", "é"])
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(ValueError, match="must be `next`"):
        read_cursor(text)


def test_a_record_that_is_no_incident_is_left_out():
    follower = follower_with(incident(1))
    follower.consume("incident/i-ffffffffff", b'{"v":1}')
    assert page(follower.records(), Wanted(), NOW)["total"] == 1
