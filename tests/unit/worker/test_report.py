"""Statistics and metrics of a worker: lanes that come, go and start again make no jumps and lose nothing."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from klais.config.load import Settings
from klais.core.lane.state import Tally
from klais.core.wire.constants import Reason
from klais.kafka.topics import Topics
from klais.telemetry.counters import ResetSafeCounter
from klais.telemetry.snapshots import STATES
from klais.worker import report as module
from klais.worker.context import LaneContext
from klais.worker.controller import ControllerStatistics
from klais.worker.lane import Lane
from klais.worker.lane_statistics import LagAge, LaneStatistics
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.report import FORGET_S, Report
from tests.support.lane import frames
from tests.support.lanes import until
from tests.support.views import FakeOffsets, fake_lane, feed, make_views

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


def test_a_new_lane_at_the_address_of_an_old_one_counts_from_0(monkeypatch):
    """Python gives the `id` of an object again when it is gone, as that of a lane after a rebalance."""
    monkeypatch.setattr(module, "id", lambda _: 1, raising=False)
    lanes, report = worker((0,))
    lanes[0].restarts = 3
    feed(lanes, some(1), NOW, 0)
    steps = report.snapshot().steps
    assert steps > 0
    lanes[0] = fake_lane()
    lanes[0].restarts = 3
    feed(lanes, some(1), NOW, 0)
    assert report.snapshot().steps == 2 * steps and report.snapshot().lane_restarts == 6


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


def of_lane(oldest_waiting_ns: int = 0, taken_ns: int = 0) -> LaneStatistics:
    return replace(fake_lane().statistics(), oldest_waiting_ns=oldest_waiting_ns, taken_ns=taken_ns)


def test_lag_in_seconds_is_the_age_of_the_oldest_batch_that_was_not_taken():
    age, s = LagAge(), 1_000_000_000
    assert age.sample({0: of_lane(taken_ns=NOW - 900 * s)}, {0: 0}, NOW) == {0: 0.0}
    # A batch that has arrived says itself when the edge received it, however old it is: a spool was replayed.
    assert age.sample({0: of_lane(NOW - 300 * s, NOW - 900 * s)}, {0: 3}, NOW + s) == {0: 301.0}
    # One that Kafka still has came after the moment when nothing waited, not when the lane took its last one.
    assert age.sample({0: of_lane(0, NOW - 900 * s)}, {0: 3}, NOW + 2 * s) == {0: 2.0}
    # Then the lane falls behind: the newest that it took bounds what waits.
    assert age.sample({0: of_lane(0, NOW + 2 * s)}, {0: 9}, NOW + 70 * s) == {0: 68.0}
    assert age.sample({0: of_lane(0, NOW + 2 * s)}, {0: 0}, NOW + 71 * s) == {0: 0.0}
    # A clock that is ahead makes no lag below zero; a partition that was never here has only its own bounds.
    assert age.sample({1: of_lane(NOW + 900 * s)}, {1: 1}, NOW) == {1: 0.0}
    assert age.sample({2: of_lane()}, {2: 1}, NOW) == {2: 0.0}


def test_metrics_name_lanes_limits_and_what_is_not_accounted_for():
    lanes, report = worker()
    feed(lanes, some(1), NOW, 0)
    lanes[1].live.clear()
    now = report.snapshot()
    assert dict(now.lane_live) == {0: True, 1: False} and now.partitions == 2
    assert (
        now.queue_limit == Settings().dam_queue_limit // 2 and now.queue_limit_bytes == Settings().dam_queue_bytes // 2
    )
    lanes[1].live.set()
    assert report.snapshot().unaccounted == 0
    lanes[0].session.state.tally[Tally.OUTPUT_LOST] += 2  # passed less 2, dropped 2 more: still adds up
    assert report.snapshot().unaccounted == 0
    lanes[0].session.state.tally[Tally.RELEASED] += 3  # passed, and received nowhere
    assert report.snapshot().unaccounted == 3


async def test_devices_are_counted_by_state():
    lanes, report = worker()
    feed(lanes, some(1, 12), time.time_ns(), 0)
    await report.refresh_sums(0.0)
    assert dict(report.snapshot().devices_by_state) == dict.fromkeys(STATES, 0) | {"normal": 12}


def test_restarts_of_lanes_that_are_gone_stay_counted():
    lanes, report = worker((0,))
    lanes[0].restarts = 2
    report.sample(0.0)
    lanes[0] = fake_lane()
    report.sample(1.0)
    lanes[0].restarts = 1
    assert report.snapshot().lane_restarts == 3


async def test_the_last_second_of_lanes_that_are_stopped_is_counted():
    """They may not come back: a topic that was recreated with fewer partitions gives this worker fewer lanes."""
    settings = Settings(partitions=1)
    lanes, none = Lanes(), SimpleNamespace()
    limits, offsets = LaneLimits(settings, None), FakeOffsets()
    report = Report(settings, "w1", lanes, limits, offsets, ControllerStatistics, lambda partition: 0)
    lane = fake_lane()
    context = LaneContext(
        settings, Topics.of(settings), "w1", limits, none, none, none, none, on_step=report.on_step,
        on_sent=report.on_sent, new_detector=none, profile_bytes=none, on_ending=lambda: report.sample(1.0),
    )  # fmt: skip
    lanes.by_partition = {0: Lane(context, 0)}
    real = lanes.by_partition[0]
    real.session, real.checkpointer = SimpleNamespace(state=lane.session.state), None
    real.statistics = lane.statistics
    real.live.set()
    report.sample(0.0)
    feed({p: lane for p in range(2)}, some(1), NOW, 0)
    await lanes.stop()
    assert report.snapshot().passed == int(lane.session.state.tally[Reason.PASSED]) > 0


async def test_what_joins_the_regular_records_comes_after_each_of_them_and_its_errors_stop_none():
    """The leader's heartbeat goes with them: in the same batch, behind the record."""
    told = []

    class Told:
        def stats(self, key, record):
            told.append("record")

    def joins():
        told.append("joins")
        raise RuntimeError("the client has ended")

    _, report = worker()
    running = asyncio.create_task(report.run(Told(), joins))
    try:
        await until(lambda: told.count("joins") >= 2, "two regular records")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert told[:4] == ["record", "joins"] * 2


async def test_the_last_record_has_all_that_the_lanes_did_and_none_follows():
    told = []
    lanes, report = worker()
    running = asyncio.create_task(report.run(SimpleNamespace(stats=lambda key, record: told.append(record))))
    try:
        await until(lambda: told, "a regular record")
        feed(lanes, some(1), NOW, 0)
        await report.publish_last()
        assert told[-1]["counters"]["passed"] == 30 and told[-1]["gauges"]["lanes_live"] == 2
        count = len(told)
        await asyncio.wait_for(running, 20)  # the next regular record is due, and not sent
        assert len(told) == count
    finally:
        running.cancel()


async def test_a_worker_that_never_reported_has_no_last_record():
    await worker()[1].publish_last()
