"""A lane's rows grow in place while the reserved room lasts, and are copied whole beyond it."""

import pytest

from klais.core.lane import state as lane_state
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from tests.support.lane import T0_NS, batch, bounds, frames, limits


def feed(state: LaneState, first: int, count: int) -> None:
    some = frames(*((f"dev-{i}", 1) for i in range(first, first + count)))
    take_raw(state, state.next_raw, batch(some, state.next_raw), limits(), bounds(), T0_NS)


def test_a_growing_lane_moves_no_row() -> None:
    state = LaneState()
    rows, slots = state.rows, len(state.slots)
    for first in range(0, 6000, 1000):
        feed(state, first, 1000)
    assert state.rows is rows and state.used == 6000
    assert len(state.slots) > slots and len(state.slots) >= 2 * state.used


@pytest.mark.parametrize("reserved", [1, 1500])
def test_beyond_the_reserved_room_every_row_and_dirty_mark_is_kept(monkeypatch, reserved: int) -> None:
    large = LaneState()
    monkeypatch.setattr(lane_state, "RESERVED_ROWS", reserved)
    small = LaneState()
    for first in range(0, 6000, 1000):
        feed(small, first, 1000)
        feed(large, first, 1000)
    assert len(small.rows) < len(large.rows)
    assert small.rows[:6000].tobytes() == large.rows[:6000].tobytes()
    assert small.dirty[: small.dirty_count].tolist() == large.dirty[: large.dirty_count].tolist() == list(range(6000))
    assert [small.find(b"dev-%d" % i) for i in (0, 999, 1000, 5999)] == [0, 999, 1000, 5999]


def test_where_no_room_is_to_be_had_only_what_is_needed_is_taken(monkeypatch) -> None:
    def refused(*_args: object, **_kwargs: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(lane_state.mmap, "mmap", refused)
    state = LaneState()
    assert len(state.rows) == 1024
    feed(state, 0, 3000)
    assert state.used == 3000
