"""The journal's format: the layout of its header, and that every field of every kind of step comes back."""

from struct import Struct

import numpy as np
import pytest

from klais.core.anomaly.record import FLAG, OF_ABSENT
from klais.core.dam.overrides import PREFIX, override_table
from klais.core.lane.journal import HEADER, Kind, Limits, RefusedRecord, Resumed, StepRecord, decode_step, encode_step
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.errors import JournalFormatError
from tests.support.lane import T0_NS, batch, bounds, frames, limits

LIMITS = Limits(1.0, 2.0, 3.0, 4.0, 5, 6, 10.0, 11.0)
NONE = np.empty(0, np.uint8)


def record(kind: Kind, verdict=NONE, count=0, **more) -> StepRecord:
    more = {"new_devices": 17.5, "raw_crc": 0xFFFFFFFF, "batch": (7, 8, 2**63), **more}
    return StepRecord(12, kind, 13, 14, LIMITS, 15.5, count, verdict, 16, **more)


def test_the_header_has_no_hidden_padding_and_keeps_what_follows_aligned() -> None:
    assert HEADER.size == 136 and HEADER.size % 8 == 0
    assert Struct(HEADER.format.replace("<", "@")).size == HEADER.size  # native alignment would add nothing


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.RAW, Kind.RESUMED, Kind.FORGET)])
def test_a_step_without_frames_is_its_header(kind: Kind) -> None:
    value = encode_step(record(kind, count=3))
    assert len(value) == HEADER.size
    assert_same(decode_step(value), record(kind, count=3))


def test_a_raw_step_keeps_overrides_prefixes_and_verdicts() -> None:
    verdict, overrides = np.array([0, 1, 9, 14, 2], np.uint8), override_table({b"a": (1.0, 2.0), b"b": (3.0, 4.0)})
    whole = record(Kind.RAW, verdict, 5, overrides=overrides, uncounted=np.array([b"x-", b"y-"], PREFIX))
    assert_same(decode_step(encode_step(whole)), whole)


def test_a_raw_step_keeps_its_flags_and_the_names_of_fields_that_are_missing() -> None:
    flags = np.zeros(2, FLAG)
    flags["frame"], flags["value"], flags["cause"], flags["nth"] = [0, 2], [7.5, 99.0], [1, 9], [3, OF_ABSENT]
    whole = record(Kind.RAW, np.array([0, 1, 2], np.uint8), 3, flags=flags, flag_names={99: "pos.x"})
    value = encode_step(whole)
    assert_same(decode_step(value), whole)
    plain = record(Kind.RAW, np.array([0, 1, 2], np.uint8), 3)
    assert len(value) == len(encode_step(plain)) + 2 * 32 + len(b'{"99":"pos.x"}')


def test_a_flag_of_a_frame_that_is_not_there_is_a_damaged_journal() -> None:
    state, value = LaneState(), batch(frames(("a", 1)))
    step = take_raw(state, 0, value, limits(), bounds(), T0_NS)
    step.record.flags = np.zeros(1, FLAG)
    step.record.flagged, step.record.flags["frame"] = 1, 1
    with pytest.raises(JournalFormatError, match="one of frame 1 of 1"):
        replay(LaneState(), step.record, value)


def test_a_forget_step_keeps_its_ids() -> None:
    ids = np.arange(48, dtype=np.uint8).reshape(3, 16)
    value = encode_step(record(Kind.FORGET, count=3, forgotten=ids))
    assert_same(decode_step(value), record(Kind.FORGET, count=3, forgotten=ids))
    with pytest.raises(JournalFormatError, match="ids of 3 devices"):
        decode_step(value[:-1])


def test_a_resumed_step_keeps_what_is_lost() -> None:
    asides = (
        RefusedRecord("telemetry", 7, 0, "YQ==", "e30=", 2, "why"),
        RefusedRecord("anomalies", 7, 1, "", "", 0, ""),
    )
    for resumed in (Resumed(1, 2, 3, "why"), Resumed(aside=asides), Resumed(unread=5, counted=((3, 5), (9, 9)))):
        whole = record(Kind.RESUMED, resumed=resumed)
        assert_same(decode_step(encode_step(whole)), whole)


def assert_same(found: StepRecord, wanted: StepRecord) -> None:
    for name in StepRecord.__slots__:
        mine, other = getattr(found, name), getattr(wanted, name)
        assert np.array_equal(mine, other) if isinstance(other, np.ndarray) else mine == other, name
