"""Whether ``klais_raw`` is still the log that a lane has read, from the fingerprints in its checkpoint."""

from typing import Any

from klais.core.lane.journal import fingerprint
from klais.core.lane.state import LaneState
from klais.core.wire.batch import decode_batch
from klais.errors import BatchFormatError
from klais.kafka.buffered_records import report_damaged
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get

log = get("klais.worker.raw_landmarks")


async def compare_landmarks(
    reader: PartitionReader, topic: str, partition: int, state: LaneState, bounds: tuple[int, int]
) -> tuple[tuple[int, bool], ...]:
    """Each landmark with whether the record there is the one that was taken; see :class:`RecoveryInputs`.

    Landmarks without any record at their offset are left out: somebody switched compaction on, which removes records
    inside the log. Then the remaining records after the last known one are read too: all must be batches that were
    taken before; the first that is not shows that the log is another one.

    Parameters
    ----------
    reader, topic, partition
        The log.
    state : LaneState
        As of the checkpoint.
    bounds : tuple of int
        First and end offset of the log.
    """
    start, end = bounds
    out: list[tuple[int, bool]] = []
    vanished = list[int]()
    for offset, wanted in state.landmarks:
        if offset < start:
            continue
        try:
            found: Any = await reader.record_at(topic, partition, offset) if offset < end else None
        except CorruptRecords as error:  # it says nothing about the log; there are others
            report_damaged(topic, partition, offset, error.next_offset - 1)
            continue
        if found is None and offset < end:
            vanished.append(offset)
        else:
            out.append((offset, found is not None and fingerprint(found.value or b"") == wanted))
    if vanished and all(same for _, same in out):
        log.error("raw_records_vanished", partition=partition, offsets=vanished[-5:], why="was the topic compacted?")
        begin = max([start, *(offset + 1 for offset, _ in out)])
        new = await _first_new(reader, topic, partition, state, (begin, min(end, state.next_raw)))
        out += [] if new is None else [(new, False)]
    return tuple(out)


async def _first_new(
    reader: PartitionReader, topic: str, partition: int, state: LaneState, bounds: tuple[int, int]
) -> int | None:
    """The first offset between two with a batch that was not taken before; None if there is none."""
    begin, end = bounds
    if begin >= end:
        return None
    async for record in reader.read(topic, partition, begin, end):
        try:
            batch = decode_batch(record.value or b"")
        except BatchFormatError:
            continue  # it has no number by which it could be recognized
        if not state.boots.has(batch.edge, batch.boot, batch.number):
            return record.offset
    return None
