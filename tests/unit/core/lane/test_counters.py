"""The counters of lanes add up: for each reason, over several lanes, and for frames that expired in a queue."""

import numpy as np
import pytest

from klais.core.lane.counters import conservation, dropped, dropped_by_reason, passed, received, tallies, verdicts
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.wire.constants import VERDICTS, Reason


def tally_of(**counts: int) -> np.ndarray:
    tally = np.zeros(TALLIES, np.uint64)
    for name, count in counts.items():
        tally[Reason[name] if name in Reason.__members__ else Tally[name]] = count
    return tally


def test_frames_that_expired_in_the_queue_are_dropped_with_their_reason():
    tally = tally_of(PASSED=10, QUEUED=7, RELEASED=3, QUEUE_LOST=2)
    assert dropped_by_reason(tally) == {"queue_expired": 2}
    assert conservation(tally, queue_depth=2).holds


def test_a_frame_that_is_nowhere_breaks_the_check():
    tally = tally_of(PASSED=10, QUEUED=7, RELEASED=3)
    check = conservation(tally, queue_depth=3)
    assert not check.holds and check.missing == 1
    assert conservation(tally, queue_depth=5).missing == -1


@pytest.mark.parametrize("reason", [reason for reason in Reason if Reason.DUPLICATE <= reason < VERDICTS])
def test_every_dropping_verdict_is_a_drop_and_not_a_pass(reason: Reason):
    tally = tally_of(**{reason.name: 4})
    assert dropped(tally) == {reason: 4} and received(tally) == 4 and passed(tally) == 0
    assert verdicts(tally) == {reason.label: 4}


def test_records_without_verdicts_count_as_received_and_dropped():
    tally = tally_of(CORRUPT_RECORDS=2, REPEATED_FRAMES=40, REPEATED_BATCHES=1)
    assert received(tally) == 42
    assert dropped_by_reason(tally) == {"corrupt_batch": 2, "repeated_batch": 40}


def test_lanes_add_up():
    lanes = [LaneState(), LaneState()]
    for frames, state in enumerate(lanes, 5):
        state.tally[Reason.PASSED] = frames
    assert passed(tallies(lanes)) == 11 and passed(tallies([])) == 0
