"""The payload check against a naive twin: any bytes, any split of a batch, fields of any document."""

import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.wire.constants import Reason
from klais.core.wire.json_path import hash_path
from klais.core.wire.json_scan import MAX_FIELDS_PER_FRAME, check_payloads, scan_payloads
from tests.support.examples import examples
from tests.support.json_twin import numeric_paths, path_text

TOKENS = [bytes([byte]) for byte in b'{}[],:"\\ 1-\xc3\xa9'] + [
    b'"a"',
    b'"\\u00e9"',
    b".5",
    b"e9",
    b"true",
    b"{",
    b'"a":',
]
KEYS = st.text("abé\u2028 .{}[]:,", max_size=4)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=40,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=20)
SOUP = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join))


def naive_fields(document: dict[str, Any], keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], float]]:
    found = []
    for key, value in document.items():
        if isinstance(value, dict):
            found += naive_fields(value, (*keys, key))
        elif type(value) in (int, float) and math.isfinite(float(value)):
            found.append(((*keys, key), float(value)))
    return found


@given(DOCUMENTS, st.booleans(), st.sampled_from([(",", ":"), (" , ", " :\n\t")]))
def test_fields_of_any_document(document: dict[str, Any], ascii_only: bool, separators: tuple[str, str]) -> None:
    payload = json.dumps(document, ensure_ascii=ascii_only, separators=separators).encode(errors="replace")
    expected = naive_fields(document)[:MAX_FIELDS_PER_FRAME]
    reason, found = check_payloads([payload])[0]
    assert reason == Reason.PASSED
    assert [path_text(payload, path) for path, _ in found] == [".".join(keys) for keys, _ in expected]
    for (_, value), (_, true) in zip(found, expected, strict=True):
        assert abs(value - true) <= (math.ulp(true) if len(repr(true)) > 19 else 0)
    if not ascii_only:  # then keys stand in the payload as they are
        assert [path for path, _ in found] == [hash_path([key.encode() for key in keys]) for keys, _ in expected]


@given(DOCUMENTS)
def test_numeric_paths_of_any_document(document: dict[str, Any]) -> None:
    payload = json.dumps(document, ensure_ascii=False).encode(errors="replace")
    found = [(tuple(key.decode() for key in keys), float(text)) for keys, text in numeric_paths(payload)]
    assert [item for item in found if math.isfinite(item[1])] == naive_fields(document)


@given(SOUP)
def test_any_bytes_get_the_verdict_of_python(payload: bytes) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(payload.decode(), parse_constant=refuse, parse_int=float)
        expected = Reason.PASSED if isinstance(value, dict) else Reason.NOT_OBJECT
    except UnicodeDecodeError:
        expected = Reason.BAD_UTF8
    except ValueError:
        expected = Reason.BAD_JSON
    reason, found = check_payloads([payload])[0]
    assert reason == expected
    assert not found or reason == Reason.PASSED


PAYLOADS = st.one_of(SOUP, DOCUMENTS.map(lambda document: json.dumps(document).encode()))


@settings(max_examples=examples(50))
@given(st.lists(PAYLOADS, max_size=12), st.data())
def test_any_split_of_a_batch_gives_the_same(payloads: list[bytes], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(payloads)), max_size=4)))
    parts = zip([0, *cuts], [*cuts, len(payloads)], strict=True)
    assert [item for a, b in parts for item in check_payloads(payloads[a:b])] == check_payloads(payloads)


@settings(max_examples=examples(50))
@given(PAYLOADS, st.binary(max_size=8), st.binary(max_size=8))
def test_bytes_around_a_frame_do_not_matter(payload: bytes, before: bytes, after: bytes) -> None:
    buf = np.frombuffer(before + bytes(22) + payload + after, np.uint8)
    starts, lengths = np.array([len(before)]), np.array([22 + len(payload)])
    guard = MAX_FIELDS_PER_FRAME + 4
    frame, path, value = np.full(guard, -7, np.int32), np.full(guard, 7, np.uint64), np.full(guard, -7.5)
    reason = np.zeros(1, np.uint8)
    count = scan_payloads(buf, starts, lengths, reason, frame, path, value)
    found = list(zip(path[:count].tolist(), value[:count].tolist(), strict=True))
    assert (Reason(int(reason[0])), found) == check_payloads([payload])[0]
    assert (frame[:count] == 0).all() and (frame[count:] == -7).all()
    assert (path[MAX_FIELDS_PER_FRAME:] == 7).all() and (value[MAX_FIELDS_PER_FRAME:] == -7.5).all()
