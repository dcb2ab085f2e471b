"""Commit repair: Faust's own bookkeeping, and a broker that refuses commits, as one does during a rebalance."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.transport.consumer import Consumer
from faust.types import TP

from agents.faust_ext import commits
from agents.faust_ext.commits import CommitRepair

TP0, TP1, ELSEWHERE = TP("raw", 0), TP("raw", 1), TP("raw", 2)
NEWEST = 1000  # what a lane would acknowledge next; far ahead where it does not matter


@dataclass(eq=False)
class Record:
    """What Faust reads of a message that is acknowledged."""

    tp: TP
    offset: int
    acked: bool = False
    topic: str = "raw"


class Refusing(Consumer):
    """Faust's consumer, with a broker that refuses commits while ``refuses``."""

    refuses = False
    coordinator: asyncio.Event | None = None  # a commit waits until it is set
    broker: dict[TP, int]

    def assignment(self) -> set[TP]:
        return {TP0, TP1}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        if self.coordinator is not None:
            await self.coordinator.wait()
        if not self.refuses:
            self.broker.update(offsets)
        return not self.refuses

    def acknowledge(self, tp: TP, begin: int, end: int) -> None:
        """What acknowledging the records of a stream comes to."""
        for offset in range(begin, end):
            self.ack(Record(tp, offset))


Refusing.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]  # what talks to a broker is not needed here


@pytest.fixture
async def consumer(monkeypatch):
    app: Any = faust.App("commits", broker="kafka://localhost:1", store="memory://")
    app.topics.acks_enabled_for = lambda topic: True
    monkeypatch.setattr(type(app), "producer", SimpleNamespace(flush=_nothing))
    consumer = Refusing(
        app.transport, callback=_nothing, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing
    )
    consumer.broker = {}
    return consumer


async def _nothing(*_: Any) -> None:
    """Does nothing."""


async def test_what_a_rebalance_refused_is_committed_again(consumer):
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    await repair(0, 0, NEWEST)
    consumer.refuses = True
    consumer.acknowledge(TP0, 0, 7)
    await consumer.commit()
    await repair(0, 7, NEWEST)
    assert consumer.broker == {}
    consumer.refuses = False
    await repair(0, 6, NEWEST)
    assert consumer.broker == {}, "never below what was asked for"
    await repair(1, 5, NEWEST)
    assert consumer.broker == {}, "the other partition needs no repair"
    await repair(0, 7, NEWEST)
    assert consumer.broker == {TP0: 7}
    consumer.broker.clear()
    await repair(0, 7, NEWEST)
    assert consumer.broker == {}, "once is enough"


async def test_a_partition_that_went_elsewhere_is_left_alone(consumer, monkeypatch):
    monkeypatch.setattr(commits, "STUCK_S", 0.0)
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    consumer._committed_offset[ELSEWHERE] = 3
    for _ in range(3):
        await repair(2, 7, NEWEST)
    assert consumer.broker == {}
    consumer.refuses = True
    await consumer._commit({ELSEWHERE: 7})
    consumer.refuses = False
    await repair(2, 7, NEWEST)
    assert consumer.broker == {}


@pytest.mark.parametrize("left", [[], [(5, 7)], [(7, 12)], [(5, 7), (8, 9), (10, 12)]])
async def test_a_hole_at_the_head_is_committed_over_once_the_offset_stands_still(consumer, monkeypatch, left):
    """Whatever is on Faust's list: nothing, some below the offset that is done, some above."""
    monkeypatch.setattr(commits, "STUCK_S", 0.0)
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    consumer._committed_offset[TP0] = 3
    for begin, end in left:
        consumer.acknowledge(TP0, begin, end)
    await consumer.commit()
    assert consumer.broker == {}, "Faust waits for the hole"
    await repair(0, 9, NEWEST)
    await repair(0, 9, NEWEST)
    assert consumer.broker == {TP0: 9}
    consumer.acknowledge(TP0, 9, 30)
    await consumer.commit()
    assert consumer.broker == {TP0: 30}, "and Faust goes on by itself, all in one commit"
    await repair(0, 30, NEWEST)
    assert not consumer._acked[TP0] and not consumer._acked_index[TP0]


async def test_a_refused_repair_is_tried_again(consumer, monkeypatch):
    monkeypatch.setattr(commits, "STUCK_S", 0.0)
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    consumer._committed_offset[TP0] = 3
    consumer.refuses = True
    await repair(0, 9, NEWEST)
    await repair(0, 9, NEWEST)
    consumer.refuses = False
    await repair(0, 9, NEWEST)
    assert consumer.broker == {TP0: 9}


async def test_a_group_without_a_coordinator_does_not_keep_checkpoints_waiting(consumer, monkeypatch):
    """aiokafka tries a commit again without end, while the brokers of the lane's own topics answer."""
    monkeypatch.setattr(commits, "STUCK_S", 0.0)
    monkeypatch.setattr(commits, "COMMIT_S", 0.01)
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    consumer._committed_offset[TP0] = 3
    consumer.acknowledge(TP0, 5, 7)
    consumer.coordinator = asyncio.Event()
    async with asyncio.timeout(60):
        await repair(0, 9, NEWEST)
        await repair(0, 9, NEWEST)
    assert consumer.broker == {} and consumer._acked[TP0] == [5, 6] and consumer._committed_offset[TP0] == 3
    consumer.coordinator.set()
    monkeypatch.setattr(commits, "COMMIT_S", 60.0)
    await repair(0, 9, NEWEST)
    assert consumer.broker == {TP0: 9} and consumer._acked[TP0] == []


async def test_a_group_whose_offset_is_beyond_what_a_lane_took_goes_back_there(consumer):
    repair = CommitRepair(SimpleNamespace(consumer=consumer), "raw")
    consumer._committed_offset[TP0] = 500  # as an operator set it
    consumer.acknowledge(TP0, 0, 10)
    await consumer.commit()
    assert consumer.broker == {}, "Faust drops acknowledgements below the offset that it takes for committed"
    await repair(0, 0, 10)
    assert consumer.broker == {TP0: 10}
    consumer.acknowledge(TP0, 10, 12)
    await consumer.commit()
    assert consumer.broker == {TP0: 12}, "and Faust goes on by itself"
