"""Kafka has forgotten a lane: its worker names the frames that waited, unless their raw records are still there."""

import pytest
from aiokafka.structs import TopicPartition

from klais.core.lane.journal import fingerprint
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import RawRecord
from klais.worker.history import Histories, SessionEnd


class Raw:
    def __init__(self, value: bytes | None, damaged: bool = False) -> None:
        self.value, self.damaged = value, damaged

    async def record_at(self, topic, partition, offset):
        if self.damaged:
            raise CorruptRecords(TopicPartition(topic, partition), offset, offset + 1)
        return None if self.value is None else RawRecord(offset, None, self.value, ())


def end(waiting: int = 7, pending: int = 2, step: int = 50) -> SessionEnd:
    return SessionEnd(step, waiting, pending, (30, fingerprint(b"taken")))


@pytest.mark.parametrize(
    ("known", "raw", "step", "lost"),
    [
        (None, Raw(None), 0, False),
        (end(), Raw(None), 50, False),  # the journal has all steps: a replay says what is lost
        (end(), Raw(b"taken"), 0, False),  # decided again
        (end(0, 0), Raw(None), 0, False),
        (end(), Raw(None), 0, True),
        (end(), Raw(None), 49, True),
        (end(), Raw(b"other"), 0, True),
        (end(), Raw(None, damaged=True), 0, True),
        (end(0, 1), Raw(None), 0, True),
    ],
)
async def test_what_waited_is_lost_only_with_lane_and_raw_records(known, raw, step, lost):
    histories = Histories()
    if known is not None:
        histories.note(3, known)
    text = await histories.lost(raw, "klais_raw", 3, step)
    assert bool(text) == lost
    if lost:
        assert f"{known.waiting} frames that waited and {known.pending} that were being sent" in text
    assert await histories.lost(raw, "klais_raw", 4, step) == ""
