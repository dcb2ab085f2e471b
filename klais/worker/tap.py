"""Taps: a few of the frames that lanes decide, shown live to whoever looks (:mod:`klais.worker.web.tap`).

A lane asks once a step whether a tap is open. With one open it compares columns (id words, verdicts) and renders only
what enters the sample, so the loop in here runs over sampled frames. All of it runs on the lanes' event loop.
"""

import heapq
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.devices.layout import id_words
from klais.core.lane.columns import Columns
from klais.core.lane.journal import Kind
from klais.core.lane.step import Step
from klais.core.wire.batch import read_source
from klais.core.wire.constants import FIRST_MALFORMED, VERDICTS, Reason
from klais.telemetry import log as logs

log = logs.get("klais.worker.tap")

MOST_TAPS = 8
MOST_SAMPLE = 200  # frames of a second
KEPT_S = 30.0  # a tap that nobody views for so long is gone
MOST_PAYLOAD = 1024  # bytes of a payload that are shown
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
    """One open tap: an even sample of the frames of this second (reservoir sampling, Vitter 1985)."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.viewed_s = time.monotonic()
        self._seconds = 0
        self._random = np.random.default_rng()
        self._order = itertools.count()
        self._begin()

    def _begin(self) -> None:
        self._kept: list[tuple[float, int, dict[str, Any]]] = []  # a heap: the least random number first
        self._matched = 0

    def look(self, partition: int, step: Step) -> None:
        """Note what matches of a step."""
        wanted, record = self.wanted, step.record
        if step.columns is not None and record.kind == Kind.RAW and wanted.verdict != RELEASED:
            flagged = record.flags["frame"]
            found = np.flatnonzero(wanted.mask(step.columns, record.verdict, flagged))
            for key, i in self._chosen(found):
                reason = Reason(int(record.verdict[i]))
                self._keep(key, frame_of(partition, step.columns, i, reason, bool((flagged == i).any())))
        if record.kind == Kind.RELEASE and wanted.verdict in ("", RELEASED) and not wanted.reason:
            for columns, index in step.passed:
                for key, i in self._chosen(index[wanted.ids(columns)[index]]):
                    self._keep(key, frame_of(partition, columns, i, None, False))
        if record.kind in WHOLE.values():
            self._whole(partition, step)

    def _whole(self, partition: int, step: Step) -> None:
        """A raw record that a lane set aside: it has no frames of devices."""
        reason = next(name for name, kind in WHOLE.items() if kind == step.record.kind)
        wanted = self.wanted
        other = wanted.verdict not in ("", "dropped") or wanted.reason not in ("", reason)
        if other or wanted.device_id or wanted.prefix:
            return
        value = step.corrupt or b""
        for key, _ in self._chosen(np.zeros(1, np.int64)):
            self._keep(
                key,
                {
                    "ts": step.record.now_ns // 1_000_000, "partition": partition, "device_id": None, "seq": None,
                    "verdict": "dropped", "reason": reason, "flagged": False, "bytes": step.bytes,
                    "payload": text_of(value), "edge": None, "source": None,
                },
            )  # fmt: skip

    def _chosen(self, found: npt.NDArray[Any]) -> Iterator[tuple[float, int]]:
        """Those of the frames that enter the sample, each with its random number."""
        self._matched += len(found)
        keys = self._random.random(len(found))
        most = self.wanted.sample
        which = np.arange(len(found))
        if len(self._kept) == most:
            which = np.flatnonzero(keys > self._kept[0][0])
        if len(which) > most:
            which = which[np.sort(np.argpartition(keys[which], -most)[-most:])]
        yield from zip(keys[which].tolist(), found[which].tolist(), strict=True)

    def _keep(self, key: float, frame: dict[str, Any]) -> None:
        entry = (key, next(self._order), frame)
        if len(self._kept) < self.wanted.sample:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def event(self) -> tuple[int, bytes]:
        """The seconds so far, and JSON of this second's sample: ``matched`` frames, of which ``frames`` are shown."""
        self.viewed_s = time.monotonic()
        self._seconds += 1
        frames = [frame for _, _, frame in sorted(self._kept, key=lambda entry: entry[1])]
        body = {"matched": self._matched, "frames": frames}
        self._begin()
        return self._seconds, orjson.dumps(body)


class Taps:
    """The open taps of a worker."""

    def __init__(self) -> None:
        self.open: dict[Filter, Tap] = {}

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

    def get(self, wanted: Filter) -> Tap | None:
        """The tap with that filter, opened where there is none; None when ``MOST_TAPS`` are open."""
        self.prune()
        tap = self.open.get(wanted)
        if tap is None and len(self.open) < MOST_TAPS:
            tap = self.open[wanted] = Tap(wanted)
        return tap

    def prune(self) -> None:
        """Close what nobody views."""
        now_s = time.monotonic()
        for wanted in [wanted for wanted, tap in self.open.items() if now_s - tap.viewed_s > KEPT_S]:
            del self.open[wanted]


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


def text_of(data: bytes) -> str:
    """The beginning of bytes as text; what is no UTF-8 is escaped."""
    cut = data[:MOST_PAYLOAD].decode("utf-8", "backslashreplace")
    return cut if len(data) <= MOST_PAYLOAD else cut + "..."
