"""Replay: bring the state up to the journal, and count what cannot be restored instead of guessing it.

The journal holds the verdicts, limits and times of each step, ``klais_raw`` its frames. If a raw record is gone or was
replaced by another one, or an earlier step is missing, that step and all later ones are applied without frames.
Counters and offsets stay correct, rows miss those frames. Frames that were not sent yet are sent if their own raw
record is there and they did not wait in the queue; the others are counted as lost (:class:`Losses`).
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from klais.core.lane.checkpoint import Marker, refill_queue
from klais.core.lane.columns import Columns, read_headers
from klais.core.lane.journal import GONE, NEEDS_RAW, Kind, Resumed, StepRecord, fingerprint
from klais.core.lane.queue import FrameQueue
from klais.core.lane.replay import outputs_of_unread, replay_unread
from klais.core.lane.replay import replay as apply
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step
from klais.core.wire.batch import decode_batch
from klais.errors import BatchFormatError, OffsetGone
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import Mark
from klais.system.loop_turn import LoopTurn
from klais.telemetry.log import get
from klais.worker.doubled import Frame, count_waiting
from klais.worker.invariant import RecoveryPlan
from klais.worker.quarantine import Quarantine
from klais.worker.raw_values import RawValues

log = get("klais.worker.replay")


@dataclass(slots=True)
class Losses:
    """Frames that a replay could not restore. ``raw_offset``: the first raw record that was replaced by another one."""

    output: int = 0
    queue: int = 0
    steps: list[int] = field(default_factory=list)  # of which frames are lost that had passed
    raw_offset: int | None = None
    why: str = ""


def runs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """The first and last of each run of consecutive numbers, which are in order.

    Examples
    --------
    >>> runs([3, 4, 5, 9])
    ((3, 5), (9, 9))
    """
    out: list[tuple[int, int]] = []
    for number in numbers:
        if out and out[-1][1] == number - 1:
            out[-1] = out[-1][0], number
        else:
            out.append((number, number))
    return tuple(out)


class Replay:
    """One replay of the journal over a restored state; iterate :meth:`steps`, then call :meth:`resumption`.

    Parameters
    ----------
    state : LaneState
        State at the marker.
    marker : Marker or None
        The marker, for the frames that waited in the queue then.
    journal : list of StepRecord
        Steps after the marker.
    plan : Plan
        The plan of recovery.
    telemetry : Mark or None
        The newest mark on the clean topic.
    doubled : tuple of int and list of Frame
        Records of the clean topic that will be sent again, and those that will be sent again if their frames wait.
    floor : tuple of int
        The first offset of the clean topic after the records that the marker covers and the topic still holds, and the
        epoch before that offset.
    quarantine : Quarantine
        Counts the failures of a step.
    """

    def __init__(
        self,
        state: LaneState,
        marker: Marker | None,
        journal: list[StepRecord],
        plan: RecoveryPlan,
        telemetry: Mark | None,
        doubled: tuple[int, list[Frame]],
        floor: tuple[int, int],
        quarantine: Quarantine,
    ) -> None:
        self._quarantine = quarantine
        self._state, self._marker, self._journal, self._plan = state, marker, deque(journal), plan
        self._telemetry, self._doubled, self._floor = telemetry, doubled, floor
        self.unread = False  # set from the first step whose frames are gone, or that follows a gap
        self._losses = Losses()
        # Steps whose losses an earlier recovery from the same checkpoint has journalled.
        resumed = [record.resumed for record in journal if record.resumed is not None]
        self._counted = [ends for found in resumed for ends in found.counted]
        self.gap = ""  # which steps are missing, as text

    async def steps(self, reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[Step]:
        """Apply the journalled steps in order; yield each with its outputs."""
        state = self._state
        start, end = await reader.offsets(topic, partition)
        await self._refill_queue(reader, topic, partition, start, end)
        last_needed = max((record.raw_offset for record in self._journal if record.kind in NEEDS_RAW), default=-1)
        raw = RawValues(reader, topic, partition, start, min(end, last_needed + 1))
        turn = LoopTurn()
        while self._journal:
            record = self._journal.popleft()  # not kept in memory for the whole session
            value: bytes | None = None
            if record.kind in NEEDS_RAW:
                value = await raw.at(record.raw_offset)
                if value is None or fingerprint(value) != record.raw_crc:
                    # Where there is no record, but one after it, compaction removed it: other records are as before.
                    compacted = value is None and start <= record.raw_offset < end
                    self._lose(record, replaced=record.raw_offset >= start and not compacted)
                    value = None
            if record.step != state.step + 1 and record.kind != Kind.RESUMED:
                missing = f"steps {state.step + 1} to {record.step - 1}"
                self.gap = f"neither a checkpoint nor the journal has {missing}: the counters lack their frames"
                self._lose(record, replaced=False)
            yield self._apply(record, value)
            await turn.end()

    def _apply(self, record: StepRecord, value: bytes | None) -> Step:
        try:
            return self._unread_step(record, value) if self.unread else apply(self._state, record, value)
        except Exception as error:
            self._quarantine.step_failed(record.step, error)
            raise

    async def _refill_queue(self, reader: PartitionReader, topic: str, partition: int, start: int, end: int) -> None:
        """Read the frames that waited at the marker from the staging topic, if they still exist."""
        if self._marker is None or not self._marker.ranges:
            return
        wanted = {offset for offset, _, _ in self._marker.ranges}
        found: dict[int, Columns] = {}
        restored = False
        try:
            async for raw in reader.read(topic, partition, min(wanted), min(end, max(wanted) + 1)):
                if raw.offset in wanted:
                    found[raw.offset] = read_headers(decode_batch(raw.value or b""))
            if len(found) == len(wanted):
                refill_queue(self._state, self._marker, found)
                restored = True
        except (OffsetGone, BatchFormatError) as error:
            log.warning("queue_not_restored", partition=partition, why=str(error))
        if not restored or (self._plan.rewind is not None and min(wanted) >= self._plan.rewind):
            # If a part of it is gone, the frames that journalled releases took cannot be identified.
            self._state.queue = FrameQueue()
            self.unread = True
            self._losses.queue = sum(len(index) for _, _, index in self._marker.ranges)
            self._losses.why = f"a raw record of frames that waited in the queue {GONE}"

    def _lose(self, record: StepRecord, replaced: bool) -> None:
        if replaced and self._losses.raw_offset is None:
            self._losses.raw_offset = record.raw_offset
        if self.unread:
            return
        self.unread = True
        self._losses.why = f"what step {record.step} needs {GONE}"
        self._losses.queue = self._state.queue.depth
        self._state.queue = FrameQueue()

    def _unread_step(self, record: StepRecord, value: bytes | None) -> Step:
        losses = self._losses
        passed, queued = replay_unread(self._state, record)
        found = record.resumed
        if found is not None:  # it has counted losses of earlier steps
            aside = found.output_lost if found.aside else 0
            losses.output = max(0, losses.output - aside - (0 if found.counted else found.unread))
            losses.queue = max(0, losses.queue - found.queue_lost)
        step = Step(record, next_raw=self._state.next_raw)
        if value is not None:
            outputs_of_unread(step, value)
        unsent = passed - step.passed_count
        unsent -= min(unsent, self._published(record.step, passed))
        if unsent and not any(first <= record.step <= last for first, last in self._counted):
            losses.output += unsent
            losses.steps.append(record.step)
        losses.queue += queued
        return step

    def _published(self, step: int, passed: int) -> int:
        """How many of a step's ``passed`` records are on the clean topic."""
        at = self._telemetry
        if at is None or step > at.step:
            return 0
        return passed if step < at.step else at.done

    def resumption(self, raw_start: int) -> tuple[Resumed, int, int] | None:
        """The losses to journal before the lane continues, with last step and next raw offset.

        None if all was restored.
        """
        state, plan, losses = self._state, self._plan, self._losses
        if not (plan.findings or self.unread):
            return None
        next_raw = state.next_raw
        for back in (plan.rewind, losses.raw_offset):
            next_raw = next_raw if back is None else min(next_raw, back)
        doubled, published = self._doubled
        if plan.steps_missing and self._telemetry is not None and raw_start > next_raw:
            # Retention has removed raw records of the missing steps: continue after those on the clean topic.
            next_raw, doubled = max(next_raw, min(raw_start, self._telemetry.next_raw)), 0
        doubled += count_waiting(published, state.queue.waiting())
        lost = losses.output + sum(finding.lost for finding in plan.findings)
        doubled += sum(finding.doubled for finding in plan.findings)
        why = "; ".join(
            [*(finding.violation.value for finding in plan.findings), *([losses.why] if losses.why else [])]
        )
        floor, epoch = self._floor
        found = Resumed(lost, losses.queue, doubled, why, (), losses.output, floor, epoch, runs(losses.steps))
        return found, max(state.step, plan.last_step), next_raw
