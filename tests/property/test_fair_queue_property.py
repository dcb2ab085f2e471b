"""The dam's queue equals its definition, whatever comes and goes; a checkpoint brings the same order back."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.lane.checkpoint import decode_marker, encode_marker, refill_queue, restore, snapshot
from klais.core.lane.columns import read_headers
from klais.core.lane.queue import FrameQueue
from klais.core.lane.state import LaneState
from klais.core.wire.batch import decode_batch
from tests.support.examples import examples
from tests.support.lane import NaiveFairQueue, batch, frames

ARRIVAL = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)
ACTIONS = st.lists(st.one_of(ARRIVAL, st.integers(0, 9), st.none()), max_size=30)


def values_of(parts) -> list[bytes]:
    return [columns.batch.frame(int(i)) for columns, index in parts for i in index]


@settings(max_examples=examples(300))
@given(ACTIONS)
def test_frames_leave_in_the_order_of_the_definition_also_after_a_checkpoint(actions):
    """None = a checkpoint, after which the queue of the restored state goes on."""
    queue, naive, raw, sent = FrameQueue(), NaiveFairQueue(), {}, 0
    for action in actions:
        if isinstance(action, list):
            some = frames(*((device, sent + n) for n, device in enumerate(action)))
            raw[len(raw)] = batch(some, len(raw))
            columns = read_headers(decode_batch(raw[len(raw) - 1]))
            sent += len(some)
            index = [n for n in range(len(some)) if (sent + n) % 5]  # some frames passed, or were dropped
            queue.push(len(raw) - 1, columns, np.array(index, np.int32))
            for n in index:
                naive.append(some[n][2:18], some[n])
        elif action is None:
            queue = restored(queue, raw)
        else:
            count = min(action, queue.depth)
            assert values_of(queue.pop(count)) == naive.pop(count)
        assert queue.depth == len(naive)
    assert values_of(queue.pop(queue.depth)) == naive.pop(len(naive))
    assert (queue.bytes, queue.range_bytes) == (0, 0)


def restored(queue: FrameQueue, raw: dict[int, bytes]) -> FrameQueue:
    """The queue of a state that was restored from a checkpoint."""
    state = LaneState()
    state.queue = queue
    marker = decode_marker(encode_marker(snapshot(state), 0, {}, 4))
    again = restore(marker, state.rows[:0])
    refill_queue(again, marker, {at: read_headers(decode_batch(raw[at])) for at, _, _ in marker.ranges})
    return again.queue
