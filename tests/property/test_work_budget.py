"""No payload makes a step slow: work is counted, not timed, so these tests do not depend on the machine.

Kernels run without being compiled, over bytes that count their reads: at most ``READS`` for each byte of the payload.
Python around them runs a bounded number of lines for a step, the same for a payload of 60 bytes and for one of
65,507.
"""

import re

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.harness.payloads import ADVERSARIAL, fields, nested
from klais.core.lane.names import NEW_NAMES
from klais.core.lane.render import MAX_ANOMALY_BYTES, anomaly_records, dead_letter_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step, take_raw
from klais.core.wire.constants import Reason
from klais.core.wire.json_path import MAX_DEPTH, MAX_FIELDS_PER_FRAME, MAX_NAME_BYTES, ROOT_HASH
from tests.support.examples import examples
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored
from tests.support.work import CountedBytes, interpreted, lines_run

S = 1_000_000_000
HEADER = 22
READS = 16  # of each byte of a payload, in a scan
LINES = 1_500  # of Python in a step of one frame, and for the record of a flag

MODULES = interpreted()

# Members that are walked and not emitted, keys that are empty, long, escaped or there twice, numbers of many digits.
MEMBERS = [b'"":1e999', b'"":-1e-999', b'"":1', b'"k":{}', b'"k":[]', b'"":[[[1]]]', b'"":{"":{"":1e999}}']
MEMBERS += [b'"\\u0061\\"":1e999', b'"a":"\\\\\\u00e9"', b'"' + b"k" * 300 + b'":1']
MEMBERS += [b'"a":' + b"9" * 300, b'"b":0.' + b"0" * 300 + b"1", b'"c":1e' + b"9" * 300]
MEMBERS += [b'"\xc3\xa9\xf0\x9f\x98\x80":1', b'"" : \t 1e999 ', b'"a":true', b'"a":null']


PAYLOADS = st.builds(
    nested,
    total=st.integers(20, 1_500),
    depth=st.integers(0, MAX_DEPTH + 1),
    member=st.sampled_from(MEMBERS),
    fields=st.builds(fields, st.integers(0, 20), st.sampled_from([b"", b"f", b"\\u00e9", b"k" * 40])),
)
BROKEN = st.builds(lambda a, cut, b: a[:cut] + b + a[cut:], PAYLOADS, st.integers(0, 1_500), st.binary(max_size=3))


def scan_reads(payload: bytes) -> tuple[int, Reason, list[int]]:
    """Bytes that the scan of one payload reads, its verdict, and the path hashes it emits."""
    buf = CountedBytes(bytes(HEADER) + payload)
    reason = np.zeros(1, np.uint8)
    frame, path, value = (np.zeros(MAX_FIELDS_PER_FRAME, dtype) for dtype in (np.int32, np.uint64, np.float64))
    starts, lengths = np.zeros(1, np.int64), np.array([HEADER + len(payload)])
    with np.errstate(over="ignore", invalid="ignore"):
        count = MODULES["json_scan"].scan_payloads(buf, starts, lengths, reason, frame, path, value)
    return buf.reads, Reason(int(reason[0])), path[:count].tolist()


@settings(max_examples=examples(60))
@given(st.one_of(PAYLOADS, BROKEN, st.binary(max_size=200)))
def test_the_scan_reads_each_byte_a_few_times(payload: bytes) -> None:
    reads, _, _ = scan_reads(payload)
    assert reads <= READS * (len(payload) + 1)


@settings(max_examples=examples(60))
@given(PAYLOADS)
def test_finding_a_fields_keys_reads_each_byte_a_few_times(payload: bytes) -> None:
    _, reason, paths = scan_reads(payload)
    if reason == Reason.PASSED and paths:
        buf, spans = CountedBytes(payload), np.zeros((MAX_DEPTH, 2), np.int64)
        nth = len(paths) - 1
        with np.errstate(over="ignore"):
            found = MODULES["json_locate"].locate_field(buf, 0, len(payload), nth, np.uint64(paths[nth]), spans)
        assert found > 0 and buf.reads <= READS * len(payload)


def test_the_counter_sees_work_that_grows_with_the_square() -> None:
    """What the first version of names did: hash the path of each number from the root."""
    payload = nested(1_400, 30, b'"":1e999', fields(1))
    buf = CountedBytes(payload)
    for _ in range(payload.count(b"1e999")):
        path = ROOT_HASH
        for at in range(len(payload) // 2):
            path = (path ^ int(buf[at])) * 3 & 0xFFFFFFFF
    assert buf.reads > READS * len(payload)


def steps_of(state: LaneState, payload: bytes, count: int) -> list[Step]:
    """``count`` steps of one frame each."""
    steps = []
    for _ in range(count):
        n = state.next_raw
        value = batch(frames((f"dev-{n % 3}", n, payload)), n, T0_NS + n * S)
        steps.append(take_raw(state, n, value, limits(), bounds(), T0_NS + n * S))
    return steps


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_python_runs_as_little_for_any_payload(name: str) -> None:
    steps_of(scored(), b'{"t":1}', 1)  # what runs once in a process
    state = scored()
    with lines_run(LINES):
        (step,) = steps_of(state, ADVERSARIAL[name], 1)
        list(dead_letter_records(step))
    assert len(state.path_names) <= NEW_NAMES
    assert all(len(text.encode()) <= MAX_NAME_BYTES for text in state.path_names.values())
    expected = {"too_deep": Reason.TOO_DEEP, "not_utf8_at_the_end": Reason.BAD_UTF8}
    assert step.record.verdict.tolist() == [expected.get(name, Reason.PASSED)]


FLAGGED = ["benign", "one_packet_16_names", "largest_16_names", "empty_keys", "no_keys_but_empty_ones", "many_fields"]
FLAGGED += ["long_key", "escapes_in_keys", "quotes_in_keys"]


@pytest.mark.parametrize("name", FLAGGED)
def test_rendering_a_flag_is_as_little_for_any_payload(name: str) -> None:
    state = scored()
    steps_of(state, ADVERSARIAL[name], 100)
    (step,) = steps_of(state, re.sub(rb":1(?=[,}])", b":7", ADVERSARIAL[name]), 1)
    with lines_run(LINES):
        ((_, value, _, _),) = anomaly_records(step)
    assert len(value) <= MAX_ANOMALY_BYTES
    assert orjson.loads(value)["value"] == 7
