"""The hand-over to a lane: nothing is lost by it, and nobody waits for a lane that is not live."""

import asyncio
from types import SimpleNamespace

import pytest

from klais.core.lane.state import LaneState
from klais.errors import LaneFailed, OffsetGone
from klais.kafka.reader import RawRecord
from klais.worker import intake as module
from klais.worker.intake import Intake, Raw


class Consumer:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def pause(self, partition):
        self.calls.append(("pause", partition))

    def resume(self, partition):
        self.calls.append(("resume", partition))

    async def seek(self, partition, offset):
        self.calls.append(("seek", partition, offset))


class Log:
    """klais_raw, as a PartitionReader reads it: offsets from ``start`` to ``end`` whose values are their offsets.

    ``holes``: offsets at which nothing lies. ``controls``: those of markers of transactions.
    """

    def __init__(self, start: int, end: int, holes: set[int] = frozenset(), controls: set[int] = frozenset()) -> None:
        self.start, self.end, self.read_from = start, end, []
        self.holes, self.controls = holes, controls

    async def offsets(self, topic, partition):
        return self.start, self.end

    async def read(self, topic, partition, start, end, controls=False):
        if not self.start <= start <= self.end:
            raise OffsetGone("gone", self.start, self.end)
        self.read_from.append((start, end))
        for offset in range(start, min(end, self.end)):
            await asyncio.sleep(0)
            if offset in self.controls and controls:
                yield RawRecord(offset, None, None, (), control=True)
            elif offset not in self.holes | self.controls:
                yield RawRecord(offset, None, b"%d" % offset, ())


class Stream:
    def __init__(self) -> None:
        self.acked: list[int] = []

    async def ack(self, event):
        self.acked.append(event.message.offset)


def event(offset: int, value: bytes | None = b"?"):
    return SimpleNamespace(message=SimpleNamespace(offset=offset, value=value), value=value)


def deciding(intake: Intake, log: Log):
    """A lane that takes each record at once; what it took."""
    state, taken = LaneState(), []

    async def run():
        async for raw in intake.records(state, log):
            taken.append(raw)
            state.next_raw = raw.offset + 1

    return state, taken, asyncio.create_task(run())


async def turn(times: int = 200) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_offsets_without_a_record_are_lost_and_those_of_control_records_are_not():
    intake, log = Intake("raw", 3, Consumer()), Log(0, 10, holes={2, 3, 8}, controls={0, 5, 9})
    state, taken, task = deciding(intake, log)
    intake.fetch_up_to(10)
    await turn()
    task.cancel()
    lost = [raw.offset for raw in taken if raw.value is None]
    assert [raw.offset for raw in taken if raw.value is not None] == [1, 4, 6, 7]
    assert lost == [3, 8] and state.next_raw == 10


async def test_offsets_beyond_the_end_of_the_log_are_not_taken_for_lost():
    intake = Intake("raw", 3, Consumer())
    state, taken, task = deciding(intake, Log(0, 3))
    intake.fetch_up_to(5)
    with pytest.raises(LaneFailed, match="raw ends at 3, it had records up to 5"):
        await asyncio.wait_for(task, 30)
    assert [raw.offset for raw in taken] == [0, 1, 2] and state.next_raw == 3


async def test_the_agent_never_waits_for_a_lane_that_is_not_live():
    consumer, stream = Consumer(), Stream()
    intake = Intake("raw", 3, consumer)
    for offset in range(1000):
        await asyncio.wait_for(intake.put(stream, event(offset, b"x" * 100_000)), 1)
    assert consumer.calls == [("pause", 3)] and intake.idle


async def test_what_was_dropped_meanwhile_is_read_again_in_order():
    consumer, stream, log = Consumer(), Stream(), Log(0, 8)
    intake = Intake("raw", 0, consumer)
    for offset in range(3):
        await intake.put(stream, event(offset))
    _, taken, task = deciding(intake, log)
    await intake.open(0)
    assert consumer.calls[-2:] == [("seek", 0, 0), ("resume", 0)]
    for offset in (1, 2, 5, 6, 7):  # what the consumer delivers after a seek may overlap, and leave holes
        await intake.put(stream, event(offset))
    await turn()
    assert [raw.offset for raw in taken] == list(range(8))
    await intake.acknowledge(6)
    assert stream.acked == [1, 2, 5]  # those of before the seek come again
    task.cancel()


async def test_records_of_a_log_that_was_replaced_hold_up_no_acknowledgement():
    stream = Stream()
    intake = Intake("raw", 0, Consumer())
    await intake.open(0)
    for offset in (90, 91, 3):
        await intake.put(stream, event(offset))
    await intake.open(4)  # recovery went back: offsets 90 and 91 are others now
    await intake.put(stream, event(4))
    await intake.acknowledge(5)
    assert stream.acked == [3, 4]


async def test_a_busy_lane_holds_the_agent_up_for_a_bounded_time_only(monkeypatch):
    monkeypatch.setattr(module, "LANE_WAIT_S", 0.01)
    consumer, stream, log = Consumer(), Stream(), Log(0, 300)
    intake = Intake("raw", 0, consumer)
    await intake.open(0)
    for offset in range(300):  # nobody decides
        await intake.put(stream, event(offset))
    assert consumer.calls.count(("pause", 0)) == 1
    _, taken, task = deciding(intake, log)
    await turn(2000)
    assert [raw.offset for raw in taken] == list(range(300)) and consumer.calls[-1] == ("resume", 0)
    task.cancel()


async def test_a_session_that_ended_leaves_nothing_to_the_next_one():
    consumer, stream, log = Consumer(), Stream(), Log(0, 50)
    intake = Intake("raw", 0, consumer)
    await intake.open(0)
    for offset in range(10):
        await intake.put(stream, event(offset))
    intake.close()
    await intake.put(stream, event(10))
    _, taken, task = deciding(intake, log)
    await intake.open(0)
    intake.fetch_up_to(11)
    await turn()
    assert [raw.value for raw in taken] == [b"%d" % offset for offset in range(11)]  # all from the log
    task.cancel()


async def test_a_null_value_is_an_empty_one_and_expired_records_are_said_to_be_lost():
    consumer, stream, log = Consumer(), Stream(), Log(5, 9)
    intake = Intake("raw", 0, consumer)
    _, taken, task = deciding(intake, log)
    await intake.open(0)
    await intake.put(stream, event(8, None))
    await turn()
    assert taken[0] == Raw(4, None)
    assert [raw.offset for raw in taken] == [4, 5, 6, 7, 8] and taken[-1].value == b""
    task.cancel()


async def test_events_that_no_checkpoint_acknowledges_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_UNACKED", 10)
    stream, intake = Stream(), Intake("raw", 3, Consumer())
    for offset in range(100):
        await intake.put(stream, event(offset))
    await intake.acknowledge(99)
    assert stream.acked == [*range(90, 99)]
    await intake.acknowledge(100)
    assert stream.acked == [*range(90, 100)]
