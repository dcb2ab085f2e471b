"""Leaves out records that Kafka refuses for their content: after several failures each, counted, with a dead letter.

    refused alone ──> counted by the quarantine, the session ends ──> ... ──> RESUMED step journalled ──> left out

The output waits until the step is journalled. Otherwise, after a crash, its mark could follow a left-out record that
was not counted.
"""

import asyncio
import base64
from collections.abc import Callable, Iterable

from klais.core.lane.journal import Kind, RefusedRecord, StepRecord
from klais.errors import LaneFailed
from klais.worker.quarantine import Place, Quarantine

DEAD_LETTER = "dead_letter"
KEPT_BYTES = 65_536  # bytes of a refused record in its dead letter
KEPT_OF_LETTER_BYTES = 512  # bytes kept if the topic of dead letters refuses the record: it may be too large


class RefusedRecords:
    """The records that one session leaves out, by output.

    Parameters
    ----------
    journal : iterable of StepRecord
        Steps that the session will replay; records that they set aside are left out from the start.
    quarantine : Quarantine
        Counts failures across the sessions of a lane.
    set_aside : callable
        Called with each record to set aside. It journals the record; :meth:`written` must be called afterwards.
    """

    def __init__(
        self, journal: Iterable[StepRecord], quarantine: Quarantine, set_aside: Callable[[RefusedRecord], None]
    ) -> None:
        self._quarantine = quarantine
        self._set_aside: Callable[[RefusedRecord], None] | None = set_aside
        self._known: dict[tuple[str, int], list[int]] = {}
        self._waits: dict[Place, asyncio.Event] = {}
        for record in journal:
            for aside in record.resumed.aside if record.resumed else ():
                self._add((aside.output, aside.step, aside.nth))

    def of(self, output: str, step: int) -> list[int]:
        """The indexes of a step's records that are left out of an output, in order."""
        return self._known.get((output, step), [])

    async def refused(
        self, output: str, step: StepRecord, nth: int, record: tuple[bytes | None, bytes], error: Exception
    ) -> None:
        """Handle Kafka's refusal of this single record (key, value): set it aside, or raise.

        Raises
        ------
        klais.errors.OutputRefused
            If it has not failed often enough yet. The next session tries again.
        klais.errors.LaneFailed
            If it is the dead letter of a record that was set aside, because there is no other place for it.
        """
        if output == DEAD_LETTER and step.kind == Kind.RESUMED:
            raise LaneFailed(f"a record that Kafka refuses cannot become a dead letter: {error}") from error
        place = (output, step.step, nth)
        if self._set_aside is None or not self._quarantine.refused(place, error):
            raise error
        key, value = record
        kept = value[: KEPT_OF_LETTER_BYTES if output == DEAD_LETTER else KEPT_BYTES]
        key_text, kept_text = (base64.b64encode(part).decode() for part in (key or b"", kept))
        wait = self._waits[place] = asyncio.Event()
        self._set_aside(RefusedRecord(output, step.step, nth, key_text, kept_text, len(value), str(error)))
        await wait.wait()
        self._add(place)

    def written(self, asides: Iterable[RefusedRecord]) -> None:
        """Mark these as journalled: their outputs may continue without them."""
        for aside in asides:
            wait = self._waits.pop((aside.output, aside.step, aside.nth), None)
            if wait is not None:
                wait.set()

    def close(self) -> None:
        """Drop the reference to the session."""
        self._set_aside = None

    def _add(self, place: Place) -> None:
        output, step, nth = place
        self._known[output, step] = sorted({*self.of(output, step), nth})
