"""What the mender does about commits that Faust gives up: a consumer that refuses, as one does while it is rebalancing."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
from faust.types import TP

from agents import commits
from agents.commits import CommitMender


class Refusing:
    """The parts of Faust's consumer that the mender touches; refuses commits while ``refuses``."""

    def __init__(self) -> None:
        self._committed_offset: dict[TP, int | None] = defaultdict(lambda: None)
        self.refuses = False
        self.broker: dict[TP, int] = {}
        self.gaps: list[tuple[TP, int, int]] = []

    def assignment(self) -> set[TP]:
        return {TP("raw", 0), TP("raw", 1)}

    async def _commit(self, offsets) -> bool:
        if not self.refuses:
            self.broker.update(offsets)
        return not self.refuses

    async def commit_as_faust_does(self, offsets) -> None:
        await self._commit(offsets)
        self._committed_offset.update(offsets)  # whether it was done or not

    async def _add_gap(self, tp, begin, end) -> None:
        self.gaps.append((tp, begin, end))


@pytest.fixture
def consumer():
    return Refusing()


async def test_what_a_rebalance_refused_is_committed_again(consumer):
    mender, tp = CommitMender(SimpleNamespace(consumer=consumer), "raw"), TP("raw", 0)
    await mender(0, 0)
    consumer.refuses = True
    await consumer.commit_as_faust_does({tp: 7})
    await mender(0, 7)
    assert consumer.broker == {}
    consumer.refuses = False
    await mender(0, 6)
    assert consumer.broker == {}, "never below what was asked for"
    await mender(1, 5)
    assert consumer.broker == {}, "the other partition has nothing to mend"
    await mender(0, 7)
    assert consumer.broker == {tp: 7}
    consumer.broker.clear()
    await mender(0, 7)
    assert consumer.broker == {}, "once is enough"


async def test_a_partition_that_went_elsewhere_is_left_alone(consumer):
    mender, tp = CommitMender(SimpleNamespace(consumer=consumer), "raw"), TP("raw", 2)
    await mender(2, 0)
    consumer.refuses = True
    await consumer.commit_as_faust_does({tp: 7})
    consumer.refuses = False
    await mender(2, 7)
    assert consumer.broker == {}


async def test_a_hole_at_the_head_is_filled_once_the_offset_stands_still(consumer, monkeypatch):
    monkeypatch.setattr(commits, "STUCK_S", 0.0)
    mender, tp = CommitMender(SimpleNamespace(consumer=consumer), "raw"), TP("raw", 0)
    consumer._committed_offset[tp] = 3
    await mender(0, 9)
    await mender(0, 9)
    assert consumer.gaps == [(tp, 3, 8)]
    consumer._committed_offset[tp] = 9
    await mender(0, 9)
    assert len(consumer.gaps) == 1
