"""The record batches of a fetch, read ahead of the consumer that reads them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from klais.telemetry.log import every, get

log = get("klais.kafka.buffered_records")

LOG_EVERY_S = 5.0  # between two lines about damaged batches of one partition
WRONG_CRC = "wrong CRC: the broker's disk or memory is damaged"


class CorruptBatch:
    """Stands for a record batch whose CRC is wrong: without records, up to ``next_offset``.

    aiokafka would raise an error at each try to read it, and so end the worker, again after each restart.
    """

    is_control_batch = is_transactional = False
    producer_id = max_timestamp = None

    def __init__(self, base_offset: int, next_offset: int) -> None:
        self.base_offset, self.next_offset = base_offset, next_offset

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def validate_crc(self) -> bool:
        """Nothing of it is used."""
        return True


def damaged_span(batches: Sequence[Any], at: int, position: int) -> tuple[int, int] | None:
    """The offsets, from one up to another (not included), that a reader at ``position`` loses by a damaged batch.

    Nothing in batch ``at`` of ``batches`` can be believed but its base offset, which lies outside of what the CRC
    covers and by which brokers find it. So it reaches to the next batch, and where an answer ends with it, over one
    offset. None: it lies before ``position``.
    """
    following = batches[at + 1].base_offset if at + 1 < len(batches) else None
    if following is not None and following <= position:
        return None
    begin = max(batches[at].base_offset, position)
    return begin, max(begin + 1, following or 0)


def report_damaged(topic: str, partition: int, start: int, end: int, why: str = WRONG_CRC) -> None:
    """Log that the records from offset ``start`` to ``end`` (included) cannot be read; one line in some seconds."""
    if calls := every(LOG_EVERY_S, f"record_batch_corrupt {topic}/{partition}"):
        place = {"topic": topic, "partition": partition, "start": start, "end": end}
        log.error("record_batch_corrupt", **place, why=why, calls=calls)


class BufferedRecords:
    """Takes the place of aiokafka's ``MemoryRecords``, which can be read but once; ``newest_ms`` is over all batches.

    A batch whose CRC is wrong becomes a :class:`CorruptBatch`. Bytes that cannot be taken apart into batches raise an
    error when the consumer reads them, not here: it would end aiokafka's fetch routine.

    Parameters
    ----------
    records : aiokafka.record.memory_records.MemoryRecords
        What a fetch brought.
    position : int
        Offset of the first record that the consumer wants.
    on_corrupt : callable
        Called with the first and the last offset of each :func:`damaged_span`.
    """

    def __init__(self, records: Any, position: int, on_corrupt: Callable[[int, int], None]) -> None:
        self._bytes: int = records.size_in_bytes()
        self._batches: deque[Any] = deque()
        self._error: Exception | None = None
        try:
            while records.has_next():
                self._batches.append(records.next_batch())
        except Exception as error:
            self._error = error
        for at, batch in enumerate(self._batches):
            if not batch.validate_crc():
                span = damaged_span(self._batches, at, position)
                if span is not None:
                    on_corrupt(span[0], span[1] - 1)
                self._batches[at] = CorruptBatch(*(span or (batch.base_offset, position)))
        times = [getattr(batch, "max_timestamp", None) for batch in self._batches]  # Kafka 0.10 and older have none
        self.newest_ms = max((float(at_ms) for at_ms in times if at_ms is not None), default=0.0)

    def size_in_bytes(self) -> int:
        """Bytes of all batches."""
        return self._bytes

    def has_next(self) -> bool:
        """Whether :meth:`next_batch` returns one more, or raises."""
        return bool(self._batches) or self._error is not None

    def next_batch(self) -> Any:
        """The next batch, None after the last; raises what reading it raised."""
        if self._batches:
            return self._batches.popleft()
        if self._error is not None:
            raise self._error
        return None
