"""Taps: a live sample of the frames that lanes decide (:mod:`klais.worker.web.tap`).

A lane checks once a step whether a tap is open. If so, it compares columns (id words, verdicts) and renders only the
sampled frames, so the loop in this module runs over sampled frames only. All of it runs on the lanes' event loop.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.lane.columns import Columns
from klais.core.lane.journal import Kind
from klais.core.lane.step import Step
from klais.core.wire.batch import read_source
from klais.core.wire.constants import FIRST_MALFORMED, Reason
from klais.telemetry.sample import Mask, OpenTap, OpenTaps, Selection, text_of
from klais.telemetry.tap_choices import WHOLE_RECORDS

WHOLE = dict(zip((Kind.CORRUPT, Kind.POISON), WHOLE_RECORDS, strict=True))
RELEASED = "released"


class Filter(Selection):
    """Which frames of a step a tap shows."""

    __slots__ = ()

    def mask(self, columns: Columns, verdicts: npt.NDArray[np.uint8], flagged: npt.NDArray[np.uint32]) -> Mask:
        """Mask of the matching frames of a batch, bool [n]; ``flagged``: frames with anomaly flags."""
        out = self.of_devices(columns.ids)
        if self.verdict == "flagged":
            out &= np.isin(np.arange(columns.count), flagged)
        elif self.verdict == "malformed":
            out &= verdicts >= FIRST_MALFORMED
        elif self.verdict == "dropped":
            out &= verdicts >= Reason.DUPLICATE
        elif self.verdict:
            out &= verdicts == Reason[self.verdict.upper()]
        if self.reason:
            out &= verdicts == Reason[self.reason.upper()]
        return out


class Tap(OpenTap[Filter]):
    """One open tap."""

    def observe(self, partition: int, step: Step) -> None:
        """Sample the matching frames of a step."""
        wanted, record = self.wanted, step.record
        if step.columns is not None and record.kind == Kind.RAW and wanted.verdict != RELEASED:
            self._decided(partition, step, step.columns)
        if record.kind == Kind.RELEASE and wanted.verdict in ("", RELEASED) and not wanted.reason:
            for columns, index in step.passed:
                self._sample.add(
                    index[wanted.of_devices(columns.ids)[index]],
                    partial(frame_of, partition, columns, verdict=None, flagged=False),
                )
        if record.kind in WHOLE:
            self._whole(partition, step)

    def _decided(self, partition: int, step: Step, columns: Columns) -> None:
        record = step.record
        flagged = record.flags["frame"]

        def shown(i: int) -> dict[str, Any]:
            return frame_of(partition, columns, i, Reason(int(record.verdict[i])), bool((flagged == i).any()))

        self._sample.add(np.flatnonzero(self.wanted.mask(columns, record.verdict, flagged)), shown)

    def _whole(self, partition: int, step: Step) -> None:
        """Sample a raw record that a lane set aside: it has no frames of devices."""
        reason = WHOLE[step.record.kind]
        wanted = self.wanted
        other = wanted.verdict not in ("", "dropped") or wanted.reason not in ("", reason)
        if other or wanted.device_id or wanted.prefix:
            return

        def shown(_: int) -> dict[str, Any]:
            return {
                "ts": step.record.now_ns // 1_000_000, "partition": partition, "device_id": None, "seq": None,
                "verdict": "dropped", "reason": reason, "flagged": False, "bytes": step.bytes,
                "payload": text_of(step.corrupt or b""), "edge": None, "source": None,
            }  # fmt: skip

        self._sample.add(np.zeros(1, np.int64), shown)


class Taps(OpenTaps[Filter, Tap]):
    """The open taps of a worker."""

    def __init__(self) -> None:
        super().__init__(Tap)

    def observe(self, partition: int, step: Step) -> None:
        """Pass a step to all open taps."""
        with self.shown() as taps:
            for tap in taps:
                tap.observe(partition, step)


def frame_of(partition: int, columns: Columns, i: int, verdict: Reason | None, flagged: bool) -> dict[str, Any]:
    """One frame in readable form; ``verdict`` None: it waited in the queue and was released."""
    passed_or_queued = verdict is not None and verdict <= Reason.QUEUED
    name = RELEASED if verdict is None else verdict.label
    if verdict is not None and not passed_or_queued:
        name = "malformed" if verdict >= FIRST_MALFORMED else "dropped"
    return {
        "ts": int(columns.ts_ms[i]),
        "partition": partition,
        "device_id": columns.device_id(i).decode(errors="backslashreplace") or None,
        "seq": int(columns.sequence[i]),
        "verdict": name,
        "reason": verdict.label if verdict is not None and not passed_or_queued else None,
        "flagged": flagged,
        "bytes": int(columns.batch.lengths[i]),
        "payload": text_of(columns.payload(i)),
        "edge": int(columns.batch.edge),
        "source": read_source(columns.batch, i),
    }
