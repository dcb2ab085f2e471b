"""The batches of each edge that a lane has taken: a batch that was sent twice is recognised by its number (numpy only).

An edge numbers its batches from each of its starts (*boot*). The lane remembers the newest number of each (edge, boot).
Beyond ``MAX_BOOTS`` it forgets the longest silent sixteenth; repeated batches of those would be taken twice.

Batches of a boot arrive in the order of their numbers, except if ``klais_raw`` lost its tail and grew again before the
lane noticed: it took the newest and goes back. So skipped numbers are remembered too: a batch with one of them was not
taken before.
"""

import numpy as np
import numpy.typing as npt

MAX_BOOTS = 65_536
LAST_S = (1 << 32) - 1  # in 2106; a clock may be wrong
MAX_SKIPPED = 256  # boots whose skipped numbers are remembered
SKIPPED_RANGES = 8  # ranges per boot, the newest
BOOT = np.dtype([("number", "<u8"), ("boot", "<u4"), ("last_seen_s", "<u4"), ("edge", "<u2")])
"""One (edge, boot): its newest batch number, and when it was taken (s since the epoch). Part of the marker's format."""


Range = tuple[int, int, bool]  # skipped numbers: the first, the one after the last, whether they count as missing


class Boots:
    """The newest batch number of each (edge, boot); ``len`` is the number of boots."""

    def __init__(self) -> None:
        self._table: npt.NDArray[np.void] = np.zeros(16, BOOT)
        self._row: dict[tuple[int, int], int] = {}
        self._skipped: dict[tuple[int, int], list[Range]] = {}

    def __len__(self) -> int:
        return len(self._row)

    def take(self, edge: int, boot: int, number: int, now_s: int) -> int | None:
        """Record a batch; returns how many more numbers are missing now (-1: one less), None = it was taken before.

        Numbers before the first batch of a boot do not count as missing.

        Examples
        --------
        >>> boots = Boots()
        >>> [boots.take(1, 7, number, now_s=0) for number in (5, 6, 6, 9, 8, 8)]
        [0, 0, None, 2, -1, None]
        """
        row = self._row.get((edge, boot))
        if row is None:
            row = self._new_row(edge, boot)
            self._skip((edge, boot), (0, number, False))
            missing = 0
        else:
            newest = int(self._table["number"][row])
            if number <= newest:
                return self._take_skipped((edge, boot), number)
            missing = number - newest - 1
            self._skip((edge, boot), (newest + 1, number, True))
        self._table["number"][row] = number
        self._table["last_seen_s"][row] = min(now_s, LAST_S)
        return missing

    def has(self, edge: int, boot: int, number: int) -> bool:
        """Whether this batch was taken before; changes nothing.

        Examples
        --------
        >>> boots = Boots()
        >>> _ = [boots.take(1, 7, number, now_s=0) for number in (5, 8)]
        >>> [boots.has(1, 7, number) for number in (4, 5, 6, 8, 9)], boots.has(1, 8, 5)
        ([False, True, False, True, False], False)
        """
        row = self._row.get((edge, boot))
        if row is None or number > int(self._table["number"][row]):
            return False
        return not any(begin <= number < end for begin, end, _ in self._skipped.get((edge, boot), []))

    def _skip(self, name: tuple[int, int], gap: Range) -> None:
        if gap[0] == gap[1]:
            return
        if name not in self._skipped and len(self._skipped) == MAX_SKIPPED:
            del self._skipped[next(iter(self._skipped))]
        self._skipped[name] = [*self._skipped.get(name, []), gap][-SKIPPED_RANGES:]

    def _take_skipped(self, name: tuple[int, int], number: int) -> int | None:
        for at, (begin, end, missing) in enumerate(ranges := self._skipped.get(name, [])):
            if begin <= number < end:
                rest = [(begin, number, missing), (number + 1, end, missing)]
                ranges[at : at + 1] = [one for one in rest if one[0] < one[1]]
                return -1 if missing else 0
        return None

    def _new_row(self, edge: int, boot: int) -> int:
        if len(self._row) == MAX_BOOTS:
            self._forget_oldest()
        row = len(self._row)
        if row == len(self._table):
            self._table = np.concatenate([self._table, np.zeros(row, BOOT)])
        self._table["edge"][row], self._table["boot"][row] = edge, boot
        self._row[(edge, boot)] = row
        return row

    def _forget_oldest(self) -> None:
        """Forget a sixteenth at once, so that the cost per new boot is low; the others keep their order."""
        order = np.argsort(self._table["last_seen_s"][: len(self._row)], kind="stable")
        self.load(self._table[np.sort(order[MAX_BOOTS // 16 :])].tobytes(), self.skipped())

    def dump(self) -> bytes:
        """All entries as consecutive BOOT records."""
        return self._table[: len(self._row)].tobytes()

    def skipped(self) -> list[list[int]]:
        """Skipped numbers, as rows of edge, boot, the first, the one after the last, and 1 if they are missing."""
        return [
            [*name, begin, end, int(missing)] for name, all_ in self._skipped.items() for begin, end, missing in all_
        ]

    def load(self, content: bytes, skipped: list[list[int]]) -> None:
        """Load the results of :meth:`dump` and :meth:`skipped`."""
        found = np.frombuffer(content, BOOT)
        self._table = np.zeros(max(16, len(found)), BOOT)
        self._table[: len(found)] = found
        pairs = zip(found["edge"].tolist(), found["boot"].tolist(), strict=True)
        self._row = {pair: row for row, pair in enumerate(pairs)}
        self._skipped = {}
        for edge, boot, begin, end, missing in skipped:
            if (edge, boot) in self._row:
                self._skipped.setdefault((edge, boot), []).append((begin, end, bool(missing)))
