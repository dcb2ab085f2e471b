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

    def note(self, offset: int, record: dict[str, Any] | None) -> None:
        """A record was read."""
        self._read.append((offset, record))

    def before(self, offset: int) -> dict[str, Any] | None:
        """The record of the scope that ``offset`` replaced, once the follower has read so far."""
        earlier = [(at, i) for i, (at, _) in enumerate(self._read) if at < offset]
        return self._read[max(earlier)[1]][1] if earlier else self.first
