"""The folder of segments: append at one end, read at the other, forget what Kafka acknowledged.

    |-- acknowledged --|-- handed out, not acknowledged --|-- not read yet --|
                    position                            cursor              end

Offsets are logical: they continue from segment to segment. ``position`` is kept in a file of its own, so that a start
goes on where the last one stopped. It may lag behind (then batches are sent again, and lanes recognise them by their
numbers) but never runs ahead of what was acknowledged. All methods that touch the disk may raise ``OSError``; the
spool is consistent then.

Bytes that the disk cannot read (EIO) are damage like any other: the batches in them are skipped and counted, and
their file is set aside instead of removed, because a disk that comes back may still give them.
"""

import contextlib
import errno
import os
import secrets
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from klais.edge.sinks.spool.folder import lock_folder, probe_folder, read_tolerant, sync_folder
from klais.edge.sinks.spool.records import Damage, Entry, Segment
from klais.edge.sinks.spool.segment import (
    HEADER_SIZE,
    POSITION_SIZE,
    Name,
    decode_position,
    encode_head,
    encode_position,
    parse_name,
    position_name,
    sound_end,
    walk,
)
from klais.errors import SpoolFull
from klais.system.private_files import open_own, own_folder

Sync = Literal["batch", "interval", "none"]
SEGMENT_BYTES = 16 << 20
UNREADABLE = ".unreadable"  # what a segment set aside is called instead of .spool


class Spool:
    """Batches on disk, first in, first out; belongs to one thread.

    Parameters
    ----------
    folder : Path
        Made when it is not there. One process owns it.
    identity : int
        See :func:`klais.edge.sinks.spool.segment.identity_of`.
    max_bytes : int
        All files together.
    lock_wait_s : float
        How long to wait for the owner of the folder to go.
    sync : {"batch", "interval", "none"}
        When written data is forced to the disk: at each :meth:`sync`, at most every ``interval_s``, or never.

    Attributes
    ----------
    batches, frames : int
        Not acknowledged yet.
    bytes : int
        Of all files.
    recovered : int
        Frames found at the start.
    damage : Damage
        What was lost so far.

    Raises
    ------
    SpoolInUse
        Another process owns the folder.
    NotPrivate
        Another user owns the folder or a file of it, or may write there.
    OSError
        It cannot be made, read or written.
    """

    def __init__(
        self,
        folder: Path,
        identity: int,
        max_bytes: int,
        sync: Sync = "interval",
        interval_s: float = 0.1,
        segment_bytes: int = SEGMENT_BYTES,
        lock_wait_s: float = 0.0,
    ) -> None:
        self.folder, self.max_bytes, self.sync_policy, self.interval_s = folder, max_bytes, sync, interval_s
        self._identity = identity
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 8))
        self.batches = self.frames = self.bytes = self.recovered = 0
        self.damage = Damage()
        self._segments: list[Segment] = []
        self._writing = False
        self._out: deque[Entry] = deque()
        self._skip: set[int] = set()  # ends of batches that were acknowledged before one ahead of them
        self._unread: dict[int, int] = {}
        self._dirty = False
        self._synced_s = 0.0
        own_folder(folder)
        self._lock_fd = lock_folder(folder, lock_wait_s)
        try:
            self._position_fd = open_own(folder / position_name(identity), os.O_RDWR | os.O_CREAT)
            self.position = self._read_position()
            self._recover()
        except BaseException:
            os.close(self._lock_fd)
            raise

    # -- writing

    def probe(self) -> None:
        """Find out whether the disk takes data; OSError when it does not."""
        probe_folder(self.folder)

    def configure(self, max_bytes: int, sync: Sync, interval_s: float) -> None:
        """Change the bound and the sync policy while it runs; what is on disk stays."""
        self.max_bytes, self.sync_policy, self.interval_s = max_bytes, sync, interval_s

    def append(self, value: bytes, partition: int, frames: int) -> None:
        """Write one batch at the end; it is in the hands of the operating system when this returns.

        Raises
        ------
        SpoolFull
            The bound would be exceeded.
        OSError
            The disk is full, read-only or broken; nothing of the batch stays.
        """
        size = HEADER_SIZE + len(value)
        if self.bytes + size > self.max_bytes:
            raise SpoolFull(
                f"the spool {self.folder} has {self.bytes} of {self.max_bytes} bytes (KLAIS_SPOOL_MAX_BYTES)"
            )
        if not self._writing or (self._segments[-1].size and self._segments[-1].size + size > self._segment_bytes):
            self._roll()
        segment = self._segments[-1]
        head = encode_head(value, partition, frames, segment.name.salt)
        try:
            if os.pwritev(segment.fd, [head, value], segment.size) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._leave(segment)
            raise
        segment.size += size
        self.bytes += size
        self._book(segment, 1, frames)
        self._unread[partition] = self._unread.get(partition, 0) + 1
        self._dirty = True

    def _book(self, segment: Segment, batches: int, frames: int) -> None:
        segment.batches += batches
        segment.frames += frames
        self.batches += batches
        self.frames += frames

    def _leave(self, segment: Segment) -> None:
        """Writing failed: begin a new file next time; what may lie behind the last record is cut, or skipped later."""
        self._writing = False
        with contextlib.suppress(OSError):
            os.ftruncate(segment.fd, segment.size)
        if not segment.size:
            self._segments.remove(segment)
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        os.close(segment.fd)
        path = self.folder / str(segment.name)
        with contextlib.suppress(OSError):
            if segment.unreadable:
                path.rename(path.with_suffix(UNREADABLE))
            else:
                path.unlink()

    def _roll(self) -> None:
        """Begin a new segment."""
        self.force()
        base = self._segments[-1].end if self._segments else self.position
        name = Name(base, self._identity, secrets.randbits(32))
        fd = open_own(self.folder / str(name), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._segments.append(Segment(name, fd))
        self._writing = True
        if self.sync_policy != "none":
            sync_folder(self.folder)

    def sync(self, now_s: float) -> None:
        """Force to the disk what the policy wants there by ``now_s`` (monotonic)."""
        due = self.sync_policy == "batch" or (
            self.sync_policy == "interval" and now_s - self._synced_s >= self.interval_s
        )
        if self._dirty and due:
            self._synced_s = now_s
            self.force()

    def force(self) -> None:
        """Force what is written to the disk now, unless the policy is ``none``."""
        if self._dirty and self._segments and self.sync_policy != "none":
            try:
                os.fdatasync(self._segments[-1].fd)
            except OSError:
                self._writing = False  # what the disk lost of this file is not known: nothing more goes into it
                self._dirty = False
                raise
        self._dirty = False

    # -- reading

    def holds(self, partition: int) -> bool:
        """Whether a batch of that partition waits that was not handed out yet."""
        return self._unread.get(partition, 0) > 0

    @property
    def cursor(self) -> int:
        """Logical offset of the next batch to hand out."""
        return self._out[-1].end if self._out else self.position

    @property
    def end(self) -> int:
        """Logical offset behind the last batch."""
        return self._segments[-1].end if self._segments else self.position

    def next(self) -> Entry | None:
        """Hand out the next batch; None when all are out. Damaged ones are skipped, and counted
        when their file goes.
        """
        at = self.cursor
        while (segment := next((s for s in self._segments if at < s.end), None)) is not None:
            head, value = segment.read(max(0, at - segment.name.base))
            if head is None:
                at = segment.end
                continue
            entry = Entry(value, head.partition, head.frames, segment.name.base + head.end, segment)
            self._out.append(entry)
            at = entry.end
            if entry.end in self._skip:
                entry.done = True
                self._settle()
                continue
            self._unread[head.partition] = self._unread.get(head.partition, 0) - 1
            if entry.end == self.end:
                self._unread.clear()  # what is left in it was damaged: nothing waits any more
            return entry
        self._unread.clear()
        if not self._out and self.position < self.end:
            self._advance(self.end)  # what is left is damaged
        return None

    def unread(self, entry: Entry) -> None:
        """Take back the batch that was handed out last: it is the next one again."""
        if self._out and self._out[-1] is entry:
            self._out.pop()
            self._unread[entry.partition] = self._unread.get(entry.partition, 0) + 1

    def done(self, entry: Entry) -> None:
        """Kafka has the batch, or it is given up: it need not be kept."""
        entry.done = True
        if entry.segment:
            self._book(entry.segment, -1, -entry.frames)
        self._settle()

    def _settle(self) -> None:
        reached = None
        while self._out and self._out[0].done:
            reached = self._out.popleft().end
            self._skip.discard(reached)
        if reached is not None:
            self._advance(reached)

    def rewind(self) -> None:
        """Hand out again all that was handed out and not acknowledged."""
        for entry in self._out:
            if entry.done:
                self._skip.add(entry.end)
            else:
                self._unread[entry.partition] = self._unread.get(entry.partition, 0) + 1
        self._out.clear()

    # -- keeping house

    def _advance(self, position: int) -> None:
        """Note that all before ``position`` is acknowledged, and remove segments that lie before it."""
        self.position = position
        with contextlib.suppress(OSError):  # a lagging position costs batches sent twice, nothing else
            os.pwrite(self._position_fd, encode_position(position), 0)
        while self._segments and self._segments[0].end <= position:
            segment = self._segments.pop(0)
            if segment.frames:  # skipped without being handed out: damaged
                self.damage.batches += segment.batches
                self.damage.frames += segment.frames
                self._book(segment, -segment.batches, -segment.frames)
            self._writing = self._writing and bool(self._segments)
            self.bytes -= segment.size
            self._remove(segment)
        self._dirty = self._dirty and bool(self._segments)

    def _read_position(self) -> int:
        return decode_position(os.pread(self._position_fd, POSITION_SIZE, 0))

    def _recover(self) -> None:
        """Load the segments that are there."""
        names = sorted(self._names(), key=lambda name: name.base)
        reached = names[0].base if names else 0  # whether a segment before the first is missing, nothing shows
        for i, name in enumerate(names):
            path = self.folder / str(name)
            fd = open_own(path, os.O_RDWR)
            data, whole = read_tolerant(fd, 0, os.fstat(fd).st_size)
            # Only the last file can have a torn tail, and a tail that cannot be read is no torn one.
            size = sound_end(data, name.salt) if i == len(names) - 1 and whole else len(data)
            self.damage.lost_bytes += max(0, name.base - max(reached, self.position))
            reached = name.base + size
            if reached <= self.position or not size:
                self.damage.torn_bytes += len(data) - size
                os.close(fd)
                path.unlink()
                continue
            if size < len(data):
                self.damage.torn_bytes += len(data) - size
                os.ftruncate(fd, size)
            self._adopt(Segment(name, fd, size, unreadable=not whole), data[:size])
        if self._segments:
            self.position = max(self.position, self._segments[0].name.base)
        self.recovered = self.frames

    def _adopt(self, segment: Segment, data: bytes) -> None:
        begin = max(0, self.position - segment.name.base)
        self.damage.lost_bytes += segment.size - begin
        for head in walk(data, segment.name.salt, begin):
            self.damage.lost_bytes -= HEADER_SIZE + head.size
            self._book(segment, 1, head.frames)
            self._unread[head.partition] = self._unread.get(head.partition, 0) + 1
        self.bytes += segment.size
        self._segments.append(segment)

    def _names(self) -> Iterator[Name]:
        """Segments of ours; those made for another topic stay where they are: a start with that topic finds them."""
        for path in sorted(self.folder.iterdir()):
            name = parse_name(path.name)
            if name is None:
                continue
            if name.identity == self._identity:
                yield name
            else:
                self.damage.foreign.append(path.name)

    def close(self) -> None:
        """Force all to the disk and give the folder back."""
        try:
            self.force()
        finally:
            for segment in self._segments:
                os.close(segment.fd)
            os.close(self._position_fd)
            os.close(self._lock_fd)
            self._segments.clear()
