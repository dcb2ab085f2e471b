"""A segment file as it is read, the batches handed out from it, and its damage."""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from klais.edge.sinks.spool.folder import open_later, read_tolerant, sync_folder
from klais.edge.sinks.spool.segment import HEADER_SIZE, Head, Name, crc32c, decode_head, find_record, parse_name

COPY = ".copy"  # suffix of a copy that is not complete, in place of .spool


@dataclass(slots=True)
class Segment:
    """One file: ``size`` bytes of records, and the number of unacknowledged ``batches`` and ``frames`` in them.

    ``unreadable``: the disk could not read all of it. ``unsynced``: a sync of it failed.
    """

    name: Name
    fd: int
    size: int = 0
    batches: int = 0
    frames: int = 0
    unreadable: bool = False
    unsynced: bool = False

    def is_removed(self, folder: Path) -> bool:
        """Whether another program removed or moved the file: this process still reads it, a restart does not find
        it."""
        try:
            return not os.path.samestat(os.stat(folder / str(self.name)), os.fstat(self.fd))
        except (FileNotFoundError, NotADirectoryError):
            return True

    def write_again(self, folder: Path) -> None:
        """Replace the file by a copy that is synced.

        A failed sync marks the pages as written all the same, so a later sync of this file would prove nothing.

        Raises
        ------
        OSError
            If the disk does not accept the copy either.
        """
        data, whole = read_tolerant(self.fd, 0, self.size)
        if not whole:  # some of it is lost already: the file is kept for a disk that recovers
            self.unreadable, self.unsynced = True, False
            return
        path = folder / str(self.name)
        copy = path.with_suffix(COPY)
        fd = open_later(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            if os.pwrite(fd, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
            copy.replace(path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                copy.unlink()
            raise
        os.close(self.fd)
        self.fd = fd
        sync_folder(folder)
        self.unsynced = False

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
    sound batches: their number of frames is unknown. Segments ``foreign`` to this edge's topic, and ``other_version``
    ones, were left alone.
    """

    batches: int = 0
    frames: int = 0
    torn_bytes: int = 0
    lost_bytes: int = 0
    foreign: list[str] = field(default_factory=list)
    other_version: list[str] = field(default_factory=list)


def segments_of(folder: Path, identity: int, damage: Damage) -> Iterator[Name]:
    """Segments of one topic; those of another are left for a start with that topic, and noted in ``damage``."""
    for path in sorted(folder.iterdir()):
        name = parse_name(path.name)
        if name is None:
            if path.suffix == COPY and parse_name(f"{path.stem}.spool"):
                path.unlink()  # of a run that was killed
        elif name.identity == identity:
            yield name
        else:
            damage.foreign.append(path.name)
