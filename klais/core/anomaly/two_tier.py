"""The detector of KLAIS_ANOMALY_DETECTOR=two_tier: gates for all devices, channels as far as memory allows."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from klais.core.anomaly import sift
from klais.core.anomaly.arena import ROOM, USED, Store
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.channel import FULL, LIGHT, NOW, THRESHOLD, Channels
from klais.core.anomaly.detector import NOTHING_SAVED, Feature, Frames, Saved, reserve
from klais.core.anomaly.gate import GATE
from klais.core.anomaly.record import FLAG, OF_ABSENT, Found
from klais.core.anomaly.rhythm import CLOCK_S, FLEET, SEEN
from klais.core.anomaly.saved import dump_changed, dump_profile, load_profile

FULL_SHARE = 0.25  # of the memory


class TwoTier:
    """The detector of one lane.

    Parameters
    ----------
    memory_bytes : int
        Memory for channels, allocated as devices need it.
    period_s : float
        Interval at which a device is scored, before the budget stretches it.
    budget : CpuBudget
        Shared by the lanes of a worker.
    threshold : float
        Minimum score of a flag.
    """

    def __init__(
        self, memory_bytes: int, period_s: float, budget: CpuBudget, threshold: float = THRESHOLD, capacity: int = 0
    ) -> None:
        full = int(memory_bytes * FULL_SHARE) // FULL.itemsize
        light = max(0, memory_bytes - full * FULL.itemsize) // LIGHT.itemsize
        self.gates = reserve(capacity, GATE)
        self.light: Channels = reserve(light, LIGHT)[:light]
        self.full: Channels = reserve(full, FULL)[:full]
        self._rooms = np.zeros(ROOM, np.int64), np.zeros(ROOM, np.int64)
        self._fleet = np.zeros(FLEET)
        self._scratch = np.zeros(NOW), np.zeros(SEEN)
        self._period_s, self._threshold, self._budget = period_s, threshold, budget
        self.counts: npt.NDArray[np.int64] = np.zeros(sift.COUNTS, np.int64)  # since the start

    @property
    def paths(self) -> npt.NDArray[np.uint32]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.gates["path"]

    @property
    def slots(self) -> npt.NDArray[np.uint8]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.gates["slots"]

    @property
    def store(self) -> Store:
        """The store that the kernels of :mod:`klais.core.anomaly.arena` take."""
        return self.gates, self.light, self.full, *self._rooms

    @property
    def channels(self) -> tuple[int, int]:
        """Light and full channels in use, including free ones in the list."""
        return int(self._rooms[0][USED]), int(self._rooms[1][USED])

    def make_room(self, capacity: int) -> None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        if capacity > len(self.gates):
            old, self.gates = self.gates, reserve(capacity, GATE)
            self.gates[: len(old)] = old

    def score(self, frames: Frames, devices: int, max_count: int, name_of: Callable[[int], str | None]) -> Found:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        at, budget = frames, self._budget
        period_ds = max(1.0, round(10.0 * self._period_s * budget.stretch))
        limits = np.array([period_ds, self._threshold, budget.values(), devices])
        flags = np.empty(min(max_count, 11 * len(at.row)) + sift.FLAGS_A_FRAME, FLAG)
        counts: npt.NDArray[np.int64] = np.zeros(sift.COUNTS, np.int64)
        began_ns = budget.clock_ns()
        written = sift.sift(self.store, self._fleet, at.columns, at.count, limits, self._scratch, counts, flags)
        took_ns = budget.clock_ns() - began_ns
        scored, skipped, opened, without_channel, _ = counts.tolist()
        budget.spend(took_ns, len(at.row), scored, skipped, opened, without_channel)
        self.counts += counts
        if not counts[sift.RAISED]:
            return Found()
        kept = flags[: min(written, max_count)].copy()
        paths = {int(path) for path in kept["value"][kept["nth"] == OF_ABSENT].tolist()}
        names = {path: name for path in paths if (name := name_of(path)) is not None}
        return Found(int(counts[sift.RAISED]), kept, names)

    def features(self, row: int) -> Iterable[Feature]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        if row >= len(self.gates):  # nothing has been scored or loaded yet
            return
        gate = self.gates[row]
        if gate["buckets"]:
            usual_s = float(np.exp(float(gate["usual"])))
            yield Feature(0, 0, usual_s, usual_s * float(np.sqrt(max(0.0, gate["spread"]))), int(gate["buckets"]))
        handle = int(gate["first"])
        found = []
        while handle:
            at = self.light[handle - 1] if handle > 0 else self.full[-handle - 1]
            place = int(at["feature"])
            path = int(gate["path"][place - 1]) if place else 0
            variance = at["stored"][7] if handle > 0 else at["usual"][3]
            deviation = float(np.sqrt(max(0.0, variance)))  # a saved profile may be damaged
            found.append(Feature(1 + place, path, float(at["level"]), deviation, int(at["rows"])))
            handle = int(at["following"])
        yield from sorted(found)

    def dump_some(self, begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        known = len(self.gates)
        if begin >= known or max_bytes <= 0:
            return NOTHING_SAVED, end if begin >= known else begin
        saved, following = dump_changed(self.store, begin, min(end, known), max_bytes)
        return saved, following if following < min(end, known) else end

    def mark_unsaved(self, row: npt.NDArray[np.int32]) -> None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        self.gates["saved_ds"][row] = self.gates["scored_ds"][row] ^ 1

    def dump(self, row: int) -> bytes | None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        known = row < len(self.gates) and self.gates[row]["first"]
        return dump_profile(self.store, row) if known else None

    def load(self, row: int, value: bytes) -> bool:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return load_profile(self.store, row, value, int(self._fleet[CLOCK_S] * 1e3))
