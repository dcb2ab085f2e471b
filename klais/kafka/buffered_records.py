"""The record batches of a fetch, parsed ahead of the consumer."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from klais.telemetry.log import every, get

log = get("klais.kafka.buffered_records")

LOG_EVERY_S = 5.0  # between two lines about damaged batches of one partition
WRONG_CRC = "wrong CRC: the broker's disk or memory is damaged"


class CorruptBatch:
    """Placeholder for a record batch with a wrong CRC: without records, up to ``next_offset``.

    aiokafka would raise an error at each try to read it, which would end the worker after each restart.
    """

    is_control_batch = is_transactional = False
    producer_id = max_timestamp = None

    def __init__(self, base_offset: int, next_offset: int) -> None:
        self.base_offset, self.next_offset = base_offset, next_offset

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def validate_crc(self) -> bool:
        """Always true: no data of the batch is used."""
        return True


class GuardedBatch:
    """A record batch whose records end where the client cannot read the next one, instead of an error.

    Brokers accept more than aiokafka reads, for example names of headers that are not UTF-8. Its error would end the
    worker, again after each restart, and the next worker as well.

    Parameters
    ----------
    batch : aiokafka batch
        With a valid CRC.
    position : int
        Offset of the next record for the consumer.
    on_unreadable : callable
        Called with the first and the last offset that are left out, and the error as text.
    """

    def __init__(self, batch: Any, position: int, on_unreadable: Callable[[int, int, str], None]) -> None:
        self._batch, self._next, self._on_unreadable = batch, max(batch.base_offset, position), on_unreadable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            for record in self._batch:
                self._next = max(self._next, record.offset + 1)
                yield record
        except Exception as error:  # of aiokafka, of a codec: nothing that a record holds may end the consumer
            self._on_unreadable(self._next, self._batch.next_offset - 1, f"cannot be read: {error!r}")


def damaged_span(batches: Sequence[Any], at: int, position: int) -> tuple[int, int] | None:
    """The offsets, [first, end), that a reader at ``position`` loses because of a damaged batch.

    The only trusted field of batch ``at`` in ``batches`` is its base offset, which the CRC does not cover and by which
    brokers find it. So the damage extends to the next batch, or over one offset if the answer ends with this batch.
    None: it is before ``position``.
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
    """Replaces aiokafka's ``MemoryRecords``, which can be read only once; ``newest_ms`` is that of all batches.

    A batch with a wrong CRC becomes a :class:`CorruptBatch`, each other one a :class:`GuardedBatch`. Bytes that cannot
    be split into batches raise an error when the consumer reads them, not here, because it would end aiokafka's fetch
    routine.

    Parameters
    ----------
    records : aiokafka.record.memory_records.MemoryRecords
        The result of a fetch.
    position : int
        Offset of the next record for the consumer.
    on_corrupt : callable
        Called with the first and the last offset of each :func:`damaged_span`, and why it cannot be read.
    """

    def __init__(self, records: Any, position: int, on_corrupt: Callable[[int, int, str], None]) -> None:
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
                    on_corrupt(span[0], span[1] - 1, WRONG_CRC)
                self._batches[at] = CorruptBatch(*(span or (batch.base_offset, position)))
            else:
                self._batches[at] = GuardedBatch(batch, position, on_corrupt)
        times = [getattr(batch, "max_timestamp", None) for batch in self._batches]  # Kafka 0.10 and older have none
        self.newest_ms = max((float(at_ms) for at_ms in times if at_ms is not None), default=0.0)

    def size_in_bytes(self) -> int:
        """Bytes of all batches."""
        return self._bytes

    def has_next(self) -> bool:
        """Whether :meth:`next_batch` returns another batch, or raises."""
        return bool(self._batches) or self._error is not None

    def next_batch(self) -> Any:
        """The next batch, None after the last; raises the error of reading it."""
        if self._batches:
            return self._batches.popleft()
        if self._error is not None:
            raise self._error
        return None
