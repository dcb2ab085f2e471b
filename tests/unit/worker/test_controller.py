"""The controller around its terms: what it counts, and that a worker that ends stands no more."""

import asyncio

import pytest

from klais.config.load import Settings
from klais.control.decide import LoopState, decide
from klais.control.forecast import NOTHING
from klais.control.measure import measure
from klais.control.operator_requests import gains_of, operator_request, targets_of
from klais.control.setpoints import ControlFollower
from klais.kafka.stats import StatsFollower
from klais.telemetry.view import SystemView
from klais.worker.controller import Controller, ControllerStatistics


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
