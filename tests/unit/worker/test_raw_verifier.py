"""A log that was truncated and grew again: records that were read are compared with the present ones, rarely all."""

from collections import deque

import pytest
from aiokafka.structs import TopicPartition

from klais.core.lane.journal import fingerprint
from klais.errors import LaneFailed, OffsetGone
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import RawRecord
from klais.worker import raw_verifier as module
from klais.worker.raw_verifier import RawVerifier


class Log:
    """klais_raw, as a PartitionReader reads it: values with the epoch of the leader that appended each."""

    def __init__(self) -> None:
        self.start, self.records, self.leader = 0, [], 0
        self.reads, self.damaged, self.vanished = 0, set(), set()
        self.asked, self.together = [], True

    def append(self, *values: bytes) -> None:
        self.records += [(value, self.leader) for value in values]

    def cut(self, end: int) -> None:
        """A leader that lost what lies behind ``end``."""
        self.leader += 1
        del self.records[end:]

    async def offsets(self, topic, partition):
        return self.start, len(self.records)

    async def two_records(self, topic, partition, first, last):
        self.asked.append((first, last))
        if not self.together or {first, last} & (self.damaged | self.vanished):
            return None
        if first < self.start or last >= len(self.records):
            return None
        (one, _), (other, leader) = self.records[first], self.records[last]
        return RawRecord(first, None, one, ()), RawRecord(last, None, other, ()), leader

    async def record_and_leader(self, topic, partition, offset):
        self.asked.append(offset)
        if not self.start <= offset < len(self.records):
            return None, -1
        if offset in self.damaged:
            raise CorruptRecords(TopicPartition(topic, partition), offset, offset + 1)
        value, leader = self.records[offset]
        return None if offset in self.vanished else RawRecord(offset, None, value, ()), leader

    async def read(self, topic, partition, start, end):
        self.reads += 1
        if start < self.start:
            raise OffsetGone("gone", self.start, len(self.records))
        for offset in range(start, min(end, len(self.records))):
            if offset not in self.damaged | self.vanished:
                yield RawRecord(offset, None, self.records[offset][0], ())


class Lane:
    """Takes what lies on the log."""

    def __init__(self) -> None:
        self.log, self.unverified, self.next_raw = Log(), deque(), 0
        self.taken = RawVerifier(self.unverified, self.log, "raw", 3)

    def take(self) -> None:
        for offset in range(self.next_raw, len(self.log.records)):
            self.unverified.append((offset, fingerprint(self.log.records[offset][0])))
        self.next_raw = max(self.next_raw, len(self.log.records))


@pytest.fixture(params=[True, False], ids=["one request", "two requests"])
async def lane(request) -> Lane:
    """A lane that has taken three records, which were compared; where one request may bring two records, or not."""
    it = Lane()
    it.log.together = request.param
    it.log.append(b"a", b"b", b"c")
    it.take()
    assert await it.taken.verify() and not it.unverified
    return it


async def test_with_one_leader_two_records_are_compared_and_the_log_is_not_read(lane):
    reads = lane.log.reads
    for _ in range(3):
        lane.log.append(b"d", b"e", b"f")
        lane.take()
        assert await lane.taken.verify() and not lane.unverified
    assert lane.log.reads == reads


@pytest.mark.parametrize("lane", [True], indirect=True)
async def test_records_that_are_close_together_take_one_request(lane):
    lane.log.append(b"d", b"e")
    lane.take()
    lane.log.asked.clear()
    assert await lane.taken.verify() and lane.log.asked == [(2, 4)]
    lane.log.append(*[b"x"] * module.NEAR, b"y")
    lane.take()
    lane.log.asked.clear()
    assert await lane.taken.verify() and lane.log.asked == [5 + module.NEAR, 4]


@pytest.mark.parametrize("lane", [False], indirect=True)
async def test_records_that_do_not_fit_one_answer_are_not_asked_for_together_for_a_while(lane):
    lane.log.together = False
    for turn in range(module.FAR_CHECKS + 2):
        lane.log.append(b"d")
        lane.take()
        lane.log.asked.clear()
        assert await lane.taken.verify()
        end = len(lane.log.records) - 1
        tried = turn in (0, module.FAR_CHECKS + 1)
        assert lane.log.asked == [*([(end - 1, end)] if tried else []), end, end - 1]


async def test_a_new_leader_that_lost_nothing(lane):
    lane.log.append(b"d")
    lane.log.cut(4)
    lane.log.append(b"e")
    lane.take()
    assert await lane.taken.verify()


@pytest.mark.parametrize("end", [0, 2, 3, 4])
async def test_a_log_that_was_cut_and_grew_beyond_what_was_taken(lane, end):
    lane.log.append(b"d", b"e")
    lane.take()
    lane.log.cut(end)
    lane.log.append(*(b"new %d" % k for k in range(9)))
    lane.take()  # what it goes on with is of the new log, and there
    with pytest.raises(LaneFailed, match=f"another record at offset {2 if end < 3 else end}"):
        await lane.taken.verify()


async def test_a_log_that_was_deleted_and_begins_with_the_same_epoch(lane):
    lane.log.records = [(b"other %d" % k, 0) for k in range(9)]
    lane.take()
    with pytest.raises(LaneFailed, match="another record at offset 2"):
        await lane.taken.verify()


async def test_what_retention_removes_may_go(lane):
    lane.log.append(b"d", b"e")
    lane.take()
    lane.log.start = 4
    assert await lane.taken.verify() and not lane.unverified
    lane.log.start = 5
    assert await lane.taken.verify()


async def test_a_log_that_ends_too_early_is_waited_for_and_then_lost(lane, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "LEADER_CHANGE_S", 0.0)
    lane.log.cut(2)
    assert not await lane.taken.verify()
    with pytest.raises(LaneFailed, match="raw ends before records that the lane has read"):
        await lane.taken.verified()
    lane.log.append(b"c")
    await lane.taken.verified()


@pytest.mark.parametrize("damaged", [{4}, {2, 4}, {0, 1, 2, 3, 4}])
async def test_damaged_records_are_there_and_a_cut_is_still_seen(lane, damaged):
    lane.log.append(b"d", b"e")
    lane.take()
    lane.log.damaged = damaged
    assert await lane.taken.verify() and await lane.taken.verify() and not lane.unverified
    lane.log.append(b"f")
    lane.take()
    assert await lane.taken.verify()
    lane.log.cut(5)
    lane.log.append(b"x")
    with pytest.raises(LaneFailed, match="another record at offset 5"):
        await lane.taken.verify()


async def test_records_that_compaction_removed_cannot_be_compared_and_the_others_are():
    lane = Lane()
    lane.log.append(*[b"%d" % n for n in range(6)])
    lane.take()
    assert await lane.taken.verify()
    lane.log.vanished |= {2, 5}  # also the newest
    assert await lane.taken.verify()
    lane.log.append(b"6", b"7")
    lane.take()
    lane.log.vanished |= {6}
    assert await lane.taken.verify() and not lane.unverified
    lane.log.cut(7)
    lane.log.append(b"other")
    with pytest.raises(LaneFailed, match="another record at offset 7"):
        await lane.taken.verify()


async def test_offsets_that_cannot_be_compared_are_forgotten_when_later_records_were(lane):
    for _ in range(100):
        lane.log.append(b"d")
        lane.log.vanished.add(len(lane.log.records) - 1)
        lane.take()
        assert await lane.taken.verify()
    assert len(lane.taken._unreadable) <= 2
