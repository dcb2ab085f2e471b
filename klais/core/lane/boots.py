"""Which batches of which edge a lane has taken: an edge that sends one twice is recognised by its number (numpy only).

An edge counts its batches from each of its starts (*boot*) on. The newest number of each (edge, boot) is remembered;
beyond ``MAX_BOOTS`` the longest silent sixteenth goes. A batch of one that is forgotten would be taken twice.
"""

import numpy as np
import numpy.typing as npt

MAX_BOOTS = 65_536
BOOT = np.dtype([("number", "<u8"), ("boot", "<u4"), ("heard_s", "<u4"), ("edge", "<u2")])
"""One (edge, boot): its newest batch number, and when it was taken (s since the epoch). Part of the marker's format."""


class Boots:
    """The newest batch number of each (edge, boot); ``len`` = how many there are."""

    def __init__(self) -> None:
        self._table: npt.NDArray[np.void] = np.zeros(16, BOOT)
        self._row: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._row)

    def take(self, edge: int, boot: int, number: int, now_s: int) -> int:
        """Remember a batch; how many numbers the edge left out before it, -1 = it was taken before.

        Examples
        --------
        >>> boots = Boots()
        >>> [boots.take(1, 7, number, now_s=0) for number in (5, 6, 6, 9)]
        [0, 0, -1, 2]
        """
        row = self._row.get((edge, boot))
        if row is None:
            row = self._new_row(edge, boot)
            missing = 0
        else:
            missing = number - int(self._table["number"][row]) - 1
            if missing < 0:
                return -1
        self._table["number"][row] = number
        self._table["heard_s"][row] = now_s
        return missing

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
        """Forget a sixteenth at once, so that this costs little for each new boot; the others keep their order."""
        order = np.argsort(self._table["heard_s"][: len(self._row)], kind="stable")
        self.load(self._table[np.sort(order[MAX_BOOTS // 16 :])].tobytes())

    def dump(self) -> bytes:
        """All of it, BOOT records back to back."""
        return self._table[: len(self._row)].tobytes()

    def load(self, content: bytes) -> None:
        """Take over what :meth:`dump` gave."""
        found = np.frombuffer(content, BOOT)
        self._table = np.zeros(max(16, len(found)), BOOT)
        self._table[: len(found)] = found
        pairs = zip(found["edge"].tolist(), found["boot"].tolist(), strict=True)
        self._row = {pair: row for row, pair in enumerate(pairs)}
