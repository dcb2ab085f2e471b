"""Outputs of a replay that wait until its losses are journalled.

A mark on an output says that all earlier steps are sent. If one of them is lost, later steps must not be sent before a
RESUMED step in the journal counts the loss. They wait without their frames, which are read from ``klais_raw`` again
when it is their turn: there may be more of them than memory holds.
"""

from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from klais.core.lane.journal import NEEDS_RAW, StepRecord, fingerprint
from klais.core.lane.render import has_dead_letters
from klais.core.lane.replay import outputs_of_unread
from klais.core.lane.step import Step
from klais.errors import LaneFailed
from klais.kafka.reader import PartitionReader
from klais.system.loop_turn import LoopTurn
from klais.worker.outputs import Output
from klais.worker.raw_values import RawValues


class _Late(NamedTuple):
    record: StepRecord
    next_raw: int
    needs_raw: bool


class LateSteps:
    """Journalled steps, in order, whose outputs wait; and dead letters of newer steps, which must not overtake them."""

    def __init__(self) -> None:
        self._steps: deque[_Late] = deque()
        self._newer: list[Step] = []

    def add(self, step: Step, telemetry: Output, dead_letter: Output) -> None:
        """Add a step that is applied, unless all of its outputs are sent."""
        number = step.record.step
        if (step.passed and telemetry.lacks(number)) or (has_dead_letters(step) and dead_letter.lacks(number)):
            self._steps.append(_Late(step.record, step.next_raw, step.record.kind in NEEDS_RAW))

    def holds_back(self, step: Step) -> bool:
        """Whether a step must wait for :meth:`newer` because it comes after one that still waits. It is kept then."""
        if not self._steps or step.record.step <= self._steps[-1].record.step:
            return False
        self._newer.append(step)
        return True

    async def steps(self, reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[Step]:
        """Yield each step with its outputs.

        Raises
        ------
        LaneFailed
            If a raw record is gone that the replay had read. The next recovery counts its frames as lost.
        """
        offsets = [late.record.raw_offset for late in self._steps if late.needs_raw]
        raw = RawValues(reader, topic, partition, min(offsets, default=0), max(offsets, default=-1) + 1)
        turn = LoopTurn()
        while self._steps:
            late = self._steps[0]
            step = Step(late.record, next_raw=late.next_raw)
            if late.needs_raw:
                value = await raw.at(late.record.raw_offset)
                if value is None or fingerprint(value) != late.record.raw_crc:
                    where = f"{topic}/{partition} at offset {late.record.raw_offset}"
                    raise LaneFailed(
                        f"{where}: the raw record of step {late.record.step} was removed before it was sent"
                    )
                outputs_of_unread(step, value)
            yield step
            self._steps.popleft()
            await turn.end()

    def newer(self) -> list[Step]:
        """The steps held back, in order; all others have been sent."""
        held, self._newer = self._newer, []
        return held
