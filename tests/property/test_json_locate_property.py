"""Places of a field's keys against the naive twin."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from klais.core.wire.constants import Reason
from klais.core.wire.json_locate import field_name, locate_field
from klais.core.wire.json_path import MAX_DEPTH, hash_path, path_name
from klais.core.wire.json_scan import check_payloads
from tests.support.json_twin import numeric_paths

KEYS = st.text('abé\u2028 .{}[]:,"\\', max_size=4)
NUMBERS = st.sampled_from([0, -1.5, 1e300, 12345678901234567890, float("inf")])
VALUES = st.recursive(
    st.one_of(NUMBERS, st.booleans(), st.none(), st.text('"\\{}[]:,', max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=30,
)


def keys_of(buf: npt.NDArray[np.uint8], start: int, end: int, nth: int, path: int) -> list[bytes]:
    spans = np.zeros((MAX_DEPTH, 2), np.int64)
    depth = locate_field(buf, start, end, nth, np.uint64(path), spans)
    return [buf[first:last].tobytes() for first, last in spans[:depth].tolist()]


@given(st.dictionaries(KEYS, VALUES, max_size=12), st.booleans(), st.sampled_from([(",", ":"), (" , ", " :\n\t")]))
def test_keys_of_every_field(document: dict[str, Any], ascii_only: bool, separators: tuple[str, str]) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, separators=separators).replace("Infinity", "1e999")
    payload = text.encode(errors="replace")
    ((reason, fields),) = check_payloads([payload])
    assert reason == Reason.PASSED
    expected = [keys for keys, number in numeric_paths(payload) if number != b"1e999"][: len(fields)]
    buf = np.frombuffer(b"}9" + payload + b'"', np.uint8)
    found = [keys_of(buf, 2, 2 + len(payload), nth, path) for nth, (path, _) in enumerate(fields)]
    assert found == expected
    assert [hash_path(keys) for keys in found] == [path for path, _ in fields]
    names = [field_name(buf, 2, 2 + len(payload), nth, path) for nth, (path, _) in enumerate(fields)]
    assert names == [path_name(b".".join(keys)) for keys in expected]


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_bytes_are_walked_without_leaving_them(payload: bytes, nth: int) -> None:
    buf = np.frombuffer(payload, np.uint8)
    for keys in (keys_of(buf, 0, len(payload), nth, 1), keys_of(buf, 0, len(payload), 0, hash_path([payload]))):
        assert all(key in payload for key in keys)
