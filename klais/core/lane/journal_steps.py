"""The steps of a journal, record by record, up to the first missing one; numpy only, no I/O.

A journal record may be unreadable: damaged, cut, empty, or written by another program. Its content is unknown, but the
step numbers around it show whether it was a step: if they are consecutive, nothing is missing. Otherwise there is a
*hole*. No step after a hole can be replayed, because rows, queue and offsets depend on the missing one, so those count
as missing too: recovery decides the records of ``klais_raw`` again, and counts duplicates. The RESUMED step that
records this ends the hole for the next reader. A step whose replay failed repeatedly is a hole, too.
"""

from klais.core.lane.journal import Kind, StepRecord, decode_step, is_owner, owner_lineage
from klais.errors import JournalFormatError, OtherVersion

HOLE = "journal_hole"
STEPS_MISSING = "steps_missing"


class JournalSteps:
    """Reads a journal: call :meth:`take` with each value in the order of the log, then :meth:`end`.

    Parameters
    ----------
    after : int
        The last step that a checkpoint covers; 0 = none.
    cut : bool
        Whether the journal does not reach back to that step (retention, or a new topic): its first step may jump.
    unusable : int, optional
        A step that cannot be replayed.

    Attributes
    ----------
    last : int
        The last step before the first hole, or that of the checkpoint.
    lineage : int
        From the newest owner record, 0 = none.
    unreadable : int
        Records that are neither a step nor an owner's; ``why`` is the error of the newest of them.
    first_after_hole, last_after_hole : int
        The first and the highest step after a hole, 0 = there is no hole.
    """

    def __init__(self, after: int, cut: bool = False, unusable: int | None = None) -> None:
        self.last, self._may_jump, self._unusable = after, cut, unusable
        self.lineage = self.unreadable = self.first_after_hole = self.last_after_hole = 0
        self.why = ""
        self._other: OtherVersion | None = None

    def take(self, value: bytes | None) -> StepRecord | None:
        """The step in this record, if it follows the previous one; None for all other records."""
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
        self._other = None  # the writer of this record has read everything before it
        return record if self._follows(record) else None

    def _follows(self, record: StepRecord) -> bool:
        if record.step <= self.last:
            return False
        if record.step == self._unusable:
            self.unreadable += 1
            self.why = f"step {record.step} cannot be replayed"
            self._note_hole(record.step + 1, record.step)
            return False
        if _ends_hole(record):
            self.first_after_hole = self.last_after_hole = 0
        elif self.last_after_hole or not (self._may_jump or record.step == self.last + 1):
            self._note_hole(record.step, record.step)
            return False
        self.last, self._may_jump = record.step, False
        return True

    def _note_hole(self, first_after: int, step: int) -> None:
        self.first_after_hole = self.first_after_hole or first_after
        self.last_after_hole = max(self.last_after_hole, step)

    def end(self) -> None:
        """Finish after the last record.

        Raises
        ------
        klais.errors.OtherVersion
            If another version of KLAIS wrote the newest record: a worker of that version may read it.
        """
        if self._other is not None:
            raise self._other


def _ends_hole(record: StepRecord) -> bool:
    """Whether a recovery that knew of the missing steps wrote the record; its number may jump."""
    return (
        record.kind == Kind.RESUMED
        and record.resumed is not None
        and (HOLE in record.resumed.why or STEPS_MISSING in record.resumed.why)
    )
