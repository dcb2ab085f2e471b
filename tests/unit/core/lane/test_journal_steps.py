"""A journal with records that cannot be read: what follows without a hole is replayed, nothing behind one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.core.lane.journal import NO_VERDICTS, VERSION, Kind, Resumed, StepRecord, encode_owner, encode_step
from klais.core.lane.journal_steps import JournalSteps
from klais.errors import OtherVersion
from tests.support.lane import T0_NS, limits


def step(number: int, kind: Kind = Kind.RAW, why: str = "") -> bytes:
    verdicts = np.zeros(2, np.uint8) if kind == Kind.RAW else NO_VERDICTS
    record = StepRecord(number, kind, min(number, 99), T0_NS, limits(), 1.0, len(verdicts), verdicts)
    record.resumed = Resumed(why=why) if kind == Kind.RESUMED else None
    return encode_step(record)


def other_version(number: int) -> bytes:
    value = bytearray(step(number))
    value[4] = VERSION + 1
    return bytes(value)


UNREADABLE = {
    "null": None,
    "empty": b"",
    "foreign": b"hello",
    "magic only": b"KLJ1",
    "header of zeros": b"KLJ1" + bytes([VERSION, 1]) + bytes(300),
    "unknown kind": b"KLJ1" + bytes([VERSION, 99]) + bytes(300),
    "cut": step(3)[:-1],
    "too long": step(3) + b"x",
    "another version": other_version(3),
    "gzip": b"\x1f\x8b" + step(3),
    "large": b"KLJ1" + bytes([VERSION, 1]) + b"\xff" * 1_000_000,
    "step without end": step(2**64 - 1),
    "resumed that says nothing": step(3, Kind.RESUMED)[:-4],
    "owner that cannot be read": b"KLO1{",
    "owner of another kind": b'KLO1["lineage"]',
    "owner with a lineage of another kind": b'KLO1{"lineage":{}}',
}


def read(
    *values: bytes | None, after: int = 0, cut: bool = False, unusable: int | None = None
) -> tuple[JournalSteps, list[int]]:
    journal = JournalSteps(after, cut, unusable)
    found = [record.step for record in map(journal.take, values) if record is not None]
    journal.end()
    return journal, found


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_record_between_steps_that_follow_each_other_is_somebody_elses(name):
    journal, found = read(step(1), step(2), UNREADABLE[name], step(3), step(4))
    assert (found, journal.last_after_hole, journal.last) == ([1, 2, 3, 4], 0, 4)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_record_in_the_place_of_a_step_leaves_a_hole(name):
    """Steps 4 and 5 were decided on rows and a queue that step 3 left: they cannot be applied without it."""
    journal, found = read(step(1), step(2), UNREADABLE[name], step(4), step(5))
    assert (found, journal.last_after_hole, journal.last) == ([1, 2], 5, 2)


@pytest.mark.parametrize("unusable", [2, 3])
def test_a_step_that_cannot_be_replayed_is_a_hole_also_if_it_is_the_last(unusable):
    """The next step needs another number: the journal keeps the record of this one."""
    journal, found = read(step(1), step(2), step(3), unusable=unusable)
    assert (found, journal.last_after_hole, journal.unreadable) == ([*range(1, unusable)], 3, 1)
    assert "cannot be replayed" in journal.why
    goes_on = step(4, Kind.RESUMED, "journal_hole")
    assert read(step(1), step(2), step(3), goes_on, unusable=unusable)[1] == [*range(1, unusable), 4]


def test_the_hole_ends_where_a_recovery_that_knew_of_it_went_on():
    journal, found = read(step(1), b"KLJ1", step(3), step(4, Kind.RESUMED, "journal_hole"), step(5))
    assert (found, journal.last_after_hole) == ([1, 4, 5], 0)
    assert read(step(1), step(9, Kind.RESUMED, "raw_replaced; steps_missing"), step(10))[1] == [1, 9, 10]


def test_a_session_that_went_on_without_knowing_of_the_hole_does_not_end_it():
    """It set a record aside (RESUMED) after step 2, which nobody can read."""
    journal, found = read(step(1), None, step(3, Kind.RESUMED, "Kafka refuses records for their content"), step(4))
    assert (found, journal.last_after_hole) == ([1], 4)


def test_a_journal_that_retention_has_cut_may_begin_later():
    assert read(step(7), step(8), after=4, cut=True)[1] == [7, 8]
    journal, found = read(step(7), step(8), after=4)
    assert (found, journal.last_after_hole) == ([], 8)


def test_steps_that_the_checkpoint_covers_are_left_out():
    assert read(step(1), b"KLJ1", step(3), step(4), step(5), after=3)[1] == [4, 5]


def test_the_newest_record_of_another_version_is_refused_and_one_of_ours_behind_it_says_that_it_is_damage():
    with pytest.raises(OtherVersion, match="its last checkpoint covers the journal"):
        read(step(1), other_version(2))
    assert read(step(1), other_version(2), step(2))[1] == [1, 2]


def test_an_owner_names_the_lineage_and_one_that_cannot_be_read_none():
    journal, _ = read(encode_owner("w", 1, 2, 77), b"KLO1{", b'KLO1{"lineage":-4}', b'KLO1{"lineage":1e300}')
    assert journal.lineage == 77


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 9).map(step)), max_size=30), st.integers(0, 9))
def test_steps_are_never_out_of_order_and_none_is_left_out(values, after):
    journal, found = read(*values, after=after)
    assert found == list(range(after + 1, after + 1 + len(found)))
    assert journal.last == after + len(found)
    assert journal.last_after_hole == 0 or journal.last_after_hole > journal.last + 1
