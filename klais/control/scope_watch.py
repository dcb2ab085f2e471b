"""The records of one scope of ``klais_control`` that are read during a write."""

from typing import Any


class Watch:
    """The records of one scope that a follower reads during a write (:meth:`ControlFollower.watch`).

    Attributes
    ----------
    first : dict or None
        The record when the watch began.
    """

    def __init__(self, first: dict[str, Any] | None) -> None:
        self.first = first
        self._read: list[tuple[int, dict[str, Any] | None]] = []
        self._appended_ms: dict[int, int | None] = {}

    def note(self, offset: int, record: dict[str, Any] | None, appended_ms: int | None = None) -> None:
        """A record was read; ``appended_ms``: the broker's time, None = unknown."""
        self._read.append((offset, record))
        self._appended_ms[offset] = appended_ms

    def ahead_ms(self, offset: int, written_ms: int) -> int:
        """How far the clock of the writer is ahead of the broker's, from the record at ``offset``; 0 = unknown."""
        return written_ms - (self._appended_ms.get(offset) or written_ms)

    def before(self, offset: int) -> dict[str, Any] | None:
        """The record of the scope that ``offset`` replaced, once the follower has read so far."""
        earlier = [(at, i) for i, (at, _) in enumerate(self._read) if at < offset]
        return self._read[max(earlier)[1]][1] if earlier else self.first
