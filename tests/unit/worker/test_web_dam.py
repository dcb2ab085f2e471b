"""The dam's figures add up, also for what retention took out of a queue."""

import numpy as np

from klais.core.lane.state import TALLIES, Tally
from klais.core.wire.constants import Reason
from klais.worker.web.dam import conservation, dropped_by_reason


def test_frames_that_expired_in_the_queue_are_dropped_with_their_reason():
    tally = np.zeros(TALLIES, np.uint64)
    tally[Reason.PASSED], tally[Reason.QUEUED], tally[Tally.RELEASED], tally[Tally.QUEUE_LOST] = 10, 7, 3, 2
    assert dropped_by_reason(tally) == {"queue_expired": 2}
    assert conservation(tally, queue_depth=2)["holds"]
