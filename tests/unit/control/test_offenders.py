"""Repeat offenders: who is told, who is blocked, for how long."""

from itertools import pairwise

import numpy as np
import pytest

from klais.control.measure import offenders_of
from klais.control.offenders import FIRST_S, MANY_PER_S, MAX_BLOCK_S, OFTEN, WINDOW, Offenders
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.telemetry.view import SystemView
from klais.worker import offenders as module
from klais.worker.offenders import KNOWN_S, MAX_NAMED, TopOffenders
from klais.worker.rows import Part
from tests.support.lane import T0_NS, batch, bounds, frames, limits


def test_once_is_no_offence_and_often_is() -> None:
    offenders = Offenders()
    for second in range(100):  # four of ten seconds, for ever
        assert offenders.update(float(second), {"d": 9 * MANY_PER_S} if second % WINDOW < OFTEN - 1 else {}) == {}
    assert [offenders.update(200.0 + n, {"d": MANY_PER_S}) for n in range(OFTEN)][-1] == {"d": FIRST_S}


def test_each_block_is_twice_as_long_up_to_an_hour() -> None:
    offenders, blocks = Offenders(), []
    for second in range(30_000):
        if found := offenders.update(float(second), {"d": 1000.0, "small": 1.0}):
            blocks.append((second, found["d"]))
    assert [for_s for _, for_s in blocks[:4]] == [60.0, 120.0, 240.0, 480.0]
    assert max(for_s for _, for_s in blocks) == MAX_BLOCK_S
    assert all(later[0] >= sooner[0] + sooner[1] for sooner, later in pairwise(blocks))


def test_the_workers_name_those_that_lose_most_since_the_last_sample() -> None:
    state, top = LaneState(), TopOffenders(wall_s=lambda: T0_NS / 1e9)
    tight = limits(device_rate=1.0, device_burst=2.0)

    def step(number: int, counts: dict[str, int]) -> None:
        some = [(name, 1000 * number + n) for name, count in counts.items() for n in range(count)]
        take_raw(
            state, number, batch(frames(*some), number, T0_NS + number * 1000), tight, bounds(), T0_NS + number * 1000
        )

    step(0, {"loud": 50, "quiet": 2})
    assert top.sample([Part.of(0, state)], 10.0) == {}  # what came before is not of this second
    step(1, {"loud": 30, "quiet": 1, "new": 12})
    assert top.sample([Part.of(0, state)], 12.0) == {"loud": 15.0, "new": 5.0, "quiet": 0.5}
    step(2, {f"d{n}": 3 + n for n in range(20)})
    assert len(top.sample([Part.of(0, state)], 13.0)) == MAX_NAMED
    again = LaneState()  # the lane recovered: its rows lie elsewhere
    again.restore_rows(state.rows[: state.used], 0)
    assert top.sample([Part.of(0, again)], 14.0) == {}
    assert np.uint32(state.rows["device_rate"][: state.used].sum()) > 0


def test_a_lane_that_catches_up_makes_nobody_an_offender() -> None:
    """A device that loses 20 frames a second does so in a replayed spool, too: ten seconds of it come at once."""
    state, top, second_ns = LaneState(), TopOffenders(wall_s=lambda: T0_NS / 1e9), 1_000_000_000
    tight, number, found = limits(device_rate=1.0, device_burst=1.0), 0, []
    for at, seconds in enumerate((1, 1, 10, 10, 1, 1)):
        for _ in range(seconds):
            received_ns = T0_NS + number * second_ns
            some = frames(*(("loud", 100 * number + n) for n in range(21)))
            take_raw(state, number, batch(some, number, received_ns), tight, bounds(), T0_NS + 100 * second_ns)
            number += 1
        found.append(top.sample([Part.of(0, state)], float(at)))
    assert found == [{}, *[{"loud": 20.0}] * 5]


def test_rows_at_the_address_of_those_of_an_ended_session_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python gives an `id` again: devices would be named for all that they ever lost."""
    monkeypatch.setattr(module, "id", lambda _: 1, raising=False)
    top, tight = TopOffenders(wall_s=lambda: T0_NS / 1e9), limits(device_rate=1.0, device_burst=2.0)

    def session(count: int) -> LaneState:
        state = LaneState()
        take_raw(state, 0, batch(frames(*(("d", n) for n in range(count))), 0, T0_NS), tight, bounds(), T0_NS)
        return state

    assert top.sample([Part.of(0, session(5))], 1.0) == {}
    assert top.sample([Part.of(0, session(50))], 2.0) == {}


def test_a_device_that_its_lane_has_known_for_a_day_is_spared_unless_configured() -> None:
    state, now_s = LaneState(), T0_NS / 1e9 + KNOWN_S
    tight = limits(device_rate=1.0, device_burst=2.0)

    def step(number: int, name: str, at_s: float) -> None:
        some = frames(*((name, 1000 * number + n) for n in range(20)))
        take_raw(state, number, batch(some, number, T0_NS), tight, bounds(), int(at_s * 1e9))

    step(0, "old", now_s - KNOWN_S - 1)
    step(1, "new", now_s - 10)
    tops = [TopOffenders(spare, lambda: now_s) for spare in (True, False)]
    found = []
    for second in (1.0, 2.0):
        step(2 * int(second), "old", now_s)
        step(2 * int(second) + 1, "new", now_s)
        found = [set(top.sample([Part.of(0, state)], second)) for top in tops]
    assert found == [{"new"}, {"new", "old"}]


def test_what_it_remembers_is_bounded_however_many_ids_an_attacker_takes(monkeypatch) -> None:
    monkeypatch.setattr("klais.control.offenders.MAX_OFFENDERS", 50)
    offenders = Offenders()
    for second in range(20):
        offenders.update(float(second), {f"id-{second}-{n}": 1000.0 for n in range(10)} | {"steady": 1000.0})
    assert len(offenders._known) == 50 and "steady" in offenders._known and "id-0-0" not in offenders._known


def test_a_devices_figures_come_from_all_workers() -> None:
    of = {"a": {"x": 5.0}, "b": {"y": 7.0, "z": "?"}}
    workers = {name: {"counters": {}, "rates": {}, "gauges": {"offenders": each}} for name, each in of.items()}
    system = SystemView.of(lambda kind: workers if kind == "worker" else {})
    assert offenders_of(system) == {"x": 5.0, "y": 7.0}
