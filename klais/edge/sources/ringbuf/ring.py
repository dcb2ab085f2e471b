"""The ring of the ``ringbuf`` source: the filter's BPF ring buffer, mapped and read as an array."""

import errno
import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.batch import SOURCE_SIZE
from klais.edge.sources.ringbuf.kernels import FRAME_OFFSET, RECORD_HEADER_BYTES, SOURCE_OFFSET, publish, take_records
from klais.edge.sources.xdp_filter.attachment import Filter
from klais.system.file_lock import holder, try_lock
from klais.xdp import bpf
from klais.xdp.bpffs import reader_folder
from klais.xdp.layout import SLOT, Verdict

CAPACITY = 2048
_PAGE = mmap.PAGESIZE


class SlotRing:
    """See :class:`klais.edge.sources.xdp_filter.source.Rings`.

    Raises
    ------
    OSError
        If another process reads the ring, or it cannot be mapped.
    """

    name, accept = "ringbuf", "ring"

    def __init__(self, xdp: Filter) -> None:
        self._filter = xdp
        self.capacity, self.tail = CAPACITY, np.zeros(1, np.uint8)
        self.head_size = SLOT.itemsize
        self.starts, self.lengths, self.tail_starts, self._times = (np.zeros(CAPACITY, np.int64) for _ in range(4))
        self._lock_fd = -1
        self._lost_seen, self._drops, self._map_id = 0, 0, -1
        try:
            self.register()
        except BaseException:  # else this process, which goes on with another source, would keep other readers away
            self._unlock()
            raise

    def register(self) -> None:
        """Map the ring, which may be a new one; continue where the last reader stopped."""
        fd = self._filter.maps.fd("ring")
        info = bpf.map_info(fd)
        if info.id == self._map_id:
            return
        self._take_lock()
        self._map_id, self._ring_bytes, self._lost_seen = info.id, info.entries, self._lost()
        self._consumer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data_map = mmap.mmap(fd, _PAGE + 2 * info.entries, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._data_map, np.uint64, 1)
        self.head = np.frombuffer(self._data_map, np.uint8, offset=_PAGE)
        self._words, self._clocks = self.head.view(np.uint32), self.head.view(np.uint64)
        self._position = self._consumer.astype(np.int64)
        self._published = int(self._position[0])
        self.room, self.fds = info.entries // (SLOT.itemsize + RECORD_HEADER_BYTES), [fd]

    def _take_lock(self) -> None:
        """Ensure a single reader: lock a folder next to the pins; opening it needs the same rights as the ring.

        The kernel releases the lock when the process ends. A filter that was unloaded and loaded again has another
        folder.
        """
        fd = os.open(reader_folder(self._filter.pin_dir), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._lock_fd >= 0 and os.path.sameopenfile(fd, self._lock_fd):
            os.close(fd)
            return
        if not try_lock(fd):
            who = holder(fd)
            os.close(fd)
            raise OSError(errno.EBUSY, f"another edge reads the filter's ring ({who}): it can have only one reader")
        self._unlock()
        self._lock_fd = fd

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def take(self) -> int:
        """Publish the read position, then find the next records."""
        at = int(self._position[0])
        if at != self._published:
            publish(self._consumer, at)
            self._published = at
        n: int = take_records(
            self._producer, self.head, self._words, self._clocks, self._ring_bytes,
            self._position, self.starts, self.lengths, self._times,
        )  # fmt: skip
        return n

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames: uint8 [n, 18]; the filter wrote them in that form, directly before the
        frame.
        """
        places = self.starts[:n, None] + np.arange(
            SOURCE_OFFSET - FRAME_OFFSET, SOURCE_OFFSET - FRAME_OFFSET + SOURCE_SIZE
        )
        out: npt.NDArray[np.uint8] = self.head[places]
        return out

    def times(self, n: int) -> npt.NDArray[np.int64]:
        """When the filter judged each of the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns."""
        return self._times[:n]

    def _lost(self) -> int:
        with self._filter.lock:  # statistics are requested from another thread
            rows = self._filter.maps.count_rows()
        return int(rows["packets"][Verdict.RING_FULL])

    def drops(self) -> int:
        """Frames that found the ring full since it was opened."""
        if self._lock_fd >= 0:
            now = self._lost()
            self._drops += max(0, now - self._lost_seen)  # less than before = new maps
            self._lost_seen = now
        return self._drops

    def details(self) -> dict[str, Any]:
        """Its size."""
        return {"ring_bytes": self._ring_bytes, "slots": self.room}

    def close(self) -> None:
        """Return the last frames and release the ring; the columns stay readable."""
        if self._lock_fd >= 0:
            self.drops()
            publish(self._consumer, int(self._position[0]))
            self._unlock()
