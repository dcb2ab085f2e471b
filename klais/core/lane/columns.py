"""The columns of one frame batch, computed once and used by all later steps."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.core.dam.overrides import Prefixes, begin_with
from klais.core.devices.siphash import hash_spans
from klais.core.wire.batch import SOURCE_SIZE, FrameBatch
from klais.core.wire.constants import HEADER_SIZE
from klais.core.wire.frame import check_headers
from klais.core.wire.json_scan import MAX_FIELDS_PER_FRAME, scan_payloads
from klais.core.wire.json_strict import check_strict


@dataclass(slots=True)
class Columns:
    """Header columns of n frames: ``verdict`` uint8 (0 or the reason if malformed), ``ids`` uint64 [n, 2], ``sequence``
    uint32, ``id_size`` uint8, ``time_ns`` and ``ts_ms`` int64 (receive time), ``row`` int32 (-1 until looked up),
    ``epoch`` uint32 (0 = unsigned)."""

    batch: FrameBatch
    verdict: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.uint64]
    sequence: npt.NDArray[np.uint32]
    id_size: npt.NDArray[np.uint8]
    time_ns: npt.NDArray[np.int64]
    ts_ms: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]
    epoch: npt.NDArray[np.uint32]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.verdict)

    def device_id(self, i: int) -> bytes:
        """Unpadded device_id of frame ``i`` (empty if unreadable)."""
        return bytes(self.ids[i].tobytes()[: int(self.id_size[i])])

    def payload_place(self, i: int) -> tuple[int, int]:
        """Start and end of the payload of frame ``i`` in ``batch.buf``."""
        start = int(self.batch.starts[i])
        return start + HEADER_SIZE, start + int(self.batch.lengths[i])

    def payload(self, i: int) -> bytes:
        """Payload bytes of frame ``i``."""
        return self.batch.frame(i)[HEADER_SIZE:]


@dataclass(slots=True)
class Fields:
    """Numeric payload fields of a batch, in frame order.

    ``count`` of (frame int32, path hash uint64, value float64).
    """

    frame: npt.NDArray[np.int32]
    path: npt.NDArray[np.uint64]
    value: npt.NDArray[np.float64]
    count: int


def read_headers(batch: FrameBatch) -> Columns:
    """Header columns of a batch."""
    n = batch.count
    columns = Columns(
        batch,
        verdict=np.empty(n, np.uint8),
        ids=np.empty((n, 2), np.uint64),
        sequence=np.empty(n, np.uint32),
        id_size=np.empty(n, np.uint8),
        time_ns=np.full(n, batch.received_at, np.int64),
        ts_ms=np.empty(n, np.int64),
        row=np.full(n, -1, np.int32),
        epoch=np.zeros(n, np.uint32) if batch.epochs is None else batch.epochs,
    )
    if batch.offsets is not None:
        columns.time_ns += batch.offsets
    np.floor_divide(columns.time_ns, 1_000_000, out=columns.ts_ms)
    check_headers(
        batch.buf, batch.starts, batch.lengths, columns.verdict, columns.ids, columns.sequence, columns.id_size
    )
    return columns


def read_payloads(columns: Columns, reason: npt.NDArray[np.uint8], strict: bool = False) -> Fields:
    """Check the payloads of frames whose ``reason`` is 0 (and set it if malformed); returns their numeric fields.

    ``strict``: also refuse what :mod:`klais.core.wire.json_strict` finds.
    """
    cap = columns.count * MAX_FIELDS_PER_FRAME
    fields = Fields(np.empty(cap, np.int32), np.empty(cap, np.uint64), np.empty(cap, np.float64), 0)
    batch = columns.batch
    fields.count = scan_payloads(
        batch.buf, batch.starts, batch.lengths, reason, fields.frame, fields.path, fields.value
    )
    if strict and check_strict(batch.buf, batch.starts, batch.lengths, reason):
        kept = np.flatnonzero(reason[fields.frame[: fields.count]] == 0)  # a refused frame has no fields
        fields = Fields(fields.frame[kept], fields.path[kept], fields.value[kept], len(kept))
    return fields


def frame_hashes(columns: Columns, key: npt.NDArray[np.uint64], uncounted: Prefixes) -> npt.NDArray[np.uint32]:
    """Keyed hash of each frame for the sequence window, uint32 [n]; 0 if the id begins with one of ``uncounted``."""
    batch = columns.batch
    out = np.empty(columns.count, np.uint32)
    hash_spans(batch.buf, batch.starts, batch.lengths, key, out)
    if len(uncounted):
        out[begin_with(columns.ids, uncounted) != 0] = 0
    return out


def source_hashes(columns: Columns, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """32-bit hash of each frame's source address and port, 0 if the batch has none: uint32 [n]."""
    sources = columns.batch.sources
    out = np.zeros(columns.count, np.uint32)
    if sources is not None:
        starts = np.arange(columns.count, dtype=np.int64) * SOURCE_SIZE
        flat = np.ascontiguousarray(sources).reshape(-1)
        hash_spans(flat, starts, np.full(columns.count, SOURCE_SIZE, np.int64), key, out)
    return out
