"""A fleet of simulated devices as columns: payloads rendered and scanned once for each device, then drawn by time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bench.cases.fingerprint.kinds import Kind, payloads
from klais.core.anomaly.detector import Frames
from klais.core.devices.layout import id_words
from klais.core.wire.constants import HEADER_SIZE
from klais.core.wire.json_locate import field_name
from klais.core.wire.json_scan import scan_payloads

POOL = 48  # payloads of a device from which its frames are drawn
EPOCH_NS = 1_700_000_000_000_000_000
REBOOTS = 1 / 4000  # share of the frames that are boot messages
LOST = 0.01  # of the frames never arrive
BOOT = b'{"boot":1,"reset_cause":4,"heap":41234,"fw_build":2207}'


@dataclass(slots=True)
class Device:
    """One simulated device: ``fields`` of each of its payloads (paths, values), ``sizes`` of the payloads."""

    kind: Kind
    interval_s: float
    sizes: npt.NDArray[np.int64]
    paths: list[npt.NDArray[np.uint64]]
    values: list[npt.NDArray[np.float64]]

    def times(self, rng: np.random.Generator, begin_s: float, end_s: float) -> npt.NDArray[np.float64]:
        """Receive times (s) in a span."""
        count = int(3 * (end_s - begin_s) / self.interval_s) + 50
        if self.kind.bursty:
            steps = self.interval_s * rng.lognormal(-0.5 * self.kind.jitter**2, self.kind.jitter, count)
        else:
            steps = self.interval_s * np.maximum(0.2, 1.0 + self.kind.jitter * rng.normal(size=count))
        at = begin_s + rng.random() * self.interval_s + np.cumsum(steps)
        at = at[rng.random(count) >= LOST]
        return at[at < end_s]


def make_device(kind: Kind, rng: np.random.Generator, names: dict[int, str]) -> Device:
    """Draw one device; adds its field names to ``names``, by the lower half of their paths."""
    texts = [*payloads(kind, rng, POOL), BOOT]
    buf = np.frombuffer(b"".join(bytes(HEADER_SIZE) + text for text in texts), np.uint8)
    lengths = np.array([HEADER_SIZE + len(text) for text in texts], np.int64)
    starts = np.cumsum(lengths) - lengths
    reason, cap = np.zeros(len(texts), np.uint8), 16 * len(texts)
    frame, path, value = np.empty(cap, np.int32), np.empty(cap, np.uint64), np.empty(cap)
    count = scan_payloads(buf, starts, lengths, reason, frame, path, value)
    if reason.any():
        raise AssertionError("a simulated payload is malformed")
    edges = np.searchsorted(frame[:count], np.arange(len(texts) + 1))
    paths = [path[a:b] for a, b in pairwise(edges.tolist())]
    for i, mine in enumerate(paths):
        for nth, one in enumerate(mine.tolist()):
            if one & 0xFFFFFFFF not in names:
                begin = int(starts[i]) + HEADER_SIZE
                found = field_name(buf, begin, int(starts[i] + lengths[i]), nth, one)
                names[one & 0xFFFFFFFF] = found or ""
    interval_s = float(rng.uniform(*kind.interval_s))
    return Device(kind, interval_s, lengths, paths, [value[a:b] for a, b in pairwise(edges.tolist())])


@dataclass(slots=True)
class Trace:
    """Frames in the order of time: ``row`` (id) and ``device`` (sender) int32, ``at_s`` float64, ``payload`` int64 of
    the sender's pool.
    """

    row: npt.NDArray[np.int32]
    device: npt.NDArray[np.int32]
    at_s: npt.NDArray[np.float64]
    payload: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, devices: Sequence[Device], rng: np.random.Generator, parts: Sequence[tuple[int, int, float, float]]
    ) -> "Trace":
        """``parts``: (row, sender, begin s, end s)."""
        times = [devices[sender].times(rng, begin, end) for _, sender, begin, end in parts]
        counts = [len(at) for at in times]
        row = np.repeat(np.array([part[0] for part in parts], np.int32), counts)
        device = np.repeat(np.array([part[1] for part in parts], np.int32), counts)
        at_s = np.concatenate(times)
        payload = rng.integers(0, POOL, len(at_s))
        payload[rng.random(len(at_s)) < REBOOTS] = POOL
        order = np.argsort(at_s, kind="stable")
        return cls(row[order], device[order], at_s[order], payload[order])

    def frames(self, devices: Sequence[Device], begin: int, end: int, last_s: npt.NDArray[np.float64]) -> Frames:
        """Columns of some frames; ``last_s`` (by row) has the time of the previous frame, NaN = none."""
        row, at_s = self.row[begin:end], self.at_s[begin:end]
        interval = np.empty(len(row))
        for i, (r, t) in enumerate(zip(row.tolist(), at_s.tolist(), strict=True)):
            interval[i] = t - last_s[r]
            last_s[r] = t
        senders, which = self.device[begin:end].tolist(), self.payload[begin:end].tolist()
        paths = [devices[d].paths[p] for d, p in zip(senders, which, strict=True)]
        values = [devices[d].values[p] for d, p in zip(senders, which, strict=True)]
        lengths = np.array([devices[d].sizes[p] for d, p in zip(senders, which, strict=True)], np.int64)
        counts = [len(path) for path in paths]
        return Frames(
            row=row,
            ids=ids_of(row),
            time_ns=EPOCH_NS + (at_s * 1e9).astype(np.int64),
            lengths=lengths,
            interval_s=np.nan_to_num(interval, nan=-1.0),
            field_frame=np.repeat(np.arange(len(row), dtype=np.int32), counts),
            field_path=np.concatenate(paths),
            field_value=np.concatenate(values),
            count=int(sum(counts)),
        )


def ids_of(row: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """Words of the ids ``dev-<row>``, uint64 [n, 2]."""
    table = np.array([id_words(b"dev-%d" % r) for r in range(int(row.max(initial=0)) + 1)], np.uint64)
    return np.ascontiguousarray(table[row])
