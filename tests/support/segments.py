"""Simulate a power loss: truncate the segment files of a partition of a stopped broker."""

import struct
from pathlib import Path

from klais.broker.config import BrokerFiles
from klais.config.load import Settings

_BATCH_HEAD = struct.Struct(">qi")  # base offset, bytes that follow
_LAST_OFFSET_DELTA = struct.Struct(">i")
_DELTA_AT = 23


def folder_of(settings: Settings, topic: str, partition: int = 0) -> Path:
    """Folder of a partition of the embedded broker of these settings."""
    return BrokerFiles(settings).data / f"{topic}-{partition}"


def newest_segment(folder: Path) -> Path:
    """The ``.log`` file that the broker appended to."""
    return max(folder.glob("*.log"))


def batches(segment: Path) -> list[tuple[int, int, int]]:
    """(base offset, offset after the batch, position in the file) of each batch of a segment."""
    data, at, found = segment.read_bytes(), 0, []
    while at + _BATCH_HEAD.size <= len(data):
        base, size = _BATCH_HEAD.unpack_from(data, at)
        if size <= 0 or at + _BATCH_HEAD.size + size > len(data):
            break
        (delta,) = _LAST_OFFSET_DELTA.unpack_from(data, at + _DELTA_AT)
        found.append((base, base + delta + 1, at))
        at += _BATCH_HEAD.size + size
    return found


def cut(settings: Settings, topic: str, offset: int, partition: int = 0, torn: bool = False) -> int:
    """Truncate the newest segment at the batch that holds ``offset``; return the partition's new end offset.

    ``torn`` leaves half of that batch, like a disk that had written some of its pages. The index files and the
    producers' snapshots are removed too: a power loss may destroy them, and the broker rebuilds them from the segment.
    """
    folder = folder_of(settings, topic, partition)
    segment = newest_segment(folder)
    first, _, place = next(batch for batch in batches(segment) if batch[1] > offset)
    with segment.open("r+b") as file:
        if torn:
            place += (segment.stat().st_size - place) // 2 if first == batches(segment)[-1][0] else _DELTA_AT
        file.truncate(place)
    for kind in ("*.index", "*.timeindex", "*.snapshot"):
        for path in folder.glob(kind):
            path.unlink()
    return first


def damage(settings: Settings, topic: str, offset: int, partition: int = 0) -> tuple[int, int]:
    """Flip a byte of the batch that holds ``offset``, in place; return the batch's first offset and the next one after
    it.

    The broker may run: it sends the bytes of the file, and checks no CRC when it reads.
    """
    segment = newest_segment(folder_of(settings, topic, partition))
    found = batches(segment)
    at = next(n for n, batch in enumerate(found) if batch[1] > offset)
    end = found[at + 1][2] if at + 1 < len(found) else segment.stat().st_size
    with segment.open("r+b") as file:
        file.seek(end - 1)
        last = file.read(1)[0]
        file.seek(end - 1)
        file.write(bytes([last ^ 0x40]))
    return found[at][:2]
