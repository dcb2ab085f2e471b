"""KFB1, the frame batch: the value of one record on the staging topic (see ``docs/protocol.md``).

Little-endian: ``b"KFB1"``, u32 count, u64 received_at (ns since the epoch), u16 edge, u16 flags, u32 boot, u64 number;
count x u16 lengths; with flag bit 0 count x u32 ns offsets from received_at; with flag bit 1 count x 18 bytes of source
(IPv6 or v4-mapped address, u16 port big-endian); with flag bit 2 count x u32 epoch (0 = unsigned); then the raw frames
back to back.
"""

import ipaddress
from dataclasses import dataclass
from struct import Struct

import numpy as np
import numpy.typing as npt

from klais.errors import BatchFormatError

HEADER = Struct("<4sIQHHIQ")
MAGIC = b"KFB1"
FLAG_OFFSETS = 1
FLAG_SOURCES = 2
FLAG_EPOCHS = 4
LAST_TIME_NS = (1 << 63) - (1 << 32)  # plus the largest offset it is still an int64
KNOWN_FLAGS = FLAG_OFFSETS | FLAG_SOURCES | FLAG_EPOCHS
SOURCE_SIZE = 18
assert HEADER.size == 32


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """A decoded frame batch; all columns are views of ``buf`` or derived once.

    ``buf`` uint8 [b] holds the whole record; frame i is ``buf[starts[i] : starts[i] + lengths[i]]`` (int64 [n] each).
    ``received_at`` int64 ns; ``offsets`` uint32 [n] ns or None; ``sources`` uint8 [n, 18] or None;
    ``epochs`` uint32 [n], 0 = unsigned, or None.
    """

    buf: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    received_at: int
    edge: int
    boot: int
    number: int
    offsets: npt.NDArray[np.uint32] | None
    sources: npt.NDArray[np.uint8] | None
    epochs: npt.NDArray[np.uint32] | None = None

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.starts)

    def frame(self, i: int) -> bytes:
        """The bytes of frame ``i``, exactly as received."""
        start = int(self.starts[i])
        return self.buf[start : start + int(self.lengths[i])].tobytes()


def decode_batch(value: bytes) -> FrameBatch:
    """Read one KFB1 record; every length is checked before use.

    Raises
    ------
    BatchFormatError
        If it is not KFB1, has an unknown flag, or lengths that do not match the record.
    """
    if len(value) < HEADER.size:
        raise BatchFormatError(f"record of {len(value)} bytes is shorter than a KFB1 header ({HEADER.size} bytes)")
    magic, count, received_at, edge, flags, boot, number = HEADER.unpack_from(value)
    if magic != MAGIC:
        raise BatchFormatError(f"record starts with {magic!r}, not {MAGIC!r}: not a frame batch")
    if flags & ~KNOWN_FLAGS:
        raise BatchFormatError(f"flags {flags:#x} has bits that this reader does not know ({flags & ~KNOWN_FLAGS:#x})")
    if received_at >= LAST_TIME_NS:
        raise BatchFormatError(f"received_at {received_at} is not a time")
    column_bytes = count * (2 + 4 * bool(flags & FLAG_OFFSETS) + SOURCE_SIZE * bool(flags & FLAG_SOURCES))
    column_bytes += count * 4 * bool(flags & FLAG_EPOCHS)
    if HEADER.size + column_bytes > len(value):
        raise BatchFormatError(f"{count} frames need {column_bytes} bytes of columns, the record has {len(value)}")
    buf = np.frombuffer(value, np.uint8)
    at = HEADER.size
    lengths = buf[at : at + 2 * count].view("<u2").astype(np.int64)
    at += 2 * count
    offsets = sources = epochs = None
    if flags & FLAG_OFFSETS:
        offsets = buf[at : at + 4 * count].copy().view("<u4")
        at += 4 * count
    if flags & FLAG_SOURCES:
        sources = buf[at : at + SOURCE_SIZE * count].reshape(count, SOURCE_SIZE)
        at += SOURCE_SIZE * count
    if flags & FLAG_EPOCHS:
        epochs = buf[at : at + 4 * count].copy().view("<u4")
        at += 4 * count
    ends = at + np.cumsum(lengths)
    if (int(ends[-1]) if count else at) != len(value):
        raise BatchFormatError(f"frames end at byte {int(ends[-1]) if count else at}, the record at {len(value)}")
    return FrameBatch(buf, ends - lengths, lengths, received_at, edge, boot, number, offsets, sources, epochs)


def received_at_of(value: bytes) -> int:
    """When the edge received a batch (ns since the epoch), from its header alone; 0 if it is not a frame batch."""
    return HEADER.unpack_from(value)[2] if len(value) >= HEADER.size and value.startswith(MAGIC) else 0


def encode_batch_header(count: int, received_at: int, edge: int, flags: int, boot: int, number: int) -> bytes:
    """The 32 header bytes of a frame batch."""
    return HEADER.pack(MAGIC, count, received_at, edge, flags, boot, number)


def encode_batch(
    frames: list[bytes],
    received_at: int,
    edge: int = 0,
    boot: int = 0,
    number: int = 0,
    offsets: npt.NDArray[np.uint32] | None = None,
    sources: npt.NDArray[np.uint8] | None = None,
    epochs: npt.NDArray[np.uint32] | None = None,
) -> bytes:
    """A frame batch from a list of frames, for tools and tests (the edge uses a kernel).

    Examples
    --------
    >>> decode_batch(encode_batch([b"ab", b"c"], 5)).frame(1)
    b'c'
    """
    flags = FLAG_OFFSETS * (offsets is not None) | FLAG_SOURCES * (sources is not None)
    flags |= FLAG_EPOCHS * (epochs is not None)
    parts = [encode_batch_header(len(frames), received_at, edge, flags, boot, number)]
    parts.append(np.array([len(f) for f in frames], "<u2").tobytes())
    if offsets is not None:
        parts.append(offsets.astype("<u4").tobytes())
    if sources is not None:
        parts.append(sources.tobytes())
    if epochs is not None:
        parts.append(epochs.astype("<u4").tobytes())
    return b"".join(parts + frames)


def read_source(batch: FrameBatch, i: int) -> str | None:
    """Source of frame ``i`` as ``address:port``, None if the batch has no sources.

    Examples
    --------
    >>> source = np.frombuffer(b"\\0" * 10 + b"\\xff\\xff" + bytes([127, 0, 0, 1]) + b"\\x1f\\x90", np.uint8)
    >>> read_source(decode_batch(encode_batch([b"x"], 5, sources=source.reshape(1, 18))), 0)
    '127.0.0.1:8080'
    """
    if batch.sources is None:
        return None
    raw = batch.sources[i].tobytes()
    address = ipaddress.IPv6Address(raw[:16])
    port = int.from_bytes(raw[16:], "big")
    return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{address}]:{port}"
