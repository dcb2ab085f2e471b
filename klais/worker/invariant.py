"""The invariants between a lane's marker, journal, rows, ``klais_raw`` and outputs, and the response to a violation.

A lane journals a step before it writes its outputs, and journals only records that it read from ``klais_raw``. So, in a
system whose topics keep all acknowledged records:

1. No output position and no row stamp is beyond the last step of marker and journal.
2. The journal holds all steps after the marker, without a gap.
3. ``klais_raw`` still holds, at their offsets, the records that the lane has taken, or retention has removed them. It
   never ends before the lane's next raw offset.
4. Each output ends at or after the offset that the marker names, and holds the lane's own marks from there on.
5. The changelog holds a row for each device that the marker counts.

Kafka breaks these invariants if it loses its tail (power loss, unclean leader election), if a topic is recreated or
renamed, or if retention was faster than the worker. Each violation has one outcome here. The lane always continues: a
RESUMED step counts lost and doubled records, and the log names them. This module is pure. Recovery collects
:class:`RecoveryInputs`, and :func:`judge` returns the plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from klais.core.lane.journal_steps import HOLE, STEPS_MISSING
from klais.kafka.record_batch import Mark


class Violation(Enum):
    """A violated invariant; logs and views show the value."""

    RAW_REPLACED = "raw_replaced"  # 3: take the present records of klais_raw; repeated batches are recognized
    STEPS_MISSING = STEPS_MISSING  # 1: new steps get numbers above all numbers in outputs and rows
    JOURNAL_HOLE = HOLE  # 2: an unreadable record: treated as the end of the journal
    MARKER_UNREADABLE = "marker_unreadable"  # continue from the previous marker, or from the journal's start
    ROWS_MISSING = "rows_missing"  # 5: the devices of these rows count as new
    JOURNAL_CUT = "journal_cut"  # 2: it ends before the offset in the marker
    OUTPUT_CUT = "output_cut"  # 4: acknowledged records are gone, and counted as lost
    OUTPUT_RECREATED = "output_recreated"  # 4: empty, the topic was deleted: steps after the marker are sent again
    OUTPUT_UNKNOWN = "output_unknown"  # 4: retention has removed the marks: steps after the marker are sent again


# With these, steps that are not known may have removed rows after the checkpoint.
_FORGETS_UNKNOWN = {
    Violation.STEPS_MISSING,
    Violation.JOURNAL_HOLE,
    Violation.JOURNAL_CUT,
    Violation.MARKER_UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class OutputSeen:
    """State of one output topic: ``floor`` from the marker, first and end offset before our fence, the newest own mark.

    ``controls``: control records of earlier fences between a lower end and the floor. ``missed``: where the topic is
    another one than the marker knew, frames of journalled steps that the old one had alone; None where it is the same.
    """

    floor: int
    start: int
    end: int
    mark: Mark | None = None
    controls: int = 0
    missed: int | None = None


@dataclass(frozen=True, slots=True)
class RecoveryInputs:
    """What recovery read before it changed anything.

    ``next_raw`` and ``last_step``: as of marker and journal. ``journal_passed``: frames that the journal's steps
    passed. ``landmarks``: pairs (raw offset, whether the record there is the one that was taken), in offset order, for
    offsets within the log or beyond its end. ``journal_end`` and ``marker_journal``: the end of the journal, and the
    offset in the marker at which it continues. ``last_after_hole``: the highest step after a missing one, 0 = none.
    ``unreadable_marker``: why the newest marker cannot be read, "" = it can. ``rows_missing``: devices that the marker
    counts and the changelog lacks, at least.
    """

    last_step: int
    next_raw: int
    newest_stamp: int
    journal_passed: int
    marker_journal: int
    journal_end: int
    raw_start: int
    raw_end: int
    landmarks: tuple[tuple[int, bool], ...]
    outputs: Mapping[str, OutputSeen]
    last_after_hole: int = 0
    unreadable_marker: str = ""
    rows_missing: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation, for logs and views. ``lost`` and ``doubled`` count records of the clean topic."""

    violation: Violation
    text: str
    lost: int = 0
    doubled: int = 0


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """How the lane continues: new steps follow ``last_step``; ``rewind``: raw offset to return to, None = do not."""

    last_step: int
    rewind: int | None
    findings: tuple[Finding, ...]

    @property
    def steps_missing(self) -> bool:
        """Whether outputs or rows may hold steps that neither marker nor journal knows."""
        missing = (Violation.STEPS_MISSING, Violation.JOURNAL_HOLE)
        return any(finding.violation in missing for finding in self.findings)


def rewound(landmarks: tuple[tuple[int, bool], ...], raw_start: int, raw_end: int, next_raw: int) -> int | None:
    """The raw offset to return to if the log was cut or replaced; None if it is still the log that was read.

    Examples
    --------
    >>> rewound(((10, True), (20, False)), 0, 30, 25)
    11
    >>> rewound(((10, True), (20, True)), 0, 24, 25)  # cut behind the last landmark
    21
    >>> rewound(((10, True), (20, True)), 0, 25, 25) is None
    True
    """
    kept = raw_start
    for offset, same in landmarks:
        if not same:
            return kept
        kept = max(kept, offset + 1)
    return kept if raw_end < next_raw else None


def judge(seen: RecoveryInputs) -> RecoveryPlan:
    """Check all invariants and return the plan."""
    findings = []
    rewind = rewound(seen.landmarks, seen.raw_start, seen.raw_end, seen.next_raw)
    if rewind is not None:
        text = (
            f"klais_raw has offsets {seen.raw_start} to {seen.raw_end} but not the records that this lane has read up "
            f"to {seen.next_raw}: it was truncated, compacted or recreated; the lane reads again from {rewind} on"
        )
        findings.append(Finding(Violation.RAW_REPLACED, text))
    if seen.journal_end < seen.marker_journal:
        text = (
            f"klais_journal ends at {seen.journal_end}, the checkpoint names {seen.marker_journal}: "
            "it was truncated or recreated"
        )
        findings.append(Finding(Violation.JOURNAL_CUT, text))
    for name, output in seen.outputs.items():
        findings += _judge_output(name, output, seen.journal_passed if name == "telemetry" else 0)
    if seen.unreadable_marker:
        text = f"the newest checkpoint cannot be read, the lane uses the previous one: {seen.unreadable_marker}"
        findings.append(Finding(Violation.MARKER_UNREADABLE, text))
    if seen.last_after_hole:
        text = (
            f"klais_journal cannot be read after step {seen.last_step}, steps up to {seen.last_after_hole} follow: a "
            f"record is damaged or was written by another program; the raw records of these steps are decided again"
        )
        findings.append(Finding(Violation.JOURNAL_HOLE, text))
    newest = max([seen.newest_stamp, *(output.mark.step for output in seen.outputs.values() if output.mark)])
    if newest > seen.last_step:
        text = (
            f"outputs or rows have steps up to {newest}, checkpoint and journal end at {seen.last_step}: "
            f"the journal lost records; steps continue after {newest}"
        )
        findings.append(Finding(Violation.STEPS_MISSING, text))
    if seen.rows_missing > 0 and not {finding.violation for finding in findings} & _FORGETS_UNKNOWN:
        text = (
            f"the devices table lacks at least {seen.rows_missing} devices of the checkpoint: records of "
            "klais-devices-changelog are gone or damaged. These devices count as new, their gaps and duplicates up to "
            "now are unknown; `klais topics check` shows whether the topic's settings are wrong"
        )
        findings.append(Finding(Violation.ROWS_MISSING, text))
    return RecoveryPlan(max(newest, seen.last_step, seen.last_after_hole), rewind, tuple(findings))


def _judge_output(name: str, output: OutputSeen, journal_passed: int) -> list[Finding]:
    if output.missed is not None:
        text = (
            f"the topic of {name} was deleted and created again: its records up to {output.floor} were deleted with "
            f"it, and {output.missed} of steps after the checkpoint"
        )
        return [Finding(Violation.OUTPUT_RECREATED, text, lost=output.missed)]
    if output.end < output.floor and not output.end:
        text = f"the topic of {name} is empty, its records up to {output.floor} were deleted with it"
        return [Finding(Violation.OUTPUT_RECREATED, text)]
    if output.end < output.floor:
        lost = max(0, output.floor - output.end - output.controls)
        text = f"the topic of {name} ends at {output.end}, acknowledged up to {output.floor}: {lost} records are lost"
        return [Finding(Violation.OUTPUT_CUT, text, lost=lost if name == "telemetry" else 0)]
    if output.mark is None and output.start > output.floor and journal_passed:
        doubled = min(journal_passed, output.end - output.floor)
        text = (
            f"the topic of {name} starts at {output.start}, retention removed the records of this lane after "
            f"{output.floor}: {journal_passed} records are sent again, up to {doubled} of them for the second time"
        )
        return [Finding(Violation.OUTPUT_UNKNOWN, text, doubled=doubled)]
    return []


def cut_while_live(next_raw: int, raw_end: int, acknowledged: int, output_end: int) -> str | None:
    """Why the session must end and recovery must check again; None if the topics hold all records.

    Examples
    --------
    >>> cut_while_live(next_raw=10, raw_end=10, acknowledged=5, output_end=5) is None
    True
    >>> cut_while_live(next_raw=10, raw_end=9, acknowledged=5, output_end=5)
    'klais_raw ends at 9, this lane has read up to 10'
    """
    if raw_end < next_raw:
        return f"klais_raw ends at {raw_end}, this lane has read up to {next_raw}"
    if output_end < acknowledged:
        return f"an output ends at {output_end}, acknowledged up to {acknowledged}"
    return None
