"""Names of payload fields: their text, which of them a lane keeps, and that views and anomaly records agree."""

import numpy as np
import orjson
import pytest

from klais.core.lane.checkpoint import decode_marker, encode_marker, restore, snapshot
from klais.core.lane.names import KEEP_NS, MAX_NAMES, NEW_NAMES, NameTable
from klais.core.lane.render import MAX_ANOMALY_BYTES, anomaly_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step, take_raw
from klais.core.wire.json_locate import field_name
from klais.core.wire.json_path import MAX_DEPTH, MAX_NAME_BYTES, hash_path, path_name
from klais.worker.web.device import profile
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored

S = 1_000_000_000


def take(state: LaneState, *parts: tuple[str, int, bytes], at_ns: int = T0_NS) -> Step:
    """One batch of frames (device, sequence, payload), received and decided at ``at_ns``."""
    n = state.next_raw
    return take_raw(state, n, batch(frames(*parts), n, at_ns), limits(), bounds(), at_ns)


def members(names: list[str]) -> bytes:
    return orjson.dumps(dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ([b"t"], "t"),
        ([b""], ""),
        ([b"", b""], "."),
        ([b"pos", b"x"], "pos.x"),
        ([rb"\u00e9\n\"\\"], 'é\ufffd"\\'),
        ([rb"\ud83d\ude00"], "😀"),
        ([rb"a\ud800"], "a\ufffd"),
        ([b"\xc3\xa9" * 60], "é" * 60),
        ([b"\xc3\xa9" * 61], "é" * 58 + "…"),
        ([b"k" * 120], "k" * 120),
        ([b"k" * 121], "k" * 117 + "…"),
        ([b"a\xc3"], "a"),  # what a cut leaves behind
        ([b"a\\"], "a"),
        ([rb"a\u00e"], "a"),
        ([rb"a\\\u"], "a\\"),
    ],
)
def test_text_of_a_name(keys: list[bytes], name: str) -> None:
    assert path_name(b".".join(keys)) == name
    assert len(name.encode()) <= MAX_NAME_BYTES


LONG = [[b"a" * 60_000], [b"a" * 400] * MAX_DEPTH, [rb"\u00e9" * 5_000], [b""] * MAX_DEPTH, [b"\xf0\x9f\x98\x80" * 99]]


@pytest.mark.parametrize("keys", LONG)
def test_a_name_from_a_payload_is_that_of_its_keys(keys: list[bytes]) -> None:
    payload = b"".join(b'{"%s":' % key for key in keys) + b"1" + b"}" * len(keys)
    found = field_name(np.frombuffer(payload, np.uint8), 0, len(payload), 0, hash_path(keys))
    assert found == path_name(b".".join(keys))


def test_a_field_that_is_not_there_has_no_name() -> None:
    payload = np.frombuffer(b'{"a":1,"b":[2],"c":"d","e":1e999}', np.uint8)
    assert field_name(payload, 0, len(payload), 0, hash_path([b"a"])) == "a"
    assert field_name(payload, 0, len(payload), 1, hash_path([b"b"])) is None
    assert field_name(payload, 0, len(payload), 0, hash_path([b"b"])) is None


def test_a_step_reads_a_few_names_and_later_steps_the_others() -> None:
    state = scored()
    one, other = members(list("abcdefgh")), members(list("Abcdefgh"))
    take(state, ("dev-1", 1, one), ("dev-2", 1, other))
    assert len(state.path_names) == NEW_NAMES
    take(state, ("dev-1", 2, one), ("dev-2", 2, other))
    assert set(state.path_names.values()) == {*"Aabcdefgh"}


def test_only_fields_of_a_profile_get_a_name() -> None:
    state = scored()
    for i in range(4):
        take(state, ("dev-1", i, members([f"k{k}" for k in range(16)])))
    assert sorted(state.path_names.values()) == [f"k{k}" for k in range(8)]


def test_which_names_come_first_differs_from_step_to_step() -> None:
    firsts = set()
    for skip in range(8):
        state = scored()
        for _ in range(skip):
            take(state, ("other", 1, b"{}"))
        take(state, *((f"dev-{d}", 1, members([f"{d}-{k}" for k in range(8)])) for d in range(8)))
        firsts.add(next(iter(state.path_names.values())).split("-")[0])
    assert len(firsts) > 2


def crowd(state: LaneState, first: int, count: int, at_ns: int) -> None:
    """``count`` invented devices, each with 8 names of its own; one batch a device, for 8 names a step."""
    for d in range(first, first + count):
        take(state, (f"junk-{d}", 1, members([f"junk {d} {k}" for k in range(8)])), at_ns=at_ns)


def test_invented_names_push_out_no_name_in_use_and_leave_when_they_stop() -> None:
    state = scored()
    take(state, ("real", 1, b'{"t":1}'))
    for k in range(3):
        at_ns = T0_NS + k * (KEEP_NS // 2)
        crowd(state, 100 * k, 100, at_ns)
        take(state, ("real", 2 + k, b'{"t":1}'), at_ns=at_ns)
        assert "t" in state.path_names.values()
        assert len(state.path_names) <= MAX_NAMES
    assert len(state.path_names) == MAX_NAMES
    late = T0_NS + 2 * KEEP_NS + S
    take(state, ("real", 9, b'{"t":1}'), ("new", 1, b'{"humidity":1}'), at_ns=late - 2 * S)
    take(state, ("new", 2, b'{"humidity":1}'), at_ns=late)
    assert {"t", "humidity"} <= set(state.path_names.values())
    assert len(state.path_names) == MAX_NAMES


def test_a_full_table_of_names_in_use_lets_new_ones_wait() -> None:
    state = scored()
    crowd(state, 0, MAX_NAMES // 8, T0_NS)
    take(state, ("new", 1, b'{"humidity":1}'))
    assert "humidity" not in state.path_names.values()
    (flagged,) = profile(state.detector.features(state.find(b"new")), state.path_names)[1:]
    assert flagged["feature"] == f"#{hash_path([b'humidity']) & 0xFFFFFFFF:08x}"


def flagged_record(key: bytes) -> tuple[LaneState, bytes]:
    """A device whose only field has this key (raw bytes), and the record of a flag on it."""
    state = scored()
    for i in range(40):
        take(state, ("\x01" * 16, i, b'{"%s":%d}' % (key, i % 3)), at_ns=T0_NS + i * S)
    last = b'{"%s":-1.2345678901234567e300,"fw":"%s"}' % (key, rb"\"" * 32)
    step = take(state, ("\x01" * 16, 40, last), at_ns=T0_NS + 40 * S)
    ((_, value, _, _),) = anomaly_records(step)
    return state, value


KEYS = [b"", b"t", rb"\u0000", b'\\"' * 60, b"k" * 60_000, rb"\u00e9" * 9_000, b"\xf0\x9f\x98\x80" * 99]


@pytest.mark.parametrize("key", KEYS)
def test_views_and_anomaly_records_give_one_name_and_records_stay_small(key: bytes) -> None:
    state, value = flagged_record(key)
    seen = profile(state.detector.features(state.find(b"\x01" * 16)), state.path_names)
    assert orjson.loads(value)["feature"] == seen[2]["feature"] == path_name(key)
    assert len(value) <= MAX_ANOMALY_BYTES


def test_names_survive_a_checkpoint_and_the_marker_stays_small() -> None:
    state = scored()
    names = {k: '"' * MAX_NAME_BYTES for k in range(1, MAX_NAMES + 50)}
    state.path_names = NameTable(names)
    marker = encode_marker(snapshot(state), 0, {}, 4)
    assert len(marker) < 300_000
    found = restore(decode_marker(marker), state.rows[:0]).path_names
    assert dict(found) == dict(state.path_names) and len(found) == MAX_NAMES


def test_a_replay_gives_the_same_records_whatever_names_it_knows() -> None:
    live, again = scored(), LaneState()
    again.path_names = NameTable({hash_path([b"pos", b"x"]) & 0xFFFFFFFF: "another name"})
    for i in range(41):
        value = batch(frames(("dev-1", i, b'{"t":1,"pos":{"x":%d}}' % (i % 3 if i < 40 else 99))), i, T0_NS + i * S)
        step = take_raw(live, i, value, limits(), bounds(), T0_NS + i * S)
        records = list(anomaly_records(replay(again, step.record, value)))
        assert records == list(anomaly_records(step))
    assert [orjson.loads(value)["feature"] for _, value, _, _ in records] == ["pos.x"]
