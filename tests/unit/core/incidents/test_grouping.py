"""Flags with one cause are one incident; a few false ones are none."""

import orjson
import pytest

from klais.core.incidents.grouping import MAX_CLOSED, MAX_OPEN, MAX_PENDING, Grouping, Rules
from klais.core.incidents.incident import facts, incident_of, shown
from klais.core.incidents.summary import FEW, MEMBERS, FlagSeen, read_flag

T0 = 1_700_000_000_000
RULES = Rules()


def flag(device: str, feature: str = "t", cause: str = "level", at_s: float = 0.0, **more) -> FlagSeen:
    given = {
        "score": 6.0,
        "value": 30.0,
        "expected": 20.0,
        "explanation": f"{feature} was 30, expected about 20.",
    } | more
    return FlagSeen(device, feature, cause, T0 + int(at_s * 1000), **given)


def at(seconds: float) -> int:
    return T0 + int(seconds * 1000)


def fed(*flags: FlagSeen, settle_s: float = 0.0) -> Grouping:
    grouping = Grouping(RULES)
    for one in flags:
        grouping.absorb(one)
    grouping.settle(at(settle_s))
    return grouping


def test_many_devices_at_once_are_one_incident_with_first_and_worst():
    flags = [flag(f"dev-{i}", at_s=i / 10, score=6 + i, partition=i % 2, edge=1, firmware="2.1") for i in range(40)]
    grouping = fed(*flags, settle_s=5)
    (incident,) = grouping.open()
    record = shown(incident)
    assert (record["type"], record["devices"], record["flags"], record["feature"]) == ("group", 40, 40, "t")
    assert (record["first"]["device"], record["worst"]["device"]) == ("dev-0", "dev-39")
    assert record["members"] == sorted(f"dev-{i}" for i in range(40)) and record["partitions"] == [0, 1]
    for said in ("40 devices together since 2023-11-14T22:13:20Z: t rose", "firmware 2.1", "edge 1", "was 30", "20"):
        assert said in record["explanation"]
    assert grouping.totals.opened == {"field": 1, "interval": 0, "size": 0, "fleet": 0}


def test_devices_that_follow_join_it_and_it_closes_after_a_quiet_time():
    grouping = fed(*(flag(f"dev-{i}") for i in range(5)), settle_s=1)
    grouping.absorb(flag("dev-9", at_s=50))
    assert [one.what.members.count for one in grouping.settle(at(62))] == [6]
    grouping.absorb(flag("dev-0", feature="humidity", at_s=70))  # along with the rest, of a device that is in it
    grouping.settle(at(130))
    (incident,) = grouping.open()
    assert incident.what.features == ("humidity", "t") and incident.what.flags == 7
    assert grouping.settle(at(70 + 599)) == []
    (closed,) = grouping.settle(at(70 + 600))
    assert shown(closed)["state"] == "closed" and "over after 11.2 min" in shown(closed)["explanation"]
    assert closed.revision == 4
    for i in range(5):
        grouping.absorb(flag(f"dev-{i}", at_s=900))
    (again,) = grouping.settle(at(901))
    assert again.id != closed.id and "1 like it before" in shown(again)["explanation"]


def test_one_stuck_sensor_is_one_incident_of_one_device():
    grouping = fed(flag("dev-7", cause="stuck"), settle_s=1)
    assert grouping.open() == []  # others may come within the window
    grouping.absorb(flag("dev-7", feature="payload_bytes", cause="stuck", at_s=12))
    grouping.settle(at(31))
    grouping.absorb(flag("dev-7", at_s=200, cause="jump"))
    grouping.settle(at(201))
    (incident,) = grouping.open()
    record = shown(incident)
    assert (record["type"], record["devices"], record["flags"]) == ("device", 1, 3)
    assert record["explanation"].startswith("dev-7 since 2023-11-14T22:13:20Z: ")


def test_the_first_device_of_a_group_does_not_make_a_second_incident():
    grouping = fed(flag("dev-0", cause="stuck"), settle_s=1)
    grouping.settle(at(31))
    assert [one.kind for one in grouping.open()] == ["device"]
    for i in range(1, 20):
        grouping.absorb(flag(f"dev-{i}", cause="stuck", at_s=40))
    grouping.settle(at(41))
    (incident,) = grouping.open()
    assert (incident.kind, incident.what.members.count, incident.revision) == ("group", 20, 2)


@pytest.mark.parametrize("late_s", [5, 31, 3600])
def test_a_leader_that_is_late_groups_the_same_flags(late_s):
    grouping = fed(*(flag(f"dev-{i}", at_s=i, score=20.0) for i in range(5)), settle_s=5 + late_s)
    (incident,) = grouping.open()
    assert (incident.kind, incident.what.members.count) == ("group", 5)


def test_flags_further_apart_than_a_window_are_no_group_however_late_the_leader_is():
    grouping = fed(*(flag(f"dev-{i}", at_s=40 * i, score=20.0) for i in range(5)), settle_s=3600)
    assert [one.kind for one in grouping.open()] == ["device"] * 5


def test_a_flag_from_the_future_does_not_keep_the_others_from_a_group():
    flags = [flag(f"dev-{i}", score=20.0) for i in range(5)]
    grouping = fed(*flags, flag("dev-9", at_s=1e8), settle_s=1)
    assert [one.kind for one in grouping.open()] == ["group"]


def test_two_features_of_the_same_devices_are_one_incident():
    both = [flag(f"dev-{i}", feature=name, at_s=i / 10) for i in range(10) for name in ("t", "humidity")]
    (incident,) = fed(*both, settle_s=2).open()
    assert incident.what.features == ("humidity", "t") and incident.what.members.count == 10


def test_different_devices_with_different_features_are_two():
    flags = [flag(f"a-{i}") for i in range(5)] + [flag(f"b-{i}", feature="rpm") for i in range(5)]
    assert sorted(one.feature for one in fed(*flags).open()) == ["rpm", "t"]


def test_single_mild_flags_are_no_incident_and_raise_what_a_group_needs():
    grouping = Grouping(RULES)
    for i in range(2000):
        grouping.absorb(flag(f"dev-{i}", feature=f"f{i % 400}", at_s=i * 3))
        grouping.settle(at(i * 3 + 1))
    assert grouping.incidents == {} and grouping.totals.alone > 1900
    for i in range(8):  # of 10 in a window by chance: less than is worth a word
        grouping.absorb(flag(f"x-{i}", at_s=6001))
    grouping.settle(at(6002))
    assert grouping.open() == []
    for i in range(40):
        grouping.absorb(flag(f"y-{i}", at_s=6003))
    grouping.settle(at(6004))
    assert [one.what.members.count for one in grouping.open()] == [48]


def test_muted_flags_are_counted_only():
    grouping = Grouping(RULES)
    for i in range(9):
        grouping.absorb(flag(f"dev-{i}", cause="stuck"), muted=True)
    grouping.settle(at(60))
    assert grouping.incidents == {} and (grouping.totals.muted, grouping.totals.flags) == (9, 9)


def test_the_fleet_has_one_incident_and_rhythms_join_it():
    grouping = Grouping(RULES)
    for i in range(20):
        rate = FlagSeen("", "frames_per_s", "pause", at(i), 10.0 + i, 40.0 - i, 400.0)
        grouping.fleet(rate, at(i))
        grouping.absorb(flag(f"dev-{i}", feature="interval_s", cause="interval", at_s=i))
        grouping.settle(at(i))
    (incident,) = grouping.open()
    record = shown(incident)
    assert (record["type"], record["devices"], record["feature"]) == ("fleet", 20, "frames_per_s")
    assert not {"partition", "edge", "firmware"} & set(facts(record)), "the whole fleet is in no partition"
    assert "21 frames/s, expected about 400 (29 times less)" in record["explanation"]
    grouping.close(incident, at(60))
    assert [one.closed_ms for one in grouping.settle(at(60))] == [at(60)]


def test_memory_is_bounded_against_hostile_devices():
    grouping = Grouping(RULES)
    for i in range(3 * MAX_PENDING):
        grouping.absorb(flag(f"x{i}", feature=f"name-{i}\x1b[31m", cause="stuck"))
    assert len(grouping.state()["pending"]) <= 256
    grouping.settle(at(31))
    assert len(grouping.open()) == MAX_OPEN
    assert grouping.totals.skipped == 3 * MAX_PENDING - MAX_OPEN
    assert "\x1b" not in "".join(shown(one)["explanation"] for one in grouping.open())
    many = fed(*(flag(f"d{i}", feature="t", partition=i, edge=i, firmware=str(i)) for i in range(1000)))
    (incident,) = many.open()
    record = shown(incident)
    assert len(record["members"]) == MEMBERS and 800 <= record["devices"] <= 1200 and not record["devices_exact"]
    assert len(record["partitions"]) == FEW and record["more"] == ["partitions", "edges", "firmwares"]
    assert len(orjson.dumps(incident.state())) < 16_000


def test_closed_incidents_are_forgotten_in_order():
    grouping = Grouping(Rules(quiet_ms=1000, window_ms=0))
    for i in range(MAX_CLOSED + 10):
        grouping.absorb(flag(f"d{i}", cause="stuck", at_s=10 * i))
        grouping.settle(at(10 * i))
        grouping.settle(at(10 * i + 5))
    assert len(grouping.incidents) == MAX_CLOSED
    assert len(grouping.take_forgotten()) == 10 and grouping.take_forgotten() == []


def test_state_goes_on_where_it_was():
    grouping = fed(*(flag(f"dev-{i}", score=7 + i) for i in range(5)), flag("x", cause="stuck"), settle_s=1)
    text = orjson.dumps([grouping.state(), [one.state() for one in grouping.incidents.values()]])
    other = Grouping(RULES)
    other.restore(*orjson.loads(text))
    for each in (grouping, other):
        each.absorb(flag("dev-9", at_s=20))
    assert [shown(one) for one in grouping.settle(at(62))] == [shown(one) for one in other.settle(at(62))]
    assert grouping.state() == other.state() and len(other.open()) == 2


@pytest.mark.parametrize("record", [{}, {"v": 2}, {"v": 1}, {"v": 1, "what": {"flags": 1}}])
def test_a_foreign_record_is_no_incident(record):
    with pytest.raises(ValueError, match=r"incident|summary"):
        incident_of(record)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"[]", b'{"kind":"incident","device_id":"a"}', b'{"kind":"flag"}', b"\xff", b'{"kind":"flag",'
     b'"device_id":"a","feature":"t","cause":"level","score":"high"}'],
)  # fmt: skip
def test_what_is_no_flag_is_passed_over(value):
    assert read_flag(value, 0, T0) is None


def test_a_flag_of_a_record():
    body = {"kind": "flag", "device_id": "a", "feature": "t", "cause": "hour", "score": 8.2, "value": 80, "edge": 3}
    found = read_flag(orjson.dumps(body | {"expected": None, "firmware": "1.2", "explanation": "x" * 999}), 5, T0)
    assert found is not None and (found.value, found.expected, found.edge, found.partition) == (80.0, None, 3, 5)
    assert found.firmware == "1.2" and len(found.explanation) == 400


def test_numbers_that_no_calendar_holds_are_none_of_a_flag():
    body = {
        "kind": "flag",
        "device_id": "a",
        "feature": "t",
        "cause": "hour",
        "score": 8.2,
        "before": -1,
        "edge": 1 << 60,
    }
    found = read_flag(orjson.dumps(body), 0, -1)
    assert found is not None and (found.before, found.edge, found.at_ms) == (0, None, 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(((name,), bad) for name in ("opened_ms", "closed_ms", "revision") for bad in ("1", -1, 1.5, 1 << 62, None)),
        *(((name,), bad) for name in ("id", "kind", "feature") for bad in (None, 7, ["device"])),
        *((("what", "first", name), 1 << 62) for name in ("at_ms", "before", "partition", "edge")),
        *((("what", "worst", name), []) for name in ("score", "value", "explanation", "device")),
        (("what", "newest_ms"), -5),
    ],
)
def test_an_incident_that_no_leader_wrote_is_refused(place: tuple[str, ...], value: object):
    group = fed(flag("dev-7", cause="stuck"))
    group.settle(at(31))
    record = orjson.loads(orjson.dumps(group.open()[0].state()))
    assert incident_of(record).id
    inner = record
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=r"no|neither"):
        incident_of(record)


def test_the_facts_of_an_incident_are_those_that_the_language_knows():
    flags = [flag(f"dev-{i}", score=6.0 + i, partition=3) for i in range(4)]
    known = facts(shown(fed(*flags).open()[0]))
    assert known["devices"] == 4 and known["partition"] == 3 and known["worst"] == "dev-3" and "device" not in known
    alone = fed(flag("dev-7", cause="stuck"))
    alone.settle(at(31))
    assert facts(shown(alone.open()[0]))["device"] == "dev-7"


DAY_S = 86_400


def test_a_clock_that_was_a_day_ahead_and_was_set_back_keeps_nothing_open_or_quiet():
    grouping = fed(*(flag(f"dev-{i}", at_s=DAY_S) for i in range(5)), settle_s=DAY_S)
    for i in range(40):  # single flags, which raise the number of devices that a group needs
        grouping.absorb(flag(f"lone-{i}", feature=f"f{i}", at_s=DAY_S))
    grouping.absorb(flag("waiting", feature="w", at_s=DAY_S + 50))
    grouping.settle(at(DAY_S + 40))
    (incident,) = grouping.open()
    grouping.settle(at(0))  # the clock is right again
    assert shown(incident)["opened_at"] == incident.what.newest_ms == at(0)
    grouping.settle(at(31))
    assert grouping.state()["pending"] == [], "what waited is decided"
    (closed,) = grouping.settle(at(RULES.quiet_ms / 1000))
    assert closed is incident and "over after 10 min" in shown(closed)["explanation"]
    for i in range(3):
        grouping.absorb(flag(f"dev-{i}", feature="t", at_s=7200))
    grouping.settle(at(7200))
    assert len(grouping.open()) == 1, "the single flags are forgotten"


def test_flags_a_little_ahead_of_this_clock_keep_their_time():
    grouping = fed(*(flag(f"dev-{i}", at_s=20) for i in range(5)), settle_s=0)
    assert [one.what.newest_ms for one in grouping.open()] == [at(20)]


def test_noise_fades_again_after_a_clock_that_was_a_day_ahead():
    """Otherwise every single flag of that day would raise the number of devices that an incident needs."""
    grouping = fed(settle_s=0)
    grouping.settle(at(86_400))
    grouping.restore(grouping.state() | {"noise": {"value": 10.0}}, [])
    grouping.settle(at(1))
    grouping.settle(at(1 + 1800))
    assert grouping.state()["noise"]["value"] == pytest.approx(5.0)
