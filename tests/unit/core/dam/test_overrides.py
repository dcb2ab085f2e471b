"""Limits of single devices: found as columns, kept by the dam, written to the journal, the same again in a replay."""

import numpy as np
import pytest

from klais.core.dam.overrides import NO_OVERRIDES, only_referenced, override_table, rows_of_frames
from klais.core.lane.journal import HEADER, decode_step, encode_step
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.errors import JournalFormatError
from tests.support.lane import limits

LIMITS = limits()
NOW = 1_700_000_000_000_000_000


def batch(ids: list[bytes], first: int = 0, at_ns: int = NOW) -> bytes:
    frames = [encode_frame(device, first + n, b'{"t":1}') for n, device in enumerate(ids)]
    return encode_batch(frames, at_ns, 1, 1, first)


def test_rows_of_frames_are_those_of_a_plain_lookup() -> None:
    rng = np.random.default_rng(3)
    pool = [b"d-%d" % n for n in range(50)] + [b"0123456789abcdef", b"\xc3\xa4", b"z"]
    overrides = override_table({name: (1.0, 2.0) for name in pool[::3]})
    chosen = [pool[n] for n in rng.integers(0, len(pool), 500)]
    ids = np.frombuffer(b"".join(name.ljust(16, b"\0") for name in chosen), np.uint64).reshape(-1, 2)
    names = overrides["id"].tolist()
    expected = [names.index(name) if name in names else -1 for name in chosen]
    at = rows_of_frames(ids, overrides["id"])
    assert at.tolist() == expected
    small, places = only_referenced(overrides, at[:7])
    assert [small["id"][p] if p >= 0 else None for p in places] == [names[p] if p >= 0 else None for p in expected[:7]]
    assert rows_of_frames(ids, NO_OVERRIDES["id"]).tolist() == [-1] * 500


def test_a_device_has_its_own_rate_and_the_others_keep_theirs() -> None:
    state = LaneState()
    overrides = override_table({b"slow": (1.0, 2.0), b"elsewhere": (5.0, 5.0)})
    step = take_raw(state, 0, batch([b"slow", b"fast"] * 5), LIMITS, Bounds(1000, 1000, (), overrides), NOW)
    verdicts = [Reason(int(v)) for v in step.record.verdict]
    assert verdicts[0::2] == [Reason.PASSED] * 2 + [Reason.DEVICE_RATE] * 3
    assert verdicts[1::2] == [Reason.PASSED] * 5
    assert step.record.overrides["id"].tolist() == [b"slow"]  # only what this step used


def test_a_replay_ends_in_the_same_state_whatever_holds_by_then() -> None:
    live, again = LaneState(), LaneState()
    overrides = override_table({b"slow": (1.0, 2.0)})
    values = [batch([b"slow", b"fast"] * 3, 10 * n, NOW + n * 700_000_000) for n in range(4)]
    for offset, value in enumerate(values):
        # the override ends before the third batch
        bounds = Bounds(1000, 1000, (), overrides if offset < 2 else NO_OVERRIDES)
        step = take_raw(live, offset, value, LIMITS, bounds, NOW + offset * 700_000_000)
        replay(again, decode_step(encode_step(step.record)), value)
    n = live.used
    assert again.used == n
    for name in live.rows.dtype.names:
        assert live.rows[name][:n].tolist() == again.rows[name][:n].tolist(), name
    assert live.tally.tolist() == again.tally.tolist()


def test_a_record_of_another_version_is_refused_with_what_to_do() -> None:
    value = bytearray(encode_step(take_raw(LaneState(), 0, batch([b"a"]), LIMITS, Bounds(9, 9), NOW).record))
    value[4] = 2
    with pytest.raises(JournalFormatError, match=r"version 2, this code reads version 7.* KLAIS_TOPIC_PREFIX"):
        decode_step(bytes(value))


def test_a_cut_record_is_refused() -> None:
    overrides = override_table({b"a": (1.0, 2.0)})
    value = encode_step(take_raw(LaneState(), 0, batch([b"a"]), LIMITS, Bounds(9, 9, (), overrides), NOW).record)
    assert decode_step(value).overrides.tolist() == [(b"a", 1.0, 2.0)]
    for size in range(HEADER.size, len(value)):
        with pytest.raises(JournalFormatError):
            decode_step(value[:size])
