"""Statistics and metrics of a worker: lanes that come, go and start again make no jumps and lose nothing."""

import numpy as np

from klais.core.wire.constants import Reason
from klais.telemetry.counters import ResetSafeCounter
from klais.worker.report import FORGET_S
from tests.support.lane import frames
from tests.support.views import fake_lane, feed, make_views

NOW = 1_700_000_000_000_000_000


def worker(partitions=(0, 1)):
    lanes = {p: fake_lane() for p in partitions}
    views = make_views(lanes)
    return lanes, views.report


def some(sequence: int, count: int = 30) -> list[bytes]:
    return frames(*((f"dev-{i}", sequence) for i in range(count)))


def test_totals_are_the_lanes_history_and_add_up():
    lanes, report = worker()
    feed(lanes, some(1), NOW, 0)
    feed(lanes, [*some(1), b"rubbish"], NOW, 1)
    now = report.statistics(0.0)
    totals = now.counters()
    assert totals["received"] == 61
    assert totals["dropped"] == {"duplicate": 30, "too_short": 1}
    assert totals["received"] == totals["passed"] + sum(totals["dropped"].values()) + now.queue_depth
    assert now.devices == 30 and now.lanes_live == 2


def test_a_restart_of_a_lane_takes_nothing_back():
    lanes, report = worker()
    feed(lanes, some(1), NOW, 0)
    report.sample(0.0)
    before = report.statistics().counters()
    lanes[0].live.clear()
    lanes[0].session = None
    assert report.statistics().counters()["received"] == before["received"]
    report.sample(1.0)
    assert report.snapshot().received == 30


def test_a_lane_that_moves_in_with_a_history_makes_no_jump_in_rates_and_metrics():
    lanes, report = worker((0,))
    report.sample(0.0)
    report.rates(0.0)
    moved = {1: fake_lane()}
    feed(moved, some(1), NOW, 0)
    moved[1].live_tally = moved[1].session.state.tally.copy()
    lanes.update(moved)
    report.sample(1.0)
    assert report.rates(1.0)["received"] == 0.0
    assert report.snapshot().received == 0
    taken = int(moved[1].session.state.tally[Reason.PASSED])
    assert report.statistics().counters()["received"] == taken > 0
    feed(lanes, some(2), NOW, 1)
    report.sample(2.0)
    assert report.rates(2.0)["received"] == 30.0
    assert report.snapshot().received == 30


def test_what_a_lane_did_before_the_first_sample_is_counted():
    lanes, report = worker()
    feed(lanes, some(1), NOW, 0)
    snapshot = report.snapshot()
    assert snapshot.received == snapshot.passed == 30
    assert snapshot.steps == sum(lane.session.state.step for lane in lanes.values())
    assert int(np.sum(snapshot.dropped)) == 0


def test_lanes_that_left_for_good_are_forgotten():
    counter = ResetSafeCounter(1)
    counter.sample(0, np.array([5]), np.array([0]), 0.0)
    counter.forget(FORGET_S + 1)
    assert counter.highest(0) is None
    counter.sample(0, np.array([900]), np.array([890]), 100.0)
    assert counter.sum.tolist() == [15]


async def test_sums_over_rows_count_what_came_since():
    lanes, report = worker()
    feed(lanes, frames(("a", 1), ("b", 1)), NOW, 0)
    await report.refresh_sums(0.0)
    feed(lanes, frames(("a", 5), ("b", 3)), NOW, 1)
    await report.refresh_sums(100.0)
    assert report.snapshot().gaps == 4


def test_conservation_of_the_metrics_snapshot():
    lanes, report = worker()
    feed(lanes, [*some(1), *some(1), b"x"], NOW, 0)
    snapshot = report.snapshot()
    assert snapshot.received == snapshot.passed + int(np.sum(snapshot.dropped)) + snapshot.queue_depth
