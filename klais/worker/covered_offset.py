"""The offset of an output topic that a checkpoint covers, in constant memory however long the checkpoint waits."""

UNKNOWN = -1


class CoveredOffset:
    """The offset after the last record of all steps that the current checkpoint covers.

    A checkpoint covers the lane's newest step when it begins, so what is acknowledged before belongs to it. Steps are
    acknowledged in order. Between two checkpoints, only the newest offset counts.

    Examples
    --------
    >>> covered = CoveredOffset()
    >>> covered.acknowledged(1, 10)
    >>> covered.begin(2)
    >>> covered.acknowledged(2, 20)
    >>> covered.acknowledged(3, 30)
    >>> covered.offset(otherwise=0)
    20
    """

    def __init__(self) -> None:
        self._step, self._covered, self._newest = 0, UNKNOWN, UNKNOWN

    def begin(self, step: int) -> None:
        """Begin a checkpoint that covers the steps up to ``step``."""
        self._step, self._covered = step, self._newest

    def acknowledged(self, step: int, offset: int) -> None:
        """Kafka has acknowledged the records up to ``offset``, those of ``step`` completely."""
        self._newest = offset
        if step <= self._step:
            self._covered = offset

    def offset(self, otherwise: int) -> int:
        """The offset; ``otherwise`` if no record of these steps was acknowledged."""
        return otherwise if self._covered == UNKNOWN else self._covered
