"""Types of devices in a lane: changes, impersonations, unknown fields; without a model; saved, forgotten, replayed."""

import numpy as np
import orjson
import pytest

from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.two_tier import TwoTier
from klais.core.fingerprint.record import DeviceTypes
from klais.core.fingerprint.typed import TAIL_SIZE, Typed, TypesInUse
from klais.core.lane.render import MAX_ANOMALY_BYTES
from klais.core.lane.state import LaneState
from klais.worker.web.device import newest_flag, type_of
from tests.support.device_types import KINDS, TypedLane, some_types

WITHIN = 50


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> DeviceTypes:
    return some_types(tmp_path_factory.mktemp("types"))


@pytest.fixture
def lane(types: DeviceTypes) -> TypedLane:
    out = TypedLane(TypesInUse(types), seed=7)
    for kind in KINDS:
        assert out.be(f"{kind}-a", kind, 60) is None
    return out


def test_devices_have_the_types_that_their_fields_say(lane: TypedLane) -> None:
    facts = [lane.facts(f"{kind}-a") for kind in KINDS]
    assert [at.type for at in facts] == list(KINDS)
    assert [round(at.interval_s / 10) for at in facts] == [6, 1, 2]
    assert all(at.interval_cv < 0.1 and at.bytes > 30 for at in facts)
    assert lane.detector.counted() == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize("other", ["camera", "tracker"])
def test_a_device_that_becomes_another_one_is_flagged_once_with_a_sentence(lane: TypedLane, other: str) -> None:
    frames = lane.be("thermostat-a", other, WITHIN)
    assert frames is not None
    (flag,) = lane.flags
    assert (flag["feature"], flag["cause"], flag["type"], flag["type_before"]) == ("type", "type", other, "thermostat")
    assert f"this thermostat behaves like a {other} since " in flag["explanation"]
    assert flag["value"] is None and flag["expected"] is None
    row = lane.state.rows[lane.state.find(b"thermostat-a")]
    shown = newest_flag(row, lane.state.path_names)
    assert shown is not None and shown["explanation"] == flag["explanation"] and shown["feature"] == "type"
    assert lane.again.rows[lane.again.find(b"thermostat-a")].tobytes() == row.tobytes()
    assert lane.be("thermostat-a", other, 300) is None, "one change, one flag"
    body = type_of(lane.facts("thermostat-a"))
    assert body is not None and (body["name"], body["before"]) == (other, "thermostat")


def test_frames_of_another_type_between_its_own_are_an_impersonation(lane: TypedLane) -> None:
    flags: list[dict] = []
    for n in range(WITHIN):
        payload, _ = KINDS["camera" if n % 2 else "thermostat"]
        flags = lane.send("thermostat-a", payload(lane.rng), 30.0)
        if flags:
            break
    assert [(flag["feature"], flag["cause"]) for flag in flags] == [("type", "impersonation")]
    assert "frames like those of a camera come between those of this thermostat" in flags[0]["explanation"]


def test_another_type_that_sends_one_frame_in_ten_is_an_impersonation(lane: TypedLane) -> None:
    flags: list[dict] = []
    for n in range(4 * WITHIN):
        payload, _ = KINDS["thermostat" if n % 10 else "camera"]
        flags = lane.send("thermostat-a", payload(lane.rng), 30.0)
        if flags:
            break
    assert [(flag["feature"], flag["cause"]) for flag in flags] == [("type", "impersonation")]


def test_fields_that_no_type_sends_are_a_fingerprint_of_nobody(lane: TypedLane) -> None:
    flags = [flag for n in range(WITHIN) for flag in lane.send("camera-a", b'{"xmr":%d,"pool":4}' % n, 10.0)]
    assert [(flag["feature"], flag["cause"]) for flag in flags] == [("fingerprint", "odd")]
    assert "this camera sends what neither it nor any known type sends" in flags[0]["explanation"]


def test_one_strange_frame_now_and_then_is_no_change(lane: TypedLane) -> None:
    for _ in range(20):
        assert lane.send("camera-a", KINDS["thermostat"][0](lane.rng), 10.0) == []
        assert lane.be("camera-a", "camera", 12) is None


def test_without_a_model_nobody_is_flagged_and_no_type_is_named() -> None:
    lane = TypedLane()
    assert lane.be("a", "thermostat", 60) is None and lane.be("a", "camera", 200) is None
    body = type_of(lane.facts("a"))
    assert body is not None and body["name"] is None and body["model"] is None and body["samples"] > 40


def test_a_device_that_is_like_none_is_unknown_and_may_stay_so(lane: TypedLane) -> None:
    for n in range(100):
        assert lane.send("new", b'{"soil":%d,"ec":5,"leaf":1}' % n, 300.0) == []
    assert lane.facts("new").type == "unknown"


def test_a_new_model_keeps_the_types_that_it_has_too(lane: TypedLane, types: DeviceTypes) -> None:
    order = [2, 0]
    names = tuple(types.names[at] for at in order)
    gone = next(name for name in types.names if name not in names)
    newer = DeviceTypes("newer", names, types.rates[order], types.interval[order], types.size[order], types.threshold)
    lane.in_use.set(newer)
    lane.send("thermostat-a", KINDS["thermostat"][0](lane.rng), 60.0)
    for kind in KINDS:
        assert lane.facts(f"{kind}-a").type == ("" if kind == gone else kind)
        lane.be(f"{kind}-a", kind, 40)
        assert lane.facts(f"{kind}-a").type == ("unknown" if kind == gone else kind)
    assert lane.flags == []
    lane.in_use.set(types)
    assert lane.be(f"{names[0]}-a", names[1], WITHIN) is not None


def test_a_type_is_saved_with_the_profile_and_found_again(types: DeviceTypes) -> None:
    def two_tier() -> Typed:
        return Typed(TwoTier(1 << 20, 10.0, CpuBudget(1.0, lambda: 0)), TypesInUse(types))

    lane = TypedLane(TypesInUse(types))
    lane.detector = two_tier()
    lane.state = LaneState(detector=lane.detector)
    lane.be("a", "camera", 60)
    lane.be("b", "tracker", 60)
    saved, following = lane.detector.dump_some(0, 10, 1 << 20)
    assert saved.row.tolist() == [0, 1] and following == 10
    values = [
        saved.buf[start : start + length].tobytes()
        for start, length in zip(saved.starts.tolist(), saved.lengths.tolist(), strict=True)
    ]
    value, after = values[0], two_tier()
    after.make_room(10)
    assert after.load(3, value) and after.load(4, values[1])
    assert after.facts(4, b"b").type == "tracker"  # type: ignore[union-attr]
    facts = after.facts(3, b"a")
    assert facts is not None and facts.type == "camera" and facts.since_s == lane.facts("a").since_s
    assert {feature.path for feature in after.features(3)} == {feature.path for feature in lane.detector.features(0)}
    assert (lane.detector.dump(0) or b"")[-TAIL_SIZE:] == value[-TAIL_SIZE:]
    for damaged in (value[:-1], value + b"x", b"", value[:40]):
        other = two_tier()
        other.make_room(10)
        assert not other.load(3, damaged) and other.facts(3, b"a") is None


def test_a_row_that_another_device_gets_begins_anew(lane: TypedLane) -> None:
    row = lane.state.find(b"camera-a")
    lane.state.forget(np.frombuffer(b"camera-a".ljust(16, b"\0"), np.uint8).reshape(1, 16), lane.state.step + 1)
    lane.be("fresh", "tracker", 3)
    assert lane.state.find(b"fresh") == row
    facts = lane.facts("fresh")
    assert facts.samples <= 3 and facts.type == ""


def test_records_stay_within_their_bound_whatever_types_are_called(types: DeviceTypes) -> None:
    names = tuple(("\U0001f600" * 9 + str(at)) for at in range(len(types.names)))
    longest = DeviceTypes("m", names, types.rates, types.interval, types.size, types.threshold)
    lane = TypedLane(TypesInUse(longest))
    lane.be("sixteen-bytes-id", "thermostat", 60)
    lane.be("sixteen-bytes-id", "camera", WITHIN)
    (flag,) = lane.flags
    assert len(orjson.dumps(flag)) <= MAX_ANOMALY_BYTES
