"""Numeric fields as columns: paths, values, order, limits, roll back."""

import math

import numpy as np
import pytest

from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.json_path import ROOT_HASH, extend_hash, hash_path
from klais.core.wire.json_scan import MAX_DEPTH, MAX_FIELDS_PER_FRAME, _read_key, check_payloads, scan_payloads
from tests.support.json_twin import numeric_paths, path_text


def fields(payload: bytes) -> list[tuple[str, float]]:
    reason, found = check_payloads([payload])[0]
    assert reason == Reason.PASSED
    return [(path_text(payload, path), value) for path, value in found]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"t":21.53,"h":48.2,"b":3.71,"s":1}', [("t", 21.53), ("h", 48.2), ("b", 3.71), ("s", 1.0)]),
        (b'{"t":2.5,"pos":{"x":1,"y":{"z":-2e-1}},"u":3}', [("t", 2.5), ("pos.x", 1), ("pos.y.z", -0.2), ("u", 3)]),
        (b'{"a":[1,{"b":2},[3]],"c":4,"d":{"e":[5],"f":6}}', [("c", 4.0), ("d.f", 6.0)]),
        (b'{"a":true,"b":false,"c":null,"d":"7","e":{}}', []),
        (b'{"a":1,"a":2}', [("a", 1.0), ("a", 2.0)]),
        (b'{"a":1e400,"b":-1e400,"c":1e308}', [("c", 1e308)]),
        (b'{"":1,"\\u00e9":2,"\xc3\xa9":3,"\\"":4}', [("", 1.0), ("é", 2.0), ("é", 3.0), ('"', 4.0)]),
        (b' { "a" :\t1 ,\r\n"b" : { "c" : 2 } } ', [("a", 1.0), ("b.c", 2.0)]),
        (b'{"a:b,{}[]\\\\":1,"x":{"\\"}":2}}', [("a:b,{}[]\\", 1.0), ('x."}', 2.0)]),
        (b'{"\\ud800":1}', [("?", 1.0)]),
    ],
)
def test_fields_of_a_payload(payload: bytes, expected: list[tuple[str, float]]) -> None:
    assert fields(payload) == expected


def test_the_first_16_fields_are_emitted_and_the_rest_is_checked() -> None:
    body = ",".join(f'"k{i}":{i}' for i in range(MAX_FIELDS_PER_FRAME + 4))
    assert [value for _, value in fields(f"{{{body}}}".encode())] == list(range(MAX_FIELDS_PER_FRAME))
    assert check_payloads([f"{{{body},}}".encode()]) == [(Reason.BAD_JSON, [])]


def test_numbers_that_are_not_emitted_do_not_use_up_the_16() -> None:
    body = '"a":[1,2,3],"b":1e999,' * 10 + ",".join(f'"k{i}":{i}' for i in range(MAX_FIELDS_PER_FRAME))
    assert [value for _, value in fields(f"{{{body}}}".encode())] == list(range(MAX_FIELDS_PER_FRAME))


def test_depth_counts_the_payload_itself() -> None:
    deepest = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert fields(deepest) == [(".".join("a" * MAX_DEPTH), 1.0)]
    assert check_payloads([b'{"a":' + deepest + b"}"]) == [(Reason.TOO_DEEP, [])]
    wide = b'{"a":[' + b",".join([b"[" * 30 + b"]" * 30] * 50) + b'],"b":1}'
    assert fields(wide) == [("b", 1.0)]
    assert check_payloads([wide.replace(b"[]", b"[{}]", 1)]) == [(Reason.TOO_DEEP, [])]


def test_which_refusal_comes_first() -> None:
    deep = b"[" * 33
    expected = {
        b'{"a":x,"b":' + deep: Reason.BAD_JSON,
        b'{"a":' + deep + b",x": Reason.TOO_DEEP,
        b'{"a":x,"b":"\xff"}': Reason.BAD_UTF8,
        b'{"a":' + deep + b"\xff": Reason.BAD_UTF8,
        b'\xff{"a":1}': Reason.BAD_UTF8,
        b"[]x": Reason.BAD_JSON,
        b"[1]\n": Reason.NOT_OBJECT,
    }
    assert [reason for reason, _ in check_payloads(list(expected))] == list(expected.values())


def test_a_refused_frame_emits_nothing_and_a_judged_frame_is_left_alone() -> None:
    payloads = [b'{"a":1,"b":2', b'{"c":3}', b'{"d":4}', b'[{"e":5}]', b"6", b'{"f":7,"g":8}', b""]
    frames = [encode_frame("dev-1", i, payload) for i, payload in enumerate(payloads)]
    buf = np.frombuffer(b"".join(frames), np.uint8)
    lengths = np.array([len(frame) for frame in frames], np.int64)
    starts = np.cumsum(lengths) - lengths
    lengths[1] = 3  # too short to have a payload: the header check said so
    cap = len(frames) * MAX_FIELDS_PER_FRAME
    frame, path, value = np.full(cap, -1, np.int32), np.zeros(cap, np.uint64), np.zeros(cap)
    reason = np.zeros(len(frames), np.uint8)
    reason[1] = Reason.TOO_SHORT
    assert scan_payloads(buf, starts, lengths, reason, frame, path, value) == 3
    none, bad, other = Reason.PASSED, Reason.BAD_JSON, Reason.NOT_OBJECT
    assert reason.tolist() == [bad, Reason.TOO_SHORT, none, other, other, none, bad]
    assert frame[:4].tolist() == [2, 5, 5, -1]
    assert value[:3].tolist() == [4.0, 7.0, 8.0]
    assert path[:3].tolist() == [hash_path([b"d"]), hash_path([b"f"]), hash_path([b"g"])]


def test_an_empty_batch_and_header_only_frames() -> None:
    assert check_payloads([]) == []
    assert check_payloads([b"", b" \n"]) == [(Reason.BAD_JSON, []), (Reason.BAD_JSON, [])]


def test_hash_is_fnv_1a_with_a_separator_before_each_key() -> None:
    def fnv_1a(data: bytes) -> int:
        value = 14695981039346656037
        for byte in data:
            value = (value ^ byte) * 1099511628211 % 2**64
        return value

    assert fnv_1a(b"foobar") == 0x85944171F73967E8  # the authors' test vector
    assert hash_path([b"pos", b"x"]) == fnv_1a(b"\x1fpos\x1fx")
    assert len({hash_path(keys) for keys in ([b"a", b"b"], [b"a.b"], [b"ab"], [b"b", b"a"], [b"a", b"", b"b"])}) == 5


def test_neither_a_hash_nor_its_low_half_is_zero() -> None:
    prime = 0x100000001B3
    back = pow(prime, -1, 2**64)
    for target in (0, 7 << 32):  # go back from the hash that is wanted
        prefix = target * back % 2**64 ^ ord("k")
        assert extend_hash(prefix * back % 2**64 ^ 0x1F, b"k") == target | 1
        assert _read_key(np.frombuffer(b'"k":', np.uint8), 0, 4, np.uint64(prefix)) == (4, target | 1)
    assert ROOT_HASH & 0xFFFFFFFF


def test_path_text_of_an_unknown_path() -> None:
    assert path_text(b'{"a":1,"b":[2],"c":"d"}', hash_path([b"b"])) == "?"
    assert path_text(b"{}", 1) == "?"


def test_numeric_paths_gives_the_text_of_numbers() -> None:
    payload = b'{"a": -1.50e+3 ,"b":{"c":[9,{"d":9}],"e":"1","f":0}}'
    assert list(numeric_paths(payload)) == [([b"a"], b"-1.50e+3"), ([b"b", b"f"], b"0")]


def test_minus_zero_keeps_its_sign() -> None:
    [(_, value)] = fields(b'{"a":-0.0}')
    assert math.copysign(1, value) == -1
