"""Taps: a few of the frames that lanes decide, shown live to whoever looks (:mod:`klais.worker.web.tap`).

A lane asks once a step whether a tap is open. With one open it compares columns (id words, verdicts) and renders only
what enters the sample, so the loop in here runs over sampled frames. All of it runs on the lanes' event loop.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.devices.layout import id_words
from klais.core.lane.columns import Columns
from klais.core.lane.journal import Kind
from klais.core.lane.step import Step
from klais.core.wire.batch import read_source
from klais.core.wire.constants import FIRST_MALFORMED, VERDICTS, Reason
from klais.telemetry import log as logs
from klais.telemetry.sample import OpenTaps, Reservoir, text_of

log = logs.get("klais.worker.tap")

VERDICT_NAMES = ("passed", "queued", "released", "dropped", "malformed", "flagged")
WHOLE = {"corrupt_batch": Kind.CORRUPT, "poison": Kind.POISON}
REASON_NAMES = (*(r.label for r in Reason if Reason.DUPLICATE <= r < VERDICTS), *WHOLE)
RELEASED = "released"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which frames a tap shows; empty = any. At most ``sample`` a second."""

    device_id: bytes = b""
    prefix: bytes = b""
    verdict: str = ""
    reason: str = ""
    sample: int = 20

    def mask(self, columns: Columns, verdicts: npt.NDArray[np.uint8], flagged: npt.NDArray[np.uint32]) -> Mask:
        """Which frames of a batch match, bool [n]; ``flagged``: those with anomaly flags."""
        out = self.ids(columns)
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

    def ids(self, columns: Columns) -> Mask:
        """Which frames are of the devices asked for, bool [n]."""
        out = np.ones(columns.count, np.bool_)
        if self.device_id:
            low, high = id_words(self.device_id)
            out &= (columns.ids[:, 0] == np.uint64(low)) & (columns.ids[:, 1] == np.uint64(high))
        if self.prefix:
            out &= begin_with(columns.ids, np.array([self.prefix], PREFIX)) != 0
        return out


class Tap:
    """One open tap."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.viewed_s = time.monotonic()
        self._sample = Reservoir(wanted.sample)

    def look(self, partition: int, step: Step) -> None:
        """Note what matches of a step."""
        wanted, record = self.wanted, step.record
        if step.columns is not None and record.kind == Kind.RAW and wanted.verdict != RELEASED:
            self._decided(partition, step, step.columns)
        if record.kind == Kind.RELEASE and wanted.verdict in ("", RELEASED) and not wanted.reason:
            for columns, index in step.passed:
                self._sample.add(
                    index[wanted.ids(columns)[index]],
                    partial(frame_of, partition, columns, verdict=None, flagged=False),
                )
        if record.kind in WHOLE.values():
            self._whole(partition, step)

    def _decided(self, partition: int, step: Step, columns: Columns) -> None:
        record = step.record
        flagged = record.flags["frame"]

        def shown(i: int) -> dict[str, Any]:
            return frame_of(partition, columns, i, Reason(int(record.verdict[i])), bool((flagged == i).any()))

        self._sample.add(np.flatnonzero(self.wanted.mask(columns, record.verdict, flagged)), shown)

    def _whole(self, partition: int, step: Step) -> None:
        """A raw record that a lane set aside: it has no frames of devices."""
        reason = next(name for name, kind in WHOLE.items() if kind == step.record.kind)
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

    def event(self) -> tuple[int, bytes]:
        """The next event; see :meth:`klais.telemetry.sample.Reservoir.event`."""
        self.viewed_s = time.monotonic()
        return self._sample.event()


class Taps(OpenTaps[Filter, Tap]):
    """The open taps of a worker."""

    def __init__(self) -> None:
        super().__init__(Tap)

    def look(self, partition: int, step: Step) -> None:
        """Show a step to all taps; called while one is open. Whatever fails here is no failure of the lane."""
        try:
            self.prune()
            for tap in self.open.values():
                tap.look(partition, step)
        except Exception:
            self.open.clear()
            if logs.every(60, "klais.worker.tap"):
                log.exception("tap_failed")


def frame_of(partition: int, columns: Columns, i: int, verdict: Reason | None, flagged: bool) -> dict[str, Any]:
    """One frame for people; ``verdict`` None: it waited and was let out."""
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
