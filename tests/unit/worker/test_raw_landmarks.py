"""Whether ``klais_raw`` is the log that a lane has read: same records, other ones, or none because of compaction."""

from collections.abc import Mapping

import pytest
from aiokafka.structs import TopicPartition

from klais.core.lane.journal import fingerprint
from klais.core.lane.state import LaneState
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import RawRecord
from klais.worker.raw_landmarks import compare_landmarks
from tests.support.lane import T0_NS, batch, frames

OLD = [batch(frames(("a", n)), n) for n in range(10)]
NEW = [batch(frames(("a", n)), n, boot=2) for n in range(20)]


class Log:
    """klais_raw as a PartitionReader reads it: values by offset, holes between them."""

    def __init__(self, values: Mapping[int, bytes | None], damaged: frozenset[int] = frozenset()) -> None:
        self.values, self.damaged, self.reads = values, damaged, 0

    async def record_at(self, topic, partition, offset):
        if offset in self.damaged:
            raise CorruptRecords(TopicPartition(topic, partition), offset, offset + 1)
        return RawRecord(offset, None, self.values[offset], ()) if offset in self.values else None

    async def read(self, topic, partition, start, end):
        self.reads += 1
        for offset, value in sorted(self.values.items()):
            if start <= offset < end:
                yield RawRecord(offset, None, value, ())


def lane() -> LaneState:
    """A lane that has taken OLD."""
    state = LaneState()
    state.landmarks = [(offset, fingerprint(value)) for offset, value in enumerate(OLD)]
    for offset in range(len(OLD)):
        state.seen_batch(1, 1, offset, T0_NS)
    state.next_raw = len(OLD)
    return state


def but(*gone: int) -> dict[int, bytes]:
    return {offset: value for offset, value in enumerate(OLD) if offset not in gone}


LOGS: dict[str, tuple[Mapping[int, bytes | None], tuple[int, int], list[bool]]] = {
    "the same": (dict(enumerate(OLD)), (0, 10), [True] * 10),
    "its beginning expired": (but(0, 1, 2, 3), (4, 10), [True] * 6),
    "cut": (but(7, 8, 9), (0, 7), [True] * 7 + [False] * 3),
    "another": (dict(enumerate(NEW)), (0, 20), [False] * 10),
    "compacted": (but(0, 1, 2, 5, 9), (0, 10), [True] * 5),
    "all of it": ({12: NEW[12]}, (0, 13), []),
    "some strange": ({3: b"no batch", 12: NEW[12]}, (0, 13), [False]),
    "another, compacted": ({4: NEW[4], 12: NEW[12]}, (0, 13), [False]),
    "cut, grown and compacted": ({**but(7, 8, 9), 8: NEW[8], 11: NEW[11]}, (0, 12), [True] * 7 + [False]),
    "an old batch again at another place": ({3: OLD[2], 12: NEW[12]}, (0, 13), [False]),
    "a transaction marker": ({**dict(enumerate(OLD)), 9: None}, (0, 10), [True] * 9 + [False]),
}


@pytest.mark.parametrize("name", LOGS)
async def test_each_landmark_is_the_same_another_or_left_out(name):
    values, bounds, wanted = LOGS[name]
    found = await compare_landmarks(Log(values), "raw", 0, lane(), bounds)
    assert [same for _, same in found] == wanted


async def test_remaining_batches_that_were_not_taken_show_another_log():
    """None lies at the offset of a landmark, because the lane keeps few of old records."""
    state = lane()
    state.landmarks = state.landmarks[-1:]
    assert await compare_landmarks(Log({3: NEW[3], 12: NEW[12]}), "raw", 0, state, (0, 13)) == ((3, False),)
    assert await compare_landmarks(Log({3: OLD[3], 12: NEW[12]}), "raw", 0, state, (0, 13)) == ()


async def test_a_log_without_holes_is_not_read_again():
    log = Log(dict(enumerate(OLD)))
    await compare_landmarks(log, "raw", 0, lane(), (0, 10))
    assert log.reads == 0


async def test_a_damaged_landmark_says_nothing():
    found = await compare_landmarks(Log(dict(enumerate(OLD)), frozenset({4})), "raw", 0, lane(), (0, 10))
    assert found == tuple((offset, True) for offset in range(10) if offset != 4)
