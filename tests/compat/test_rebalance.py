"""Lanes in Faust's own order of a rebalance and its recovery: the real application, a consumer without a broker."""

import asyncio
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from klais.config.load import Settings
from klais.worker import lanes as lanes_module


class Lane:
    """A lane that only runs; ``running`` has the partitions of those that do, ``started`` of all."""

    running: list[int] = []
    started: list[int] = []

    def __init__(self, context: Any, partition: int) -> None:
        self.partition = partition

    def start(self) -> None:
        self.running.append(self.partition)
        self.started.append(self.partition)

    def report_statistics(self) -> None: ...

    async def stop(self) -> None:
        self.running.remove(self.partition)


class Consumer:
    """What Faust's application and recovery need of a consumer. ``answer``: the broker answers."""

    def __init__(self) -> None:
        self.answer, self.asked, self.tps = asyncio.Event(), asyncio.Event(), set[TP]()

    def assignment(self) -> set[TP]:
        return self.tps

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        self.asked.set()
        await self.answer.wait()
        return dict.fromkeys(tps, 0)

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 0)

    async def seek_wait(self, offsets: dict[TP, int]) -> None: ...

    async def perform_seek(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        """Flow control and what else needs no answer."""
        return lambda *_: None


@pytest.fixture
async def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One member of a group: ``assign`` and ``revoke`` as its coordinator does."""
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("klais.telemetry.log.setup", lambda *_: None)
    module = import_module("agents.app")
    monkeypatch.setattr(lanes_module, "Lane", Lane)
    monkeypatch.setattr(lanes_module, "tune_garbage_collector", lambda: None)
    monkeypatch.setattr("klais.worker.runtime.WorkerRuntime._lane_context", context)
    Lane.running, Lane.started = [], []
    settings = Settings(state_dir=tmp_path, kafka_bootstrap="127.0.0.1:1", partitions=4)
    app, consumer = module.create_app(settings), Consumer()
    app.finalize()
    app.topics.maybe_wait_for_subscriptions = nothing
    app._consumer, app._fetcher = consumer, SimpleNamespace(maybe_start=nothing, stop=nothing)
    actives: set[TP] = set()
    app.assignor = SimpleNamespace(assigned_actives=lambda: actives, assigned_standbys=set)
    await app.tables.recovery.start()

    async def revoke() -> None:
        app.on_rebalance_start()
        await app._on_partitions_revoked(set(consumer.tps))

    async def assign(*partitions: int) -> None:
        topics = ("klais_raw", *app.tables.changelog_topics)
        consumer.tps = {TP(topic, partition) for topic in topics for partition in partitions}
        actives.clear()
        actives.update(consumer.tps)
        app.consumer_generation_id += 1
        await app._on_partitions_assigned(set(consumer.tps), app.consumer_generation_id)

    yield SimpleNamespace(app=app, consumer=consumer, revoke=revoke, assign=assign)
    await app.tables.recovery.stop()


async def context(self: Any) -> Any:
    return SimpleNamespace()


async def nothing(*_: Any) -> None: ...


async def runs(*partitions: int) -> None:
    async with asyncio.timeout(60):
        while sorted(Lane.running) != sorted(partitions):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_each_assignment_starts_its_lanes(group: Any) -> None:
    group.consumer.answer.set()
    await group.revoke()
    await group.assign(0, 1)
    await runs(0, 1)
    await group.revoke()
    assert Lane.running == []
    await group.assign(1)
    await runs(1)
    await group.revoke()
    await group.assign(1)
    await runs(1)


async def test_a_recovery_that_ends_after_the_partitions_are_revoked_starts_no_lanes(group: Any) -> None:
    """They would fence the lanes of the next owners, which would then wait for several session time-outs."""
    await group.revoke()
    await group.assign(0, 1)
    await group.consumer.asked.wait()
    await group.revoke()
    ended = asyncio.Event()
    group.app.on_rebalance_end = ended.set
    group.consumer.answer.set()
    await asyncio.wait_for(ended.wait(), 60)  # Faust says that the worker is ready, in the middle of the next rebalance
    assert Lane.started == []
    await group.assign(1)
    await runs(1)
    assert Lane.started == [1]
