"""A detector with fingerprints: adds devices that change their type to the findings of the lane's own detector."""

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.detector import Detector, Feature, Frames, Saved, owner_of, reserve
from klais.core.anomaly.record import FLAG, MAX_FIELDS, Found
from klais.core.devices.layout import id_words
from klais.core.fingerprint import observe
from klais.core.fingerprint.record import (
    KEPT,
    NO_TYPES,
    PRINT,
    SAMPLE,
    SLOTS,
    UNKNOWN,
    DeviceTypes,
    KeptSamples,
    TypeFacts,
)

ONE_IN = 4  # one in so many frames of a fast device is sampled
WINDOWS = 4  # complete sets of samples kept for training, in addition to the one being filled
UNKNOWN_NAME = "unknown"
_HEAD = np.dtype([("magic", "S4"), ("code", "<u4")])  # code of the type's name; the fingerprint follows
HABITS = ("interval", "interval_var", "size", "size_var")
TAIL_MAGIC = b"KLT1"
TAIL_SIZE = _HEAD.itemsize + PRINT.itemsize


class TypesInUse:
    """The model that all lanes of a worker use; another thread may replace it at any time."""

    def __init__(self, types: DeviceTypes = NO_TYPES) -> None:
        self.current = types
        self.sampled = self.compared = self.flags = 0  # for all lanes since the start

    def set(self, types: DeviceTypes) -> None:
        """Make the lanes use this model from their next step on."""
        self.current = types


class Typed:
    """See :class:`klais.core.anomaly.detector.Detector`.

    Parameters
    ----------
    inner : Detector
        Scores values.
    in_use : TypesInUse
        The model; without one this class flags nothing.
    one_in : int
        One in so many frames of a fast device is sampled.
    """

    def __init__(self, inner: Detector, in_use: TypesInUse, one_in: int = ONE_IN) -> None:
        self.inner, self._in_use, self._one_in = inner, in_use, one_in
        self.types = in_use.current
        self.prints = reserve(0, PRINT)
        self._used = 0  # rows that may have a fingerprint: the memory of all others is untouched
        self._tables = self.types.tables, self.types.normals
        self._room = np.zeros(2)
        self._first_row = 0
        self._fresh()
        self._older: deque[KeptSamples] = deque(maxlen=WINDOWS)

    def _fresh(self) -> None:
        self._keep = np.zeros((SLOTS, KEPT), SAMPLE), np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.uint32)

    @property
    def paths(self) -> npt.NDArray[np.uint32]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.inner.paths

    @property
    def slots(self) -> npt.NDArray[np.uint8]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.inner.slots

    def make_room(self, capacity: int) -> None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        self.inner.make_room(capacity)
        if capacity > len(self.prints):
            old, self.prints = self.prints, reserve(capacity, PRINT)
            self.prints[: len(old)] = old

    def score(self, frames: Frames, devices: int, max_count: int, name_of: Callable[[int], str | None]) -> Found:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        found = self.inner.score(frames, devices, max_count, name_of)
        if self._in_use.current is not self.types:
            self._take_over(self._in_use.current)
        at, left = frames, max(0, max_count - len(found.flags))
        self._used = max(self._used, int(at.row.max(initial=-1)) + 1)
        limits = np.array([self.types.threshold, self._first_row, self._one_in])
        counts: npt.NDArray[np.int64] = np.zeros(observe.COUNTS, np.int64)
        flags = np.empty(min(left, len(at.row)) + 1, FLAG)
        written = observe.observe(
            self.prints, at.columns, at.count, self._tables, self._keep, limits, self._room, counts, flags
        )
        sampled, compared, raised = counts.tolist()
        self._in_use.sampled += sampled
        self._in_use.compared += compared
        if not raised:
            return found
        self._in_use.flags += raised
        return self._merged(found, flags[: min(written, left)], raised)

    def _merged(self, found: Found, flags: npt.NDArray[np.void], raised: int) -> Found:
        """The flags of both detectors, in the order of the frames; types are replaced by the codes of their names."""
        names = dict(found.names)
        codes = self.types.codes()
        for side in ("value", "expected"):
            kinds = flags[side].astype(np.int64)
            names |= {int(codes[kind]): self.types.name_of(kind) for kind in set(kinds.tolist()) if codes[kind]}
            flags[side] = codes[kinds]
        both = np.concatenate([found.flags, flags])
        return Found(found.raised + raised, both[np.argsort(both["frame"], kind="stable")], names)

    def _take_over(self, types: DeviceTypes) -> None:
        """Switch to another model: devices whose type it contains keep it, the others are classified again."""
        translation, prints = self.types.translation(types), self.prints[: self._used]
        for name in ("type", "candidate", "before"):
            prints[name] = translation[prints[name]]
        changed = (prints["candidate"] == 0) | (prints["type"] == 0)
        for name in ("candidate", "run", "own", "evidence"):
            prints[name][changed] = 0
        self.types, self._tables = types, (types.tables, types.normals)

    def features(self, row: int) -> Iterable[Feature]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.inner.features(row)

    def facts(self, row: int, device_id: bytes) -> TypeFacts | None:
        """The type of the device in ``row``; None before its first sample."""
        if row >= len(self.prints) or self.prints["owner"][row] != owner_of(*map(np.uint64, id_words(device_id))):
            return None
        at = self.prints[row]
        means, cvs = [], []
        for name in ("interval", "size"):
            variance = float(at[f"{name}_var"])
            means.append(float(np.exp(at[name])) if variance > 0 or name == "size" else 0.0)
            cvs.append(float(np.sqrt(np.expm1(min(variance, 20.0)))))
        voting = not at["type"]
        return TypeFacts(
            type=self._name(int(at["type"])),
            before=self._name(int(at["before"])),
            since_s=int(at["typed_s"]),
            model=self.types.version,
            samples=int(at["samples"]),
            interval_s=means[0],
            interval_cv=cvs[0],
            bytes=means[1],
            bytes_cv=cvs[1],
            evidence=0.0 if voting else float(at["evidence"]),
            candidate="" if voting or at["evidence"] <= 0 else self._name(int(at["candidate"])),
        )

    def _name(self, kind: int) -> str:
        return UNKNOWN_NAME if kind == UNKNOWN else self.types.name_of(kind)

    def counted(self) -> dict[str, int]:
        """Number of devices by type; those without one count as ``unknown``."""
        kinds, counts = np.unique(self.prints["type"][: self._used], return_counts=True)
        return {self._name(k): n for k, n in zip(kinds.tolist(), counts.tolist(), strict=True) if k}

    def samples(self, used: int) -> list[KeptSamples]:
        """Samples for training; if more than SLOTS rows are ``used``, other rows are sampled from now on."""
        now = KeptSamples(self._keep[0].copy(), self._keep[1].copy(), self._paths_here())
        out = [*self._older, now]
        if used > SLOTS:
            self._older.append(now)
            self._first_row = self._first_row + SLOTS if self._first_row + SLOTS < used else 0
            self._fresh()
        return out

    def _paths_here(self) -> npt.NDArray[np.uint32]:
        begin, end = self._first_row, min(self._first_row + SLOTS, len(self.paths))
        out: npt.NDArray[np.uint32] = np.zeros((SLOTS, MAX_FIELDS), np.uint32)
        here = self.paths[begin:end]
        out[: len(here)] = np.where(np.arange(MAX_FIELDS) < self.slots[begin:end, None], here, 0)
        return out

    def dump_some(self, begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
        """See :class:`klais.core.anomaly.detector.Detector`; the fingerprint follows the profile of the inner one."""
        found, after = self.inner.dump_some(begin, end, max_bytes)
        count = len(found.row)
        if not count:
            return found, after
        codes = self.types.codes()[self.prints["type"][found.row]]
        heads = np.array([(TAIL_MAGIC, code) for code in codes.tolist()], _HEAD)
        prints = np.ascontiguousarray(self.prints[found.row])
        tails = np.column_stack([part.view(np.uint8).reshape(count, -1) for part in (heads, prints)])
        lengths = found.lengths + TAIL_SIZE
        starts = np.cumsum(lengths) - lengths
        buf = np.empty(int(lengths.sum()), np.uint8)
        first = np.cumsum(found.lengths) - found.lengths
        within = np.arange(int(found.lengths.sum())) - np.repeat(first, found.lengths)
        buf[np.repeat(starts, found.lengths) + within] = found.buf[np.repeat(found.starts, found.lengths) + within]
        buf[(starts + found.lengths)[:, None] + np.arange(TAIL_SIZE)] = tails
        return Saved(found.row, buf, starts, lengths), after

    def mark_unsaved(self, row: npt.NDArray[np.int32]) -> None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        self.inner.mark_unsaved(row)

    def dump(self, row: int) -> bytes | None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        value = self.inner.dump(row)
        return None if value is None else value + self._tail(row)

    def _tail(self, row: int) -> bytes:
        head = np.array((TAIL_MAGIC, self.types.codes()[self.prints["type"][row]]), _HEAD)
        return bytes(head.tobytes()) + bytes(self.prints[row].tobytes())

    def load(self, row: int, value: bytes) -> bool:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        tail = value[-TAIL_SIZE:]
        if len(tail) < TAIL_SIZE or tail[:4] != TAIL_MAGIC:
            return self.inner.load(row, value)
        loaded = self.inner.load(row, value[:-TAIL_SIZE])
        code = int(np.frombuffer(tail, _HEAD, 1)["code"][0])
        saved = np.frombuffer(tail, PRINT, 1, _HEAD.itemsize).copy()
        here = self.prints[row]
        good = all(np.isfinite(saved[name][0]) and saved[name][0] <= 100 for name in HABITS)
        if good and here["owner"] in (0, saved["owner"][0]) and here["samples"] < saved["samples"][0]:
            kinds = np.flatnonzero(self.types.codes() == code).tolist() if code else []
            saved["type"] = kinds[0] if kinds else 0
            for name in ("candidate", "before", "run", "own", "evidence"):
                saved[name] = 0
            self.prints[row] = saved[0]
            self._used = max(self._used, row + 1)
        return loaded
