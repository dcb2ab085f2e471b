"""Redistribute spooled batches of another partition count: batch their frames again for their present partitions.

An edge that ran with a wrong ``KLAIS_PARTITIONS`` before Kafka answered, or before the topics were created with another
count, leaves segments whose partitions are no longer valid. They are read in order and written as new batches after the
present content of the spool, one segment at a time: the old file is removed when all of it is on disk in its new form.

A crash in between repeats the work. So the new batches have names derived from their source: their boot is the CRC of
the old segment's name, and their numbers begin with 0. Lanes recognize repeated batches.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.core.wire.batch import FrameBatch, decode_batch
from klais.core.wire.constants import Reason
from klais.core.wire.frame import check_headers
from klais.core.wire.partition import partition_column
from klais.edge.batcher import Batcher, ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.disk import UNREADABLE, Spool
from klais.edge.sinks.spool.folder import open_later, read_tolerant
from klais.edge.sinks.spool.segment import (
    HEADER_SIZE,
    Name,
    crc32c,
    identity_of,
    is_of_other_version,
    parse_name,
    position_name,
    read_position,
    value_is_right,
    walk,
)
from klais.errors import BatchFormatError, SpoolFull
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.spool")

MAX_PARTITIONS = 1024  # the maximum of KLAIS_PARTITIONS
STEP_S = 0.002  # per round of the spine, so that it polls the socket again soon
NO_TIME = np.iinfo(np.int64).max  # later than any frame

Append = Callable[[ClosedBatch], None]


@dataclass(frozen=True, slots=True)
class OldSegment:
    """A segment of this topic that was written for another partition count."""

    path: Path
    name: Name
    partitions: int
    size: int


def segments_of_other_counts(folder: Path, topic: str, partitions: int) -> list[OldSegment]:
    """The segments of other counts in the folder that this version can read, oldest first."""
    counts = {identity_of(topic, count): count for count in range(1, MAX_PARTITIONS + 1) if count != partitions}
    named = [(path, parse_name(path.name)) for path in folder.iterdir()]
    ours = [(path, name) for path, name in named if name is not None and name.identity in counts]
    found = [
        OldSegment(path, name, counts[name.identity], path.stat().st_size) for path, name in ours if _is_readable(path)
    ]
    return sorted(found, key=lambda old: (old.partitions, old.name.base))


def _is_readable(path: Path) -> bool:
    """Whether it is a file of ours, of this version."""
    try:
        fd = open_later(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not is_of_other_version(read_tolerant(fd, 0, HEADER_SIZE)[0])
    finally:
        os.close(fd)


class _Columns:
    """A decoded batch in the form that a batcher accepts (see :class:`klais.edge.sources.base.Frames`)."""

    def __init__(self, batch: FrameBatch) -> None:
        self._batch, n = batch, batch.count
        self.head, self.starts, self.lengths, self.head_size = batch.buf, batch.starts, batch.lengths, len(batch.buf)
        self.tail, self.tail_starts = np.zeros(1, np.uint8), np.zeros(n, np.int64)

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames; no rows if the batch has none."""
        return self._batch.sources[:n].copy() if self._batch.sources is not None else np.zeros((0, 18), np.uint8)

    def times(self, n: int) -> npt.NDArray[np.int64]:
        """When the first ``n`` frames were received, ns since the epoch."""
        offsets = self._batch.offsets
        return self._batch.received_at + (np.zeros(n, np.int64) if offsets is None else offsets[:n].astype(np.int64))


class Redistribution:
    """Writes one old segment's frames as batches for ``partitions`` partitions; iterate over it to work in small steps.

    Parameters
    ----------
    old : OldSegment
        The segment to read.
    partitions, max_bytes : int
        Properties of the new batches.
    append : callable
        Accepts each batch; an exception from it ends the iteration, and a new one starts from the beginning.

    Attributes
    ----------
    frames, lost : int
        Frames written, and frames of damaged batches.
    lost_bytes : int
        Bytes without a readable header: their number of frames is unknown.
    whole : bool
        Whether the disk could read all of it.
    """

    def __init__(self, old: OldSegment, partitions: int, max_bytes: int, append: Append) -> None:
        self._old, self._partitions, self._max_bytes, self._append = old, partitions, max_bytes, append
        self._batchers: dict[tuple[bool, bool], Batcher] = {}
        self.frames = self.lost = self.lost_bytes = 0
        self.whole = True

    def __iter__(self) -> Iterator[None]:
        """Yield after each old batch; the file is not removed."""
        name = self._old.name
        fd = open_later(self._old.path, os.O_RDONLY)
        try:
            data, self.whole = read_tolerant(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        begin = max(0, read_position(self._old.path.parent, name.identity) - name.base)
        self.lost_bytes = max(0, len(data) - begin)
        for head in walk(data, name.salt, begin):
            self.lost_bytes -= HEADER_SIZE + head.size
            if value_is_right(data, head):
                self._add(data[head.at + HEADER_SIZE : head.end], head.frames)
            else:
                self.lost += head.frames
            yield
        for batcher in self._batchers.values():
            for partition in np.flatnonzero(batcher.count).tolist():
                self._close(batcher, partition)

    def _add(self, value: bytes, frames: int) -> None:
        try:
            batch = decode_batch(value)
        except BatchFormatError:
            self.lost += frames
            return
        n, columns = batch.count, _Columns(batch)
        reason, id_size, partition = np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.int32)
        ids, sequence = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32)
        check_headers(columns.head, columns.starts, columns.lengths, reason, ids, sequence, id_size)
        partition_column(columns.head, columns.starts, id_size, self._partitions, partition)
        self.lost += int(np.count_nonzero(partition < 0))
        batcher = self._batcher(batch)
        sources, times = columns.sources(n), columns.times(n)
        at = batcher.add(columns, partition, 0, NO_TIME, sources, times, batch.epochs)
        while at < n:
            self._close(batcher, int(partition[at]))
            at = batcher.add(columns, partition, at, NO_TIME, sources, times, batch.epochs)

    def _batcher(self, batch: FrameBatch) -> Batcher:
        """One batcher for each combination of optional columns (sources, epochs), each with its own boot."""
        columns = batch.sources is not None, batch.epochs is not None
        if columns not in self._batchers:
            boot = crc32c(f"{self._old.name}/{columns}".encode())
            self._batchers[columns] = Batcher(self._partitions, self._max_bytes, batch.edge, boot, *columns)
        return self._batchers[columns]

    def _close(self, batcher: Batcher, partition: int) -> None:
        built = batcher.close(partition, 0, 0)
        self._append(built)
        self.frames += built.count


class OtherCounts:
    """All old segments of a spool, redistributed in small steps.

    Parameters
    ----------
    spool : Spool
        The spool with the old segments, which also gets the new batches.
    topic, settings, counts
        Those of the edge; frames count as ``recovered`` when they are written.
    warn : callable
        Gets a text about bytes that are lost.
    """

    def __init__(
        self, spool: Spool, topic: str, settings: Settings, counts: Counts, warn: Callable[[str], None]
    ) -> None:
        self._spool, self._settings, self._counts, self._warn = spool, settings, counts, warn
        self._left = deque(segments_of_other_counts(spool.folder, topic, settings.partitions))
        self._at: tuple[Redistribution, Iterator[None]] | None = None
        self._blocked = False

    @property
    def names(self) -> set[str]:
        """Waiting files."""
        return {old.path.name for old in self._left}

    @property
    def problem(self) -> str:
        """The waiting data as text; empty if there is none. May be called from any thread."""
        left = list(self._left)
        if not left:
            return ""
        here, size = self._settings.partitions, sum(old.size for old in left)
        when = "once it has room, raise KLAIS_SPOOL_MAX_BYTES" if self._blocked else "once Kafka answers"
        return (
            f"{size:,} bytes of the spool are batches for {left[0].partitions} partitions, KLAIS_PARTITIONS is "
            f"{here}: the edge distributes their frames again {when}"
        )

    def step(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Continue for about ``STEP_S``; Kafka must have confirmed the partition count.

        Raises
        ------
        OSError
            If the disk fails: the segment is restarted in the next call.
        """
        if not self._left:
            return
        old, spool, until_s = self._left[0], self._spool, clock() + STEP_S
        if self._at is None:
            needed = 2 * old.size  # a small batch may be split into one for each partition
            self._blocked = bool(spool.batches) and spool.max_bytes - spool.bytes < needed
            if self._blocked:
                return
            work = Redistribution(old, self._settings.partitions, self._settings.batch_max_bytes, self._append)
            self._at = work, iter(work)
        work, steps = self._at
        try:
            for _ in steps:
                if clock() >= until_s:
                    return
            spool.force()
        except SpoolFull:
            self._at, self._blocked = None, True
            return
        except OSError:
            self._at = None
            raise
        self._finish(old, work)

    def _append(self, built: ClosedBatch) -> None:
        self._spool.append(built.value, built.partition, built.count)
        self._counts.recovered += built.count

    def _finish(self, old: OldSegment, work: Redistribution) -> None:
        if work.whole:
            old.path.unlink()
        else:
            old.path.rename(old.path.with_suffix(UNREADABLE))
        self._left.popleft()
        self._at = None
        if all(other.name.identity != old.name.identity for other in self._left):
            (old.path.parent / position_name(old.name.identity)).unlink(missing_ok=True)
        if work.lost:
            self._counts.recovered += work.lost
            self._counts.drop(Reason.SPOOL_DAMAGED, work.lost)
            log.error("spool_damaged", folder=str(old.path.parent), frames=work.lost)
        if work.lost_bytes:
            self._warn(
                f"{work.lost_bytes:,} bytes of {old.path} could not be read, with their frames: look at the disk"
            )
            log.error("spool_damaged", folder=str(old.path.parent), bytes=work.lost_bytes)
        log.info(
            "spool_redistributed",
            folder=str(old.path.parent), frames=work.frames, was=old.partitions, partitions=self._settings.partitions,
            segments_left=len(self._left),
        )  # fmt: skip
