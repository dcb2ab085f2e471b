"""135,000 generated and mutated payloads: our verdict and fields against ``json.loads`` made strict, and against
orjson.

The classes in which the judges differ by choice are named here and excluded exactly: orjson refuses an escaped lone
surrogate and a number beyond the range of doubles, both of which the grammar allows.
"""

import json
import math
import random
from typing import Any, NoReturn

import orjson
import pytest

from klais.core.wire.constants import Reason
from klais.core.wire.json_path import hash_path
from klais.core.wire.json_scan import MAX_DEPTH, MAX_FIELDS_PER_FRAME, check_payloads

BATCHES, BATCH = 45, 3_000
STRINGS = ["", "a", "temperature", "é", "日本", "𝄞", "a b", "x.y", "\\n", "\\u00e9", "\\ud83d\\ude00", "\\ud800"]
STRINGS += ['\\"', "\\\\", "\\/"]
NUMBERS = ["0", "-0", "1", "21.53", "-3.5e-7", "1E+2", "1e400", "-1e999", "9007199254740993", "0.30000000000000004"]
NOISE = [bytes([byte]) for byte in b'"\\{}[]:,-+.eE0129 \t\n\r\x00\x1f\x7fanN\x80\xbf\xc2\xed\xf4\xff'] + [
    b"NaN", b"-Infinity", b"null", b"tru", b"\\u12", b"\\ud800", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"/*x*/",
    b"1e999", b"[" * 33,
]  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """Members of an object, duplicates kept."""


def refuse(name: str) -> NoReturn:
    raise ValueError(name)


def number(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(NUMBERS)
    if kind < 0.6:
        return f"{rng.uniform(-100, 100):.2f}"
    return (
        repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300)) if kind < 0.8 else str(rng.randrange(-1000, 1000))
    )


def document(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random() if depth else 0.0
    gap = rng.choice(["", "", "", " ", "\n\t"])
    if kind < 0.25 and depth < 5:
        keys = rng.choices(STRINGS, k=rng.randrange(5))
        return "{" + gap + f"{gap},".join(f'"{key}"{gap}:{gap}{document(rng, depth + 1)}' for key in keys) + gap + "}"
    if kind < 0.35 and depth < 5:
        return "[" + gap + ",".join(document(rng, depth + 1) for _ in range(rng.randrange(4))) + gap + "]"
    if kind < 0.8:
        return number(rng)
    return f'"{rng.choice(STRINGS)}{rng.choice(STRINGS)}"' if kind < 0.9 else rng.choice(["true", "false", "null"])


def mutated(rng: random.Random, payload: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 3])):
        a = rng.randrange(len(payload) + 1)
        b = min(len(payload), a + rng.randrange(4))
        kind = rng.randrange(5)
        if kind == 0:
            payload = payload[:a] + payload[b:]
        elif kind == 1:
            payload = payload[:a] + rng.choice(NOISE) + payload[a:]
        elif kind == 2:
            payload = payload[:a] + rng.choice(NOISE) + payload[b:]
        elif kind == 3:
            payload = payload[:a] + payload[a:b] * 2 + payload[b:]
        else:
            payload = payload[:a] + rng.randbytes(1) + payload[a + 1 :] if rng.random() < 0.5 else payload[: max(a, 1)]
    return payload


def batch(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    whole = [document(rng, depth=rng.choice([0, 0, 0, 1])).encode() for _ in range(BATCH // 3)]
    deep = [b'{"a":' * n + b"[1]" + b"}" * n for n in range(MAX_DEPTH - 3, MAX_DEPTH + 3)]
    return whole + [mutated(rng, rng.choice(whole + deep * 10)) for _ in range(BATCH - len(whole))]


def depth_of(value: Any) -> int:
    if isinstance(value, Pairs):
        return 1 + max((depth_of(member) for _, member in value), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def fields_of(members: Pairs, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], float]]:
    found = []
    for key, value in members:
        if isinstance(value, Pairs):
            found += fields_of(value, (*keys, key))
        elif isinstance(value, float) and math.isfinite(value):
            found.append(((*keys, key), value))
    return found


def judge(payload: bytes) -> tuple[set[Reason], Any]:
    """Verdicts that are right, and the value."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {Reason.BAD_UTF8}, None
    try:
        value = json.loads(text, object_pairs_hook=Pairs, parse_int=float, parse_constant=refuse)
    except ValueError:
        too_deep = text.count("{") + text.count("[") > MAX_DEPTH  # perhaps, before the fault
        return {Reason.BAD_JSON, Reason.TOO_DEEP} if too_deep else {Reason.BAD_JSON}, None
    if depth_of(value) > MAX_DEPTH:
        return {Reason.TOO_DEEP}, None
    return ({Reason.PASSED}, value) if isinstance(value, Pairs) else ({Reason.NOT_OBJECT}, None)


def excluded_from_orjson(payload: bytes) -> bool:
    """Whether a valid text holds an escaped lone surrogate or a number beyond the range of doubles."""
    value = json.loads(payload.decode(), object_pairs_hook=Pairs, parse_int=float)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return True
    return False


def orjson_accepts(payload: bytes) -> bool:
    try:
        orjson.loads(payload)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("seed", range(BATCHES))
def test_verdicts_and_fields(seed: int) -> None:
    payloads = batch(seed)
    seen = set()
    for payload, (reason, found) in zip(payloads, check_payloads(payloads), strict=True):
        right, members = judge(payload)
        assert reason in right, payload
        seen.add(reason)
        ours = reason in (Reason.PASSED, Reason.NOT_OBJECT)
        if reason != Reason.TOO_DEEP and orjson_accepts(payload) != ours:
            assert ours and excluded_from_orjson(payload), payload
        expected = fields_of(members)[:MAX_FIELDS_PER_FRAME] if reason == Reason.PASSED else []
        for (_, value), (_, true) in zip(found, expected, strict=True):
            assert value == true or abs(value - true) <= math.ulp(true), payload
        if b"\\" not in payload:  # then keys stand in the payload as they are
            paths = [hash_path([key.encode() for key in keys]) for keys, _ in expected]
            assert [path for path, _ in found] == paths, payload
    assert seen == {Reason.PASSED, Reason.BAD_UTF8, Reason.BAD_JSON, Reason.NOT_OBJECT, Reason.TOO_DEEP}
