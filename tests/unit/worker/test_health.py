"""``/health`` of a worker: each state that somebody must look at is named, with what to do; a healthy one has none."""

import time
from dataclasses import replace

import numpy as np
import orjson
import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.lane.state import TALLIES, Tally
from klais.kafka.same_id import SAME_ID_S
from klais.kafka.topic_rules import Mismatch
from klais.kafka.topics_watch import TopicsWatch
from klais.telemetry.schema import VERSION, Restoring
from klais.worker.controller import Controller, ControllerStatistics
from klais.worker.invariant import OutputSeen, RecoveryInputs, judge
from klais.worker.readiness import GroupState, readiness
from klais.worker.session import lost_while_live
from klais.worker.system_watch import LANELESS_S, LEADERLESS_S
from klais.worker.web.health import NO_LANES_S
from tests.support.lane import frames
from tests.support.views import FakeLane, feed, get, make_views

SEEN = {"last_step": 20, "next_raw": 20, "newest_stamp": 20, "journal_passed": 50, "marker_journal": 10,
        "journal_end": 22, "raw_start": 0, "raw_end": 25, "landmarks": ((9, True),)}  # fmt: skip
LOST = {"raw": {"raw_end": 5}, "journal": {"journal_end": 3}, "steps": {"newest_stamp": 31}}
OUTPUTS = {
    "cut": OutputSeen(100, 0, 60),
    "empty": OutputSeen(100, 0, 0),
    "recreated": OutputSeen(100, 0, 40, missed=7),
}


@pytest.fixture
def views():
    lanes = {p: FakeLane() for p in range(2)}
    feed(lanes, frames(*((f"dev-{i}", 1) for i in range(9))), time.time_ns(), 0)
    return make_views(lanes, control=ControlFollower(Settings()))


def stopped(failure: str, fenced: bool = False):
    def make(views):
        lane = views.lanes.by_partition[1]
        lane.live.clear()
        lane.failure, lane.fenced = failure, fenced
        return views

    return make


def statistics(**seen):
    def make(views):
        views.lanes.by_partition[1].seen = seen
        return views

    return make


def recovered(**lost):
    """A lane whose recovery found something that does not hold."""
    plan = judge(RecoveryInputs(**(SEEN | {"outputs": {}} | lost)))
    return statistics(alarms=tuple(finding.text for finding in plan.findings))


def while_live(counter: Tally):
    before = np.zeros(TALLIES, np.uint64)
    tally = before.copy()
    tally[counter] = 3
    return statistics(alarms=tuple(lost_while_live(tally, before)))


def miscounted(views):
    views.lanes.by_partition[1].session.state.tally[Tally.RELEASED] += np.uint64(4)
    return views


def without_lanes(views):
    views.lanes.by_partition = {}
    views.lanes._had_s -= NO_LANES_S + 1
    found = readiness(GroupState(recovered=True), "klais_raw", {})
    return replace(views, readiness=lambda: found)


def silent_kafka(views):
    views.offsets.failing = 60.0
    return views


def changed_topic(views):
    watch = TopicsWatch(Settings())
    watch.note([Mismatch("klais_raw", "retention.ms", "1", "86400000", "`klais topics create --fix` sets it")])
    return replace(views, topic_problems=lambda: watch.problems)


def stale_control(views):
    control = views.control
    control._identity.refused, control._started_s = "Broker: Topic authorization failed", time.monotonic() - 60
    return views


def lost_control(views):
    for scope in ("device/d1", "override", "mute/device/x"):
        views.control.consume(scope, b'{"block":true,"rate":5}')
    views.control.reset()
    views.control._missing_since_s -= 60
    return views


def stats_record(kind: str, **more) -> bytes:
    record = {"v": VERSION, "kind": kind, "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}}
    return orjson.dumps(record | more)


def no_leader(views):
    controller = Controller(Settings(), "w1")
    controller._watch._led_s = time.monotonic() - LEADERLESS_S - 1  # no leader was heard since
    controller.stats.consume("w1", stats_record("worker"))
    controller.stats.consume("controller-w1", stats_record("controller", gauges={"candidate": True}))
    controller._watch.tick(time.monotonic())
    return with_controller(views, controller.statistics())


def no_lane(views):
    controller = Controller(Settings(partitions=3), "w1")
    controller._watch._laned_s = dict.fromkeys(range(3), time.monotonic() - LANELESS_S - 1)
    gauges = {"lag_records": {"0": 1}, "restoring": {"1": {"stage": "journal", "share": 0.5}}}
    controller.stats.consume("w1", stats_record("worker", gauges=gauges))
    controller._watch.tick(time.monotonic())
    return with_controller(views, controller.statistics())


def shared_id(views):
    controller = Controller(Settings(), "w1")
    same_id = controller._watch._same_id
    same_id._first_s, same_id._last_s = 0.0, SAME_ID_S + 1
    controller.stats.consume("w1", stats_record("worker", instance="other", host="there"))
    controller._watch.tick(time.monotonic())
    return with_controller(views, controller.statistics())


def wrong_clock(views):
    controller = Controller(Settings(), "w1")
    controller.stats.consume("w1", stats_record("worker", at_ms=7_200_000), appended_ms=1)
    return with_controller(views, controller.statistics())


def skipped_model(views):
    return with_controller(views, ControllerStatistics(problems=("forecast by rules: v3: it failed",)))


def with_controller(views, seen: ControllerStatistics):
    views.report._controller = lambda: seen
    return views


def late(views):
    for _ in range(20):
        views.report.on_landed(60.0)
    views.report._late.sample(time.monotonic())
    return views


PROBLEMS = {
    "lane failed": (stopped("LaneFailed: there is no klais_journal/1"), "klais_journal/1", "klais topics check", 503),
    "lane fenced": (stopped("LaneFenced: newer owner", True), "newer owner", "restart this one", 503),
    "raw recreated": (recovered(**LOST["raw"]), "klais_raw has offsets", "the lane reads again from", 200),
    "journal cut": (recovered(**LOST["journal"]), "klais_journal ends at 3", "truncated or recreated", 200),
    "steps missing": (recovered(**LOST["steps"]), "lost records", "steps continue after 31", 200),
    "output cut": (recovered(outputs={"telemetry": OUTPUTS["cut"]}), "40 records are lost", "acknowledged", 200),
    "output empty": (recovered(outputs={"telemetry": OUTPUTS["empty"]}), "is empty", "deleted with it", 200),
    "output new": (recovered(outputs={"telemetry": OUTPUTS["recreated"]}), "created again", "and 7 of steps", 200),
    "marker unreadable": (recovered(unreadable_marker="version 9"), "version 9", "uses the previous one", 200),
    "journal hole": (recovered(last_after_hole=25), "cannot be read after step 20", "are decided again", 200),
    "raw records gone": (while_live(Tally.LOST_RECORDS), "3 records of klais_raw", "raw_records_lost in the log", 200),
    "batches missing": (
        while_live(Tally.MISSING_BATCHES),
        "3 batch numbers of edges are missing",
        "klais_raw was truncated",
        200,
    ),
    "poisoned": (while_live(Tally.POISON_FRAMES), "3 frames", "see klais_dead_letter", 200),
    "clean topic lost": (statistics(missing=5), "lacks 5 records", "klais replay --check", 200),
    "unsent": (statistics(unsent=2), "2 frames are in no counter", "report it", 200),
    "miscounted": (miscounted, "4 frames are in no counter", "report it", 200),
    "no lanes": (without_lanes, "no lane for 31 s", "klais topics check", 200),
    "Kafka silent": (silent_kafka, "not answered for 60 s", "check the broker", 200),
    "topic changed": (changed_topic, "retention.ms is 1", "--fix", 200),
    "control stale": (stale_control, "klais_control has not been followed", "authorization failed", 200),
    "control lost": (lost_control, "for 60 s has lacked 3 that are in force here (override, device/d1", "again", 200),
    "shared id": (shared_id, "another worker on there also reports as w1", "own KLAIS_WORKER_ID", 200),
    "no lane": (no_lane, "no worker has had a live lane of 1 partitions for 60 s (2)", "must leave it", 200),
    "no leader": (no_leader, "no controller has led for 31 s", "look for term_failed", 200),
    "model skipped": (skipped_model, "it failed", "forecast by rules", 200),
}
WARNINGS = {
    "clock": (wrong_clock, "7200 s ahead of Kafka's", "check its time service"),
    "late": (late, "100 % of the batches", "KLAIS_LATENCY_MS"),
}


async def health(views, status: int = 200) -> dict:
    answer = await get(views, "/health")
    assert answer.status == status, answer.body
    body: dict = orjson.loads(answer.body)
    return body


async def test_a_healthy_worker_has_nothing_to_say(views):
    body = await health(views)
    assert (body["status"], body["problems"], body["warnings"]) == ("ok", [], [])


@pytest.mark.parametrize("name", PROBLEMS)
async def test_each_state_that_somebody_must_look_at_is_a_problem(views, name):
    make, what, do, status = PROBLEMS[name]
    body = await health(make(views), status)
    (text,) = body["problems"]
    assert body["status"] == "degraded" and what in text and do in text


@pytest.mark.parametrize("name", WARNINGS)
async def test_what_needs_a_look_and_stops_nothing_is_a_warning(views, name):
    make, what, do = WARNINGS[name]
    body = await health(make(views))
    (text,) = body["warnings"]
    assert body["status"] == "ok" and what in text and do in text


async def test_a_lane_that_recovers_says_how_far_it_is_in_health_and_in_the_record(views):
    lane = views.lanes.by_partition[1]
    lane.live.clear()
    lane.seen = {"restoring": Restoring(stage="replay", share=0.61)}
    body = await health(views)
    assert (body["status"], body["problems"]) == ("ok", [])
    assert body["lanes"]["1"]["restoring"] == {"stage": "replay", "share": 0.61}
    assert body["lanes"]["0"]["restoring"] is None
    gauges = views.report.statistics().gauges()
    assert gauges.restoring is not None and gauges.restoring["1"].text == "61 % of the journal replayed"
    lane.seen = {}
    assert views.report.statistics().gauges().restoring is None


async def test_a_standby_is_healthy(views):
    views = without_lanes(views)
    group = GroupState(recovered=True, partitions=2, workers=2, live_elsewhere=frozenset({0, 1}))
    body = await health(replace(views, readiness=lambda: readiness(group, "klais_raw", {})))
    assert body["problems"] == []
