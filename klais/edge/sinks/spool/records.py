"""A segment file as it is read, the batches handed out from it, and its damage."""

import os
from dataclasses import dataclass, field

from klais.edge.sinks.spool.folder import read_tolerant
from klais.edge.sinks.spool.segment import HEADER_SIZE, Head, Name, crc32c, decode_head, find_record


@dataclass(slots=True)
class Segment:
    """One file: ``size`` bytes of records, and the number of unacknowledged ``batches`` and ``frames`` in them.

    ``unreadable``: the disk could not read all of it.
    """

    name: Name
    fd: int
    size: int = 0
    batches: int = 0
    frames: int = 0
    unreadable: bool = False

    def is_removed(self) -> bool:
        """Whether another program removed the file: this process still reads it, but a restart does not find it."""
        return os.fstat(self.fd).st_nlink == 0

    @property
    def end(self) -> int:
        """Logical offset after its last record."""
        return self.name.base + self.size

    def read(self, at: int) -> tuple[Head | None, bytes]:
        """The next valid record at or after byte ``at``, header and value; None if there is none."""
        while at < self.size:
            head = decode_head(self._bytes(at, HEADER_SIZE), at, self.name.salt)
            if head is None or head.end > self.size:
                # Without a header the start of the next record is unknown: search for one.
                head = find_record(self._bytes(0, self.size), at + 1, self.name.salt)
                if head is None:
                    return None, b""
            value = self._bytes(head.at + HEADER_SIZE, head.size)
            if crc32c(value) == head.crc:
                return head, value
            at = head.end
        return None, b""

    def _bytes(self, at: int, size: int) -> bytes:
        data, whole = read_tolerant(self.fd, at, size)
        self.unreadable = self.unreadable or not whole
        return data


@dataclass(slots=True)
class Entry:
    """A batch handed out: its value and partition, its number of frames, and the logical offset after it."""

    value: bytes
    partition: int
    frames: int
    end: int
    segment: Segment | None = None
    done: bool = False


@dataclass(slots=True)
class Damage:
    """Data that could not be read.

    ``batches`` and ``frames`` are lost, ``torn_bytes`` were cut off at the start, ``lost_bytes`` are gone from between
    sound batches: their number of frames is unknown. Segments ``foreign`` to this edge's topic were left alone.
    """

    batches: int = 0
    frames: int = 0
    torn_bytes: int = 0
    lost_bytes: int = 0
    foreign: list[str] = field(default_factory=list)
