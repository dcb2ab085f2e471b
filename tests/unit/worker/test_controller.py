"""The controller around its terms: what it counts, and that a worker that ends stands no more."""

import asyncio
import time
from copy import deepcopy

import orjson
import pytest

from klais.config.load import Settings
from klais.control.decide import LoopState, decide
from klais.control.forecast import NOTHING
from klais.control.measure import measure
from klais.control.operator_requests import gains_of, operator_request, targets_of
from klais.control.setpoints import ControlFollower
from klais.kafka.stats import StatsFollower
from klais.telemetry.schema import VERSION
from klais.telemetry.view import SystemView
from klais.worker.controller import Controller, ControllerStatistics
from klais.worker.system_watch import LANELESS_S, LEADERLESS_S
from klais.worker.term import Term


def decision():
    settings = Settings()
    follower = ControlFollower(settings)
    inputs = measure(SystemView({}, {}, {}), NOTHING)
    targets, gains = targets_of(settings, follower), gains_of(settings, follower)
    request = operator_request(settings, follower)
    return decide(LoopState(), inputs, targets, gains, request, settings.partitions, 1.0, 0.1)[1]


def test_the_leader_shows_its_newest_decision_and_others_show_zeros():
    before = ControllerStatistics(epoch=4, decisions=7, terms=2)
    assert not before.is_leader and before.burst_probability == 0.0
    shown = before.snapshot(3, True)
    assert shown.terms == 2 and not shown.is_leader and shown.pid_terms == {} and shown.enabled
    newest = decision()
    leading = ControllerStatistics(epoch=5, decisions=8, terms=3, newest=newest)
    shown = leading.snapshot(3, False)
    assert leading.is_leader and shown.is_leader and shown.overrides == 3
    assert shown.pid_terms["output"] == newest.terms.output and shown.error == newest.errors.weighted


async def test_a_controller_that_resigned_stands_no_more():
    controller = Controller(Settings(), "w1")
    await controller.resign()
    await asyncio.wait_for(controller.run(producer=None), 5)  # nothing is opened: no producer is needed
    assert controller.statistics() == ControllerStatistics()


def test_statistics_change_nothing_however_often_they_are_read(monkeypatch):
    """They are read by `/health`, the metrics and the report, each at its own pace."""
    controller = Controller(Settings(partitions=2), "w1")
    record = {"v": VERSION, "kind": "worker", "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}}
    controller.stats.consume("w1", orjson.dumps(record | {"instance": "other"}))
    now_s = time.monotonic()
    controller._watch.tick(now_s)
    watch, same_id = controller._watch, controller._watch._same_id
    before = deepcopy((same_id._first_s, watch._laned_s, watch._led_s, watch.problems))
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 1000)
    first, again = controller.statistics(), controller.statistics()
    assert before == (same_id._first_s, watch._laned_s, watch._led_s, watch.problems)
    assert first == again and first.problems == ()


def test_what_the_watch_finds_is_in_the_statistics_until_it_looks_again():
    controller = Controller(Settings(partitions=2), "w1")
    record = {"v": VERSION, "kind": "worker", "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}}
    controller.stats.consume("w1", orjson.dumps(record))
    now_s = time.monotonic()
    for later_s in (0.0, LEADERLESS_S + 1, LANELESS_S + 1):
        controller._watch.tick(now_s + later_s)
    texts = controller.statistics().problems
    assert len(texts) == 2 and "no controller has led for 61 s" in texts[0] and "2 partitions" in texts[1]


class Silence(StatsFollower):
    """``klais_stats`` without Kafka: nobody is heard."""

    def start(self) -> None:
        """No thread."""


async def test_resigning_ends_a_candidacy_that_waits_and_a_cancelled_agent_is_cancelled(monkeypatch):
    monkeypatch.setattr("klais.worker.controller.StatsFollower", Silence)
    controller, other = Controller(Settings(), "w1"), Controller(Settings(), "w2")
    running = asyncio.create_task(controller.run(producer=None))
    await asyncio.sleep(0)
    assert controller.running and not other.running
    await controller.resign()
    await asyncio.wait_for(running, 10)  # returns, raises nothing: the agent goes on to its end
    assert not controller.running
    running = asyncio.create_task(other.run(producer=None))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


class Heartbeats:
    """Counts the records of a controller."""

    def __init__(self) -> None:
        self.records = []

    def stats(self, key, record) -> None:
        self.records.append((key, record["kind"]))


def test_a_heartbeat_joins_a_statistics_record_while_the_term_ticks(monkeypatch):
    sent, settings = Heartbeats(), Settings(session_timeout_s=10)
    controller = Controller(settings, "w1")
    controller.join_heartbeat()  # not the leader
    term = Term(settings, "controller-w1", controller._predictor, sent, controller.stats, dict)
    controller._term = term
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    controller.join_heartbeat()
    assert not sent.records  # before the first tick
    term._ticked_s = now_s
    controller.join_heartbeat()
    controller.join_heartbeat()
    assert sent.records == [("controller-w1", "controller")]  # one of them is enough
    now_s += 4.9
    controller.join_heartbeat()
    assert len(sent.records) == 2
    now_s += 0.6
    controller.join_heartbeat()
    assert len(sent.records) == 2  # half a session timeout without a tick: another worker may lead


async def test_the_system_is_read_again_when_a_record_comes_or_gets_too_old(monkeypatch):
    stats = StatsFollower(Settings())
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    record = {"v": VERSION, "kind": "worker", "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}}
    stats.consume("w1", orjson.dumps(record))
    first = stats.view()
    assert stats.view() is first and list(first.workers) == ["w1"]
    assert stats.view(60.0) is not first
    now_s += 2.0
    stats.consume("w2", orjson.dumps(record | {"kind": "edge"}))
    second = stats.view()
    assert stats.view() is second is not first and list(second.workers) == ["w1"] and list(second.edges) == ["w2"]
    now_s += 1.5
    assert not stats.view().workers and list(stats.view().edges) == ["w2"]
    now_s += 2.0
    assert not stats.view().edges
    stats.reset()
    assert not stats.view(60.0).edges
