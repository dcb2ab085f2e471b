"""Strict payloads: what is refused, with which detail, and that the table of keys holds for any payload."""

import numpy as np
import pytest

from klais.core.lane.journal import decode_step, encode_step
from klais.core.lane.render import dead_letter_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.constants import Reason
from klais.core.wire.json_strict import Problem, _insert, problem_of
from tests.support.lane import T0_NS, batch, frames, limits, scored

NONE, DUPLICATE, SURROGATE, LONG = Problem


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"{}", NONE),
        (b'{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}', NONE),
        (b'{"a":1,"a":1}', DUPLICATE),
        (b'{"a":1,"\\u0061":1}', DUPLICATE),
        (b'{"\xf0\x9f\x98\x80":1,"\\uD83D\\ude00":1}', DUPLICATE),
        (b'{"":1,"":1}', DUPLICATE),
        (b'{"x":[[{"a":1,"b":2,"a":3}]]}', DUPLICATE),
        (b'{"a":{"b":1},"b":2,"a":3}', DUPLICATE),
        (b'{"\\/":1,"/":2}', DUPLICATE),
        (b'{"a":"\\ud83d\\ude00"}', NONE),
        (b'{"a":"\\ud83d"}', SURROGATE),
        (b'{"a":["\\ude00\\ud83d"]}', SURROGATE),
        (b'{"\\ud83d\\n":1}', SURROGATE),
        (b'{"a":' + b"1" * 40 + b"}", NONE),
        (b'{"a":' + b"1" * 41 + b"}", LONG),
        (b'{"a":[1,-0.' + b"1" * 38 + b"]}", LONG),
        (b'{"a":"' + b"1" * 100 + b'"}', NONE),
        (b'{"a":' + b"1" * 41 + b',"b":1,"b":1}', LONG),
    ],
)
def test_first_problem_of_a_payload(payload: bytes, problem: Problem) -> None:
    assert problem_of(payload) == problem


def test_the_largest_payload_of_different_keys_is_strict() -> None:
    keys = [b'"%x":0' % k for k in range(7_000)]
    payload = b"{" + b",".join(keys) + b"}"
    assert len(payload) < 65_507
    assert problem_of(payload) == NONE
    assert problem_of(payload[:-1] + b',"1b57":0}') == DUPLICATE


def test_a_crowded_table_ends_the_walk() -> None:
    keys, owner = np.zeros(8, np.uint64), np.zeros(8, np.int64)
    found = [int(_insert(keys, owner, 1, np.uint64(k))) for k in range(1, 9)]
    assert all(1 <= probes <= 8 for probes in found) and (owner == 1).all()
    assert int(_insert(keys, owner, 1, np.uint64(5))) < 0
    assert int(_insert(keys, owner, 1, np.uint64(99))) <= 8
    assert int(_insert(keys, owner, 2, np.uint64(5))) == 1  # the next frame begins with an empty table


def test_a_strict_lane_refuses_with_the_detail_and_replays_the_same() -> None:
    payloads = [b'{"t":1,"t":2}', b'{"t":3}', b'{"t":"\\udc00","u":4}', b'{"t":5', b'{"t":' + b"9" * 41 + b"}"]
    value = batch(frames(*(("dev-1", i, payload) for i, payload in enumerate(payloads))))
    live, loose, again = scored(), LaneState(), LaneState()
    step = take_raw(live, 0, value, limits(), Bounds(1000, 1000, strict=True), T0_NS)
    refused = Reason.NOT_STRICT
    assert step.record.verdict.tolist() == [refused, Reason.PASSED, refused, Reason.BAD_JSON, refused]
    told = [(dict(headers)["reason"], dict(headers).get("detail")) for _, _, headers, _ in dead_letter_records(step)]
    assert told == [
        (b"not_strict", b"duplicate_key"),
        (b"not_strict", b"lone_surrogate"),
        (b"bad_json", None),
        (b"not_strict", b"long_number"),
    ]
    open_step = take_raw(loose, 0, value, limits(), Bounds(1000, 1000), T0_NS)
    assert open_step.record.verdict.tolist() == [0, 0, 0, Reason.BAD_JSON, 0]
    replay(again, decode_step(encode_step(step.record)), value)
    assert again.rows[: again.used].tobytes() == live.rows[: live.used].tobytes()
    profile = live.detector.profiles[0]
    assert int(profile["slots"]) == 1 and int(profile["samples"][2]) == 1
    assert list(live.path_names.values()) == ["t"]
