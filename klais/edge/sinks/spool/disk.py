"""The folder of segments: append at one end, read at the other, remove what Kafka acknowledged.

    |-- acknowledged --|-- handed out, not acknowledged --|-- not read yet --|
                    position                            cursor              end

Offsets are logical: they continue from segment to segment. ``position`` is stored in a separate file, so that a start
continues where the last run stopped. It may lag behind (then batches are sent again, and lanes recognise them by their
numbers) but is never ahead of the acknowledged batches. All methods that access the disk may raise ``OSError``; the
spool is consistent then.

Bytes that the disk cannot read (EIO) are treated as damage: the batches in them are skipped and counted, and the file
is renamed instead of removed, because a disk that recovers may still return them. A file whose sync failed is written
again.
"""

import contextlib
import errno
import os
import secrets
from collections import deque
from pathlib import Path
from typing import Literal

from klais.edge.sinks.spool.folder import SpoolFolder, probe_folder, read_tolerant, sync_folder
from klais.edge.sinks.spool.records import Damage, Entry, Segment, segments_of
from klais.edge.sinks.spool.segment import (
    HEADER_SIZE,
    Name,
    encode_head,
    is_of_other_version,
    position_name,
    sound_end,
    walk,
)
from klais.errors import SpoolFull
from klais.system.private_files import open_own

Sync = Literal["batch", "interval", "none"]
SEGMENT_BYTES = 16 << 20
MAX_FILES = 2048
UNREADABLE = ".unreadable"  # suffix of such a segment in place of .spool


class Spool:
    """Batches on disk, first in, first out; belongs to one thread.

    Parameters
    ----------
    folder : Path
        Created if it does not exist. One process owns it.
    identity : int
        See :func:`klais.edge.sinks.spool.segment.identity_of`.
    max_bytes : int
        Limit for all files together.
    lock_wait_s : float
        How long to wait for the owner of the folder to exit.
    sync : {"batch", "interval", "none"}
        When written data is synced to disk: at each :meth:`sync`, at most every ``interval_s``, or never.

    Attributes
    ----------
    batches, frames : int
        Not acknowledged yet.
    bytes : int
        Size of all files.
    recovered : int
        Frames found at the start.
    damage : Damage
        Losses so far.
    behind : OSError or None
        Why the position file is behind, acknowledged files remain, or a file is not synced; :meth:`probe` makes up for
        it.
    not_synced : int
        Frames that a crash of the machine may lose, at most: they are in files whose sync failed.

    Raises
    ------
    SpoolInUse
        If another process owns the folder.
    NotPrivate
        If another user owns the folder or a file in it, or may write to it.
    OSError
        If it cannot be created, read or written.
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
        self._segment_bytes = segment_bytes
        self.batches = self.frames = self.bytes = self.recovered = 0
        self.damage = Damage()
        self._segments: list[Segment] = []
        self._writing = False
        self._out: deque[Entry] = deque()
        self._skip: set[int] = set()  # ends of batches that were acknowledged before an earlier one
        self._unread: dict[int, int] = {}
        self._dirty = False
        self._synced_s = 0.0
        self.behind: OSError | None = None
        self._beyond = self.not_synced = 0
        self._left: deque[Path] = deque()  # acknowledged files that could not be removed
        with contextlib.ExitStack() as opened:  # a failing disk is opened repeatedly: leak no descriptor
            self._owned = SpoolFolder(folder, position_name(identity), lock_wait_s)
            opened.callback(self._owned.close)
            self.position = self._owned.read_position()
            self._recover(opened)
            opened.pop_all()

    # -- writing

    def probe(self) -> None:
        """Check that the disk accepts data, and write what it refused; OSError if it still does."""
        self._owned.restore(self.position)
        probe_folder(self.folder)
        if self.behind is not None:
            self._owned.write_position(self.position)
            self._remove_left()
            self._sync_again()
            self.behind = None

    def _sync_again(self) -> None:
        """Write the files again whose sync failed."""
        for segment in self._segments:
            if segment.unsynced:
                segment.write_again(self.folder)
        self.not_synced = 0

    def configure(self, max_bytes: int, sync: Sync, interval_s: float) -> None:
        """Change the limit and the sync policy at run time; files on disk are unchanged."""
        self.max_bytes, self.sync_policy, self.interval_s = max_bytes, sync, interval_s

    def append(self, value: bytes, partition: int, frames: int) -> None:
        """Write one batch at the end; the operating system has it when this returns.

        Raises
        ------
        SpoolFull
            If the limit would be exceeded.
        OSError
            If the disk is full, read-only or broken; no part of the batch stays.
        """
        size = HEADER_SIZE + len(value)
        if self.bytes + size > self.max_bytes:
            raise SpoolFull(
                f"the spool {self.folder} has {self.bytes} of {self.max_bytes} bytes (KLAIS_SPOOL_MAX_BYTES)"
            )
        # Each file is open: their number is bounded, also if the limit is raised while the edge runs.
        room = max(min(self._segment_bytes, self.max_bytes // 8), self.max_bytes // MAX_FILES)
        if not self._writing or (self._segments[-1].size and self._segments[-1].size + size > room):
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
        """Leave a segment after a write error: the next write starts a new file.

        If a part of the record cannot be cut off, it is beyond the next segment's base, where a start ignores it.
        """
        self._writing = False
        with contextlib.suppress(OSError):
            os.ftruncate(segment.fd, segment.size)
        if not segment.size:
            with contextlib.suppress(OSError):  # otherwise the next write takes this file: no two have the same base
                (self.folder / str(segment.name)).unlink()
                self._segments.remove(segment)
                os.close(segment.fd)

    def _remove(self, segment: Segment) -> None:
        os.close(segment.fd)
        path = self.folder / str(segment.name)
        try:
            if segment.unreadable:
                path.rename(path.with_suffix(UNREADABLE))
            else:
                self._left.append(path)
                self._remove_left()
        except OSError as error:
            self.behind = error

    def _remove_left(self) -> None:
        """Remove acknowledged files, oldest first: a gap between two files would look like damage to a start."""
        while self._left:
            self._left[0].unlink(missing_ok=True)
            self._left.popleft()

    def _roll(self) -> None:
        """Begin a new segment, or write again to an empty one that could not be removed."""
        self.force()
        if not self._segments or self._segments[-1].size:
            self._owned.restore(self.position)
            name = Name(max(self.end, self._beyond), self._identity, secrets.randbits(32))
            fd = open_own(self.folder / str(name), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self._segments.append(Segment(name, fd))
        if self.sync_policy != "none":
            sync_folder(self.folder)
        self._writing = True

    def sync(self, now_s: float) -> None:
        """Sync to disk as the policy requires at ``now_s`` (monotonic)."""
        due = self.sync_policy == "batch" or (
            self.sync_policy == "interval" and now_s - self._synced_s >= self.interval_s
        )
        if self._dirty and due:
            self._synced_s = now_s
            self.force()

    def force(self) -> None:
        """Sync all written data to disk now, unless the policy is ``none``."""
        if self._dirty and self._segments and self.sync_policy != "none":
            try:
                os.fdatasync(self._segments[-1].fd)
            except OSError as error:
                self._writing = False  # the state of this file on disk is unknown: write no more to it
                self._dirty, self._segments[-1].unsynced, self.behind = False, True, error
                self.not_synced = sum(segment.frames for segment in self._segments if segment.unsynced)
                raise
        self._dirty = False

    def frames_in_removed_files(self) -> int:
        """Frames that only this process can still read. The next write begins a new file if the newest is removed."""
        removed = [segment for segment in self._segments if segment.is_removed(self.folder)]
        self._writing = self._writing and self._segments[-1] not in removed
        return sum(segment.frames for segment in removed)

    # -- reading

    def holds(self, partition: int) -> bool:
        """Whether a batch of that partition was not handed out yet."""
        return self._unread.get(partition, 0) > 0

    @property
    def cursor(self) -> int:
        """Logical offset of the next batch to hand out."""
        return self._out[-1].end if self._out else self.position

    @property
    def end(self) -> int:
        """Logical offset after the last batch."""
        return self._segments[-1].end if self._segments else self.position

    def next(self) -> Entry | None:
        """Hand out the next batch; None when all are handed out. Damaged ones are skipped, and counted
        when their file is removed.
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
                self._unread.clear()  # the rest was damaged: no batches are waiting
            return entry
        self._unread.clear()
        if not self._out and self.position < self.end:
            self._advance(self.end)  # the rest is damaged
        return None

    def unread(self, entry: Entry) -> None:
        """Take back the batch that was handed out last: it becomes the next one again."""
        if self._out and self._out[-1] is entry:
            self._out.pop()
            self._unread[entry.partition] = self._unread.get(entry.partition, 0) + 1

    def done(self, entry: Entry) -> None:
        """Kafka has the batch, or it was given up: it can be removed."""
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
        """Hand out again all batches that were handed out and not acknowledged."""
        for entry in self._out:
            if entry.done:
                self._skip.add(entry.end)
            else:
                self._unread[entry.partition] = self._unread.get(entry.partition, 0) + 1
        self._out.clear()

    # -- keeping house

    def _advance(self, position: int) -> None:
        """Record that everything before ``position`` is acknowledged, and remove segments before it."""
        self.position = position
        try:
            self._owned.write_position(position)
        except OSError as error:  # a lagging position only causes batches to be sent twice
            self.behind = error
        while self._segments and self._segments[0].size and self._segments[0].end <= position:
            segment = self._segments.pop(0)
            if segment.frames:  # skipped without being handed out: damaged
                self.damage.batches += segment.batches
                self.damage.frames += segment.frames
                self._book(segment, -segment.batches, -segment.frames)
            self._writing = self._writing and bool(self._segments)
            self.bytes -= segment.size
            self._remove(segment)
        self._dirty = self._dirty and bool(self._segments)

    def _recover(self, opened: contextlib.ExitStack) -> None:
        """Load the existing segments; ``opened`` gets their descriptors."""
        names = sorted(segments_of(self.folder, self._identity, self.damage), key=lambda name: name.base)
        reached = names[0].base if names else 0  # a missing segment before the first one cannot be detected
        for i, name in enumerate(names):
            room = names[i + 1].base - name.base if i + 1 < len(names) else 0
            with contextlib.ExitStack() as file:
                fd = open_own(self.folder / str(name), os.O_RDWR)
                file.callback(os.close, fd)
                data, whole = read_tolerant(fd, 0, os.fstat(fd).st_size)
                if is_of_other_version(data):
                    self.damage.other_version.append(str(name))
                    reached = self._beyond = name.base + len(data)
                    continue
                # Only the last file can have a torn tail, and an unreadable tail is not a torn one. Bytes
                # beyond the next segment's base are from a failed write, whose batch was not accepted.
                size = min(len(data), room) if room else sound_end(data, name.salt) if whole else len(data)
                self.damage.lost_bytes += max(0, name.base - max(reached, self.position))
                self.damage.torn_bytes += len(data) - size
                reached = name.base + size
                if reached <= self.position or not size:
                    (self.folder / str(name)).unlink()
                    continue
                if size < len(data):
                    os.ftruncate(fd, size)
                self._adopt(Segment(name, fd, size, unreadable=not whole), data[:size])
                opened.enter_context(file.pop_all())
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

    def close(self) -> None:
        """Sync everything to disk and release the folder."""
        try:
            with contextlib.suppress(OSError):
                self.force()
            self._sync_again()
        finally:
            for segment in self._segments:
                os.close(segment.fd)
            self._owned.close()
            self._segments.clear()
