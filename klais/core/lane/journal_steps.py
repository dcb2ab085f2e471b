"""The steps of a journal, record by record, up to the first that is missing; numpy only, no I/O.

A journal record may be unreadable: damaged, cut, empty, or written by another program. What it was nobody can tell, but
the numbers of the steps around it can: where they follow each other, nothing is missing. Otherwise there is a *hole*.
No step behind a hole can be replayed, because rows, queue and offsets depend on the missing one. So they count as
missing, too: recovery decides again what ``klais_raw`` holds of them, and counts what comes twice. The RESUMED step
that says so ends the hole for the next reader.
"""

from klais.core.lane.journal import Kind, StepRecord, decode_step, is_owner, owner_lineage
from klais.errors import JournalFormatError, OtherVersion

HOLE = "journal_hole"
STEPS_MISSING = "steps_missing"


class JournalSteps:
    """Reads a journal: :meth:`take` each value in the order of the log, then call :meth:`end`.

    Parameters
    ----------
    after : int
        The last step that a checkpoint covers; 0 = none.
    cut : bool
        The journal does not reach back to that step (retention, or the topic is a new one): its first step may jump.

    Attributes
    ----------
    last : int
        The last step before the first hole, or that of the checkpoint.
    lineage : int
        As the newest owner record names it, 0 = none.
    unreadable : int
        Records that are neither a step nor an owner's; ``why`` says what is wrong with the newest of them.
    behind : int
        The highest step behind a hole, 0 = there is no hole.
    """

    def __init__(self, after: int, cut: bool = False) -> None:
        self.last, self._may_jump = after, cut
        self.lineage = self.unreadable = self.behind = 0
        self.why = ""
        self._other: OtherVersion | None = None

    def take(self, value: bytes | None) -> StepRecord | None:
        """The step that this record is, if it follows the one before; None for all other records."""
        value = value or b""
        if is_owner(value):
            self.lineage = owner_lineage(value) or self.lineage
            return None
        try:
            record = decode_step(value)
        except JournalFormatError as error:
            self.unreadable += 1
            self.why = str(error)
            self._other = error if isinstance(error, OtherVersion) else self._other
            return None
        self._other = None  # who wrote this one has read what stands before it
        return record if self._follows(record) else None

    def _follows(self, record: StepRecord) -> bool:
        if record.step <= self.last:
            return False
        if _ends_hole(record):
            self.behind = 0
        elif self.behind or not (self._may_jump or record.step == self.last + 1):
            self.behind = max(self.behind, record.step)
            return False
        self.last, self._may_jump = record.step, False
        return True

    def end(self) -> None:
        """All was read.

        Raises
        ------
        klais.errors.OtherVersion
            The newest record is one of another version of KLAIS: a worker of that version may read it.
        """
        if self._other is not None:
            raise self._other


def _ends_hole(record: StepRecord) -> bool:
    """Whether a recovery wrote it that knew of the missing steps; its number may jump."""
    return (
        record.kind == Kind.RESUMED
        and record.resumed is not None
        and (HOLE in record.resumed.why or STEPS_MISSING in record.resumed.why)
    )
