"""``klais_control`` deleted and created again while everything runs: what was confirmed is in force, and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from confluent_kafka import Producer

from klais.config.load import Settings
from klais.control.incidents import mute_scope
from klais.control.overrides import device_scope, following, write
from klais.control.setpoints import GLOBAL, OVERRIDE, ControlFollower
from klais.kafka.admin import ensure_topics
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics
from klais.telemetry.stats import StatsPublisher
from klais.worker.controller import Controller
from tests.support.lanes import recreate, remove, until
from tests.support.topics import alter

Make = Callable[..., Settings]
BLOCK = {"block": True}
MUTE = mute_scope("device", "x")


@asynccontextmanager
async def follower(settings: Settings) -> AsyncIterator[ControlFollower]:
    """The follower of an edge or a worker."""
    control = ControlFollower(settings)
    control.start()
    try:
        assert await asyncio.to_thread(control.wait_caught_up, 60)
        await until(lambda: control.topic_id, "its topic known")
        yield control
    finally:
        await asyncio.to_thread(control.stop)


@asynccontextmanager
async def leader(settings: Settings, control: ControlFollower, name: str = "w1") -> AsyncIterator[Controller]:
    """A worker that leads."""
    producer = ControlProducer(settings, name)
    controller = Controller(settings, name, control=control)
    reports = StatsPublisher(producer, "worker", name, lambda: ({}, {}))
    reports.start()

    async def candidate() -> None:
        while True:
            await controller.run(producer)
            await asyncio.sleep(0.1)

    running = asyncio.create_task(candidate())
    try:
        await until(lambda: controller.statistics().is_leader, "it leads")
        yield controller
    finally:
        await controller.resign()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        reports.stop()
        producer.close()


def on_the_topic(settings: Settings) -> dict[str, dict]:
    """What a process that starts now finds."""
    with following(settings) as fresh:
        return fresh.records()


async def operators_ask(settings: Settings) -> None:
    for scope, changes in (
        (device_scope("one"), BLOCK),
        (device_scope("two"), {"rate": 5.0}),
        (OVERRIDE, {"mode": "manual", "rate": 4321.0}),
        (MUTE, {"mute": True}),
    ):
        await asyncio.to_thread(write, settings, scope, changes, "ann", "a test")


async def test_blocks_and_rates_are_in_force_all_the_time_and_on_the_new_topic_again(settings_for: Make) -> None:
    settings = settings_for(partitions=1, control_auto=True)
    await asyncio.to_thread(ensure_topics, settings)
    asked = {device_scope("one"), device_scope("two"), OVERRIDE, MUTE}
    async with follower(settings) as worker, follower(settings) as edge, leader(settings, worker) as controller:
        await operators_ask(settings)
        await until(lambda: edge.rate(1.0) == 4321.0 and asked <= edge.records().keys(), "all followed")
        before = {scope: edge.record(scope) for scope in asked}
        terms = controller.statistics().terms
        held = True

        async def watch() -> None:
            nonlocal held
            while True:
                held = held and b"one" in edge.blocked() and edge.rate(1.0) == 4321.0 and b"two" in edge.device_limits()
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        await asyncio.to_thread(recreate, settings, Topics.of(settings).control)
        await until(lambda: edge.replacements and worker.replacements, "noticed")
        await until(lambda: not edge.missing() and not worker.missing(), "written again", 20)
        await until(lambda: controller.statistics().terms > terms and controller.statistics().is_leader, "a new fence")
        watching.cancel()
        assert held, "never without the block or the rates"
        there = await asyncio.to_thread(on_the_topic, settings)
        assert {scope: there.get(scope) for scope in asked} == before
        assert "mode" in there[GLOBAL], "decisions go on"
        assert edge.problem() is None and worker.problem() is None


async def test_a_worker_that_becomes_the_leader_later_writes_it_again(settings_for: Make) -> None:
    """No controller leads while the topic is replaced: what nobody has written again is a problem until then."""
    settings = settings_for(partitions=1)
    await asyncio.to_thread(ensure_topics, settings)
    async with follower(settings) as worker, follower(settings) as edge:
        await operators_ask(settings)
        await until(lambda: b"one" in edge.blocked() and len(worker.records()) == 4, "all followed")
        await asyncio.to_thread(recreate, settings, Topics.of(settings).control)
        await until(lambda: edge.replacements and worker.replacements, "noticed")
        await asyncio.to_thread(write, settings, device_scope("one"), {"unblock": True}, "bob", "meanwhile")
        text = await until(edge.problem, "the problem told")
        assert "lacked 3" in text and "(override, device/two, mute/device/x)" in text
        async with leader(settings, worker):
            await until(lambda: not edge.missing(), "written again")
            there = await asyncio.to_thread(on_the_topic, settings)
        assert there[OVERRIDE]["rate"] == 4321.0 and there[device_scope("two")]["rate"] == 5.0 and MUTE in there
        assert there[device_scope("one")]["unblock"] is True and edge.blocked() == {}, "the newer change counts"
        assert edge.problem() is None


async def test_records_that_somebody_removed_from_the_topic_come_back(settings_for: Make, monkeypatch) -> None:
    """With another ``cleanup.policy`` for a moment: the topic is the same, and keeps its end."""
    monkeypatch.setattr("klais.kafka.follower.LOW_S", 1.0)
    settings = settings_for(partitions=1)
    await asyncio.to_thread(ensure_topics, settings)
    async with follower(settings) as worker, leader(settings, worker):
        await operators_ask(settings)
        asked = {device_scope("one"), device_scope("two"), OVERRIDE, MUTE}
        await until(lambda: asked <= worker.records().keys() and worker._low == 0, "all followed")
        topic = Topics.of(settings).control
        await asyncio.to_thread(alter, settings, topic, cleanup_policy="delete")
        await asyncio.to_thread(remove, settings, topic)
        await asyncio.to_thread(ensure_topics, settings, fix=True)
        await until(lambda: worker.replacements and not worker.missing(), "written again")
        assert b"one" in worker.blocked() and worker.problem() is None
        there = await asyncio.to_thread(on_the_topic, settings)
        assert there[OVERRIDE]["rate"] == 4321.0 and there[device_scope("one")]["block"] is True and MUTE in there


async def test_a_foreign_transaction_that_stays_open_holds_up_no_set_point(settings_for: Make) -> None:
    """And what it aborts was applied by nobody but for a moment: a later record of the scope counts."""
    settings = settings_for(partitions=1)
    await asyncio.to_thread(ensure_topics, settings)
    topic = Topics.of(settings).control
    stranger = Producer({"bootstrap.servers": settings.bootstrap, "transactional.id": f"{topic}-stranger"})
    await asyncio.to_thread(stranger.init_transactions, 60)
    stranger.begin_transaction()
    stranger.produce(topic, orjson.dumps({"mute": True}), MUTE.encode(), partition=0)
    assert stranger.flush(60) == 0
    async with follower(settings) as edge:
        await asyncio.to_thread(write, settings, device_scope("one"), BLOCK, "ann", "a test")
        await until(lambda: b"one" in edge.blocked(), "followed behind the open transaction")
        await asyncio.to_thread(stranger.abort_transaction, 60)
        await asyncio.to_thread(write, settings, device_scope("two"), BLOCK, "ann", "a test")
        await until(lambda: b"two" in edge.blocked(), "and behind an aborted one")
