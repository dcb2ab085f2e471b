"""The raw records that journalled steps need, read from ``klais_raw`` in the order of the steps."""

from collections.abc import AsyncIterator

from klais.kafka.reader import PartitionReader, RawRecord


class RawValues:
    """Values of raw records from offset ``start`` up to, not including, ``end``.

    One read serves all steps. It begins again at a lower offset than the last one: a lane that lost steps has decided
    those raw records a second time.
    """

    def __init__(self, reader: PartitionReader, topic: str, partition: int, start: int, end: int) -> None:
        self._reader, self._topic, self._partition = reader, topic, partition
        self._start, self._end = start, end
        self._records: AsyncIterator[RawRecord] | None = None
        self._newest: RawRecord | None = None
        self._asked = -1

    async def at(self, offset: int) -> bytes | None:
        """The value of the record at ``offset``; None if there is no record there.

        Raises
        ------
        OffsetGone, TopicMismatch, KafkaUnavailable
            As in :meth:`PartitionReader.read`.
        """
        if not self._start <= offset < self._end:
            return None
        if self._records is None or offset < self._asked:
            self._records = self._reader.read(self._topic, self._partition, offset, self._end)
            self._newest = None
        self._asked = offset
        while self._newest is None or self._newest.offset < offset:
            self._newest = await anext(self._records, None)
            if self._newest is None:
                return None
        return (self._newest.value or b"") if self._newest.offset == offset else None
