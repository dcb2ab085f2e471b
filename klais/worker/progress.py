"""Progress of a lane's recovery: the recovery writes it, reports and views read it."""

from typing import Literal

from klais.telemetry.schema import Restoring

Stage = Literal["takeover", "turn", "devices", "journal", "replay"]


class Progress:
    """Stage of a recovery, and how much of it is done.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.now()
    >>> progress.begin("journal", 100, 300)
    >>> progress.at = 222
    >>> progress.now().text
    '61 % of the journal read'
    """

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._begin = self._end = 0
        self.at = 0  # offset of the newest record, or number of the newest step; counts from `begin`

    def begin(self, stage: Stage, begin: int = 0, end: int = 0) -> None:
        """Start a stage, which lasts until ``at`` is ``end``."""
        self._stage, self._begin, self._end, self.at = stage, begin, end, begin

    def end(self) -> None:
        """The lane is live, or it failed: nothing is restored now."""
        self._stage = None

    def now(self) -> Restoring | None:
        """Stage and share; None while nothing is restored."""
        if self._stage is None:
            return None
        share = (self.at - self._begin) / (self._end - self._begin) if self._end > self._begin else 0.0
        return Restoring(stage=self._stage, share=round(min(1.0, max(0.0, share)), 4))
