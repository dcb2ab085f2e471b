"""Frames as columns for the judge: device, sequence, and a hash of the whole frame."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from klais.core.wire.frame import check_headers
from klais.sim.kernels import fnv1a64_column


@dataclass(frozen=True, slots=True)
class FrameColumns:
    """n frames; frames of one device are in order.

    ``ids`` uint64 [n, 2] (16 bytes of device_id as two little-endian words; 0 where unreadable), ``sequence`` uint32
    [n], ``hashes`` uint64 [n] (64-bit FNV-1a of the whole frame), ``ts_ms`` int64 [n] (0 = unknown), ``reason`` uint8
    [n] (of a dead letter, else 0), ``lane`` bool [n] (a dead letter of a lane, not of an edge), ``partition`` int32
    [n].
    """

    ids: npt.NDArray[np.uint64]
    sequence: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    ts_ms: npt.NDArray[np.int64]
    reason: npt.NDArray[np.uint8]
    lane: npt.NDArray[np.bool_]
    partition: npt.NDArray[np.int32]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.hashes)

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "FrameColumns":
        """The frames of a mask or of an index column, in its order."""
        return FrameColumns(*(getattr(self, field.name)[which] for field in fields(self)))

    def name(self, i: int) -> str:
        """Frame ``i`` as text."""
        device = self.ids[i].astype("<u8").tobytes().rstrip(b"\0")
        return f"{device.decode('utf-8', 'backslashreplace')} #{int(self.sequence[i])} ({int(self.hashes[i]):016x})"

    def device_keys(self) -> npt.NDArray[np.uint64]:
        """One 64-bit key per device (two devices collide with a chance of 2^-64), uint64 [n]."""
        keys: npt.NDArray[np.uint64] = self.ids[:, 0] * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
        return (keys ^ self.ids[:, 1]) * np.uint64(0xBF58476D1CE4E5B9)


def columns_of(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    ts_ms: npt.NDArray[np.int64] | None = None,
    partition: npt.NDArray[np.int32] | None = None,
) -> FrameColumns:
    """Columns of n raw frames ``buf[starts[i] : starts[i] + lengths[i]]``; ``reason`` is the defect of the header."""
    n = len(starts)
    reason, id_size = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    ids, sequence, hashes = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32), np.zeros(n, np.uint64)
    check_headers(buf, starts, lengths, reason, ids, sequence, id_size)
    fnv1a64_column(buf, starts, lengths, hashes)
    ts_ms = np.zeros(n, np.int64) if ts_ms is None else ts_ms
    partition = np.zeros(n, np.int32) if partition is None else partition
    return FrameColumns(ids, sequence, hashes, ts_ms, reason, np.ones(n, np.bool_), partition)


def columns_of_frames(frames: Sequence[bytes]) -> FrameColumns:
    """Columns of a list of frames.

    Examples
    --------
    >>> columns_of_frames([b"\\xaa\\x55dev-1" + bytes(11) + b"\\0\\0\\0\\7{}"]).name(0)[:8]
    'dev-1 #7'
    """
    lengths = np.array([len(frame) for frame in frames], np.int64)
    return columns_of(np.frombuffer(b"".join(frames), np.uint8), np.cumsum(lengths) - lengths, lengths)


def joined(parts: Sequence[FrameColumns]) -> FrameColumns:
    """Concatenate parts."""
    if not parts:
        return columns_of_frames([])
    return FrameColumns(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(FrameColumns))
    )
