"""What a worker remembers of its lanes' sessions, for the case that Kafka forgets everything about a lane.

If all topics of the data path are deleted at once, a recovery finds no checkpoint, and no journal from its start:
nothing shows that frames waited. The worker that had the lane still knows their number.
"""

from dataclasses import dataclass

from klais.core.lane.journal import fingerprint
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get

log = get("klais.worker.history")


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """The end of a session that was live: frames in the queue, and frames decided but not acknowledged as sent.

    ``step``: its last one. ``taken``: raw offset and fingerprint of the newest raw record that it took.
    """

    step: int
    waiting: int
    pending: int
    taken: tuple[int, int] | None


class Histories:
    """The newest :class:`SessionEnd` of each partition, for one worker."""

    def __init__(self) -> None:
        self._ends: dict[int, SessionEnd] = {}

    def note(self, partition: int, end: SessionEnd) -> None:
        """A session that was live ends."""
        self._ends[partition] = end

    async def lost(self, reader: PartitionReader, topic: str, partition: int, step: int) -> str:
        """What a lane without a checkpoint has lost, as text; empty if nothing.

        Its journal ends at ``step``. ``topic`` is that of the raw records: as long as it holds them, the frames are
        decided again.

        Raises
        ------
        klais.errors.KlaisError
            If reading fails.
        """
        end = self._ends.get(partition)
        if end is None or end.step <= step or not end.waiting + end.pending:
            return ""
        if end.taken is not None:
            try:
                record = await reader.record_at(topic, partition, end.taken[0])
            except CorruptRecords:
                record = None
            if record is not None and fingerprint(record.value or b"") == end.taken[1]:
                return ""
        log.error("lane_history_lost", partition=partition, waiting=end.waiting, pending=end.pending)
        return (
            f"the topics of this lane were deleted, its counters begin again at 0: {end.waiting} frames that waited "
            f"and {end.pending} that were being sent, as this worker knew them, are lost with klais_raw"
        )
