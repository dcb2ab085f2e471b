"""The strict check against a naive twin, and its work in reads."""

import json
import re
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.wire.constants import Reason
from klais.core.wire.json_path import MAX_DEPTH
from klais.core.wire.json_scan import check_payloads
from klais.core.wire.json_strict import MAX_NUMBER_BYTES, Problem, check_strict, problem_of
from tests.support.examples import examples
from tests.support.work import CountedBytes, interpreted

READS = 8
HEADER = 22
STRICT = interpreted(("json_number", "json_strict"))["json_strict"]


def naive_problems(payload: bytes) -> set[Problem]:
    """All problems of a valid payload, from what Python's parser gives."""
    found = set()

    def members(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            found.add(Problem.DUPLICATE_KEY)
        texts.extend(key for key, _ in pairs)
        texts.extend(value for _, value in pairs if isinstance(value, str))

    def number(text: str) -> None:
        if len(text) > MAX_NUMBER_BYTES:
            found.add(Problem.LONG_NUMBER)

    def strings(value: Any) -> None:
        if isinstance(value, str):
            texts.append(value)
        for item in value if isinstance(value, list) else ():
            strings(item)

    class Decoder(json.JSONDecoder):
        def __init__(self) -> None:
            super().__init__(object_pairs_hook=lambda pairs: [members(pairs), *(value for _, value in pairs)])
            self.parse_float = self.parse_int = number  # type: ignore[assignment]
            self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    texts: list[str] = []
    strings(Decoder().decode(payload.decode()))
    if any(0xD800 <= ord(c) <= 0xDFFF for text in texts for c in text):
        found.add(Problem.LONE_SURROGATE)
    return found


TEXTS = ["", "a", "\\u0061", "b", "é", "\\u00e9", "\\u00E9", "😀", "\\ud83d\\ude00", "\\n", "\\u000a", '\\"']
TEXTS += ["\\\\", "\\/", "/"]
KEYS = st.sampled_from(TEXTS)
ODD = st.sampled_from(["\\ud800", "\\udc00\\ud800", "\\ud800\\ud800\\udc00", "\\ud83dx", "\\uDBFF\\uDFFF"])
NUMBERS = st.sampled_from(
    ["1", "-1.5e+10", "1e999", "9" * 40, "9" * 41, "-" + "9" * 40, "0." + "1" * 38, "1e-" + "1" * 38]
)
SCALARS = st.one_of(
    NUMBERS, KEYS.map('"{}"'.format), ODD.map('"x{}"'.format), st.sampled_from(["true", "null", '"9{}[],:"'])
)


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(st.one_of(KEYS, KEYS, KEYS, ODD), values).map(lambda pair: f'"{pair[0]}" : {pair[1]}')
    return st.lists(member, max_size=5).map(lambda parts: "{" + ",".join(parts) + "}")


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        objects(inner), st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
    ),
    max_leaves=20,
)
PAYLOADS = objects(VALUES).map(str.encode)


@settings(max_examples=examples(150))
@given(PAYLOADS)
def test_problems_are_those_of_the_twin(payload: bytes) -> None:
    assert check_payloads([payload])[0][0] == Reason.PASSED
    expected = naive_problems(payload)
    found = problem_of(payload)
    assert found in (expected or {Problem.NONE})


@settings(max_examples=examples(50))
@given(st.lists(PAYLOADS, max_size=8), st.data())
def test_any_split_of_a_batch_gives_the_same(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [bytes(HEADER) + payload for payload in payloads]
    buf = np.frombuffer(b"".join(frames), np.uint8)
    lengths = np.array([len(frame) for frame in frames], np.int64)
    reason = np.zeros(len(frames), np.uint8)
    judged = data.draw(st.sets(st.integers(0, max(0, len(frames) - 1)))) if frames else set()
    reason[list(judged)] = Reason.BAD_JSON
    count = check_strict(buf, np.cumsum(lengths) - lengths, lengths, reason)
    alone = [Reason.NOT_STRICT if problem_of(payload) else Reason.PASSED for payload in payloads]
    assert reason.tolist() == [Reason.BAD_JSON if i in judged else alone[i] for i in range(len(frames))]
    assert count == reason.tolist().count(Reason.NOT_STRICT)


def wide(members: int) -> bytes:
    return ("{" + ",".join(f'"{k:x}":{k}' for k in range(members)) + "}").encode()


@settings(max_examples=examples(60))
@given(st.one_of(PAYLOADS, st.integers(1, 300).map(wide)))
def test_the_walk_reads_each_byte_a_few_times_and_probes_no_more_often(payload: bytes) -> None:
    buf, size = CountedBytes(payload), 1 << (len(payload) // 2 + 64).bit_length()
    keys, owner, serial = np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(MAX_DEPTH + 1, np.int64)
    with np.errstate(over="ignore"):
        found = STRICT._first_problem(buf, 0, len(payload), 1, np.uint64(987654321987654321), keys, owner, serial)
    assert Problem(found) in (naive_problems(payload) or {Problem.NONE})
    assert buf.reads <= READS * len(payload)
    assert int((owner == 1).sum()) <= len(re.findall(rb":", payload))
