"""The record batches of a fetch, read ahead of the consumer that reads them."""

from collections import deque
from typing import Any


class BufferedRecords:
    """Takes the place of aiokafka's ``MemoryRecords``, which can be read but once; ``newest_ms`` is over all batches.

    A corrupt batch raises an error when the consumer reads it, not here: it would end aiokafka's fetch routine.
    """

    def __init__(self, records: Any) -> None:
        self._bytes: int = records.size_in_bytes()
        self._batches: deque[Any] = deque()
        self._error: Exception | None = None
        try:
            while records.has_next():
                self._batches.append(records.next_batch())
        except Exception as error:
            self._error = error
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
