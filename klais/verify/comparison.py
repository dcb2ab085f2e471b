"""Compares the records that a journal decided with those of a topic: in order, each once, except for known losses."""

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

Found = tuple[Any, int | None]  # content of a record, and the step of its mark


class AnyRecord:
    """Stands for a record with unknown content."""

    def __eq__(self, other: object) -> bool:
        return other is not None

    def __repr__(self) -> str:
        return "a record whose raw record is gone"

    __hash__ = None  # type: ignore[assignment]


ANY = AnyRecord()


class Comparison:
    """Compares the expected records of a topic with the actual ones, both in order, during the replay.

    Parameters
    ----------
    name : str
        Name of the topic, for problems.
    actual : async iterator
        The records of the topic.
    problem : callable
        Called with a text for each difference.
    may_lose : int
        Records that may be missing, because lanes have counted them in RESUMED steps.
    """

    def __init__(
        self, name: str, actual: AsyncIterator[Found], problem: Callable[[str], None], may_lose: int = 0
    ) -> None:
        self._name, self._actual, self._problem, self._may_lose = name, actual, problem, may_lose
        self._ahead: deque[Found] = deque()  # read from the topic and not yet compared
        self._aside: Counter[int] = Counter()  # by the 64-bit hash of the content: lost steps may be long
        self._broken = False
        self.count = self.lost = self.doubled = 0

    @property
    def unknown(self) -> int:
        """Records of steps that the journal lost and that were not decided again: they are on the topic once."""
        return self._aside.total()

    async def expect(self, wanted: Any) -> None:
        """Check that the next record of the topic is ``wanted``."""
        if self._broken:
            return
        self.count += 1
        if self._aside and wanted is not ANY and self._aside[hash(wanted)] > 0:
            self._aside[hash(wanted)] -= 1
            self.doubled += 1
        found = await self._next()
        if found is not None and wanted == found[0]:
            return
        if found is not None:
            self._ahead.appendleft(found)
        if self.lost < self._may_lose:
            self.lost += 1
            return
        self._broken = True
        is_ = None if found is None else found[0]
        self._problem(f"{self._name} record {self.count}: expected {wanted!r:.300}, found {is_!r:.300}")

    def miss(self, count: int) -> None:
        """Count records that were decided, never sent, and counted as lost."""
        self.count += count
        self.lost += count

    async def set_aside(self, first: int, last: int) -> None:
        """Skip the records of steps from ``first`` to ``last``, which the journal lost.

        A record without a mark belongs to the step of the next mark. It holds only the records since the last mark.
        """
        held: list[Found] = []
        while (found := await self._next()) is not None:
            held.append(found)
            if found[1] is None:
                continue
            if found[1] > last:
                break
            if found[1] >= first:
                self._aside.update(hash(content) for content, _ in held)
                held.clear()
        self._ahead.extendleft(reversed(held))

    async def end(self) -> None:
        """Check that no record follows, and that the number of missing ones matches the lanes' count."""
        extra, first = 0, None
        while (found := await self._next()) is not None:
            first = first or found[0]
            extra += 1
        if self._broken:
            return
        if extra:
            self._problem(f"{self._name}: not in the journal: {first!r:.300}")
            self._problem(f"{self._name}: {extra} more records than in the journal")
        if self.lost != self._may_lose:
            self._problem(f"{self._name}: {self.lost} records are missing, the journal has {self._may_lose}")

    async def _next(self) -> Found | None:
        return self._ahead.popleft() if self._ahead else await anext(self._actual, None)
