"""The kernel that reads the filter's slots from a mapped BPF ring buffer (``Documentation/bpf/ringbuf.rst``).

A record is a header of 8 bytes (length with a busy and a discard bit, page offset), then the slot that the filter
filled (``struct klais_slot`` in ``bpf/klais.h``): time, length of the frame, queue, source, the frame. Positions count
bytes without a limit; the ring is mapped twice in a row, so that no record is split.
"""

import numpy as np
import numpy.typing as npt

from klais.jit.intrinsics import prefetch
from klais.jit.kernel import BYTES, I64, U64, int64, kernel, read_only, uint32, uint64, void
from klais.jit.ordering import load_acquire, store_release

_BUSY = np.uint32(1 << 31)
_DISCARD = np.uint32(1 << 30)
_LENGTH = np.uint32((1 << 30) - 1)
RECORD_HEADER_BYTES = 8
# Records come from another CPU's cache: prefetch this many. Two cache lines hold the headers and a small frame.
_AHEAD = 8
# struct klais_slot
TIME_OFFSET, LENGTH_OFFSET, SOURCE_OFFSET, FRAME_OFFSET = 0, 8, 14, 32

_WORDS = read_only(uint32[::1])
_TIMES = read_only(uint64[::1])
_PRODUCER = read_only(uint64[::1])


@kernel(int64(_PRODUCER, BYTES, _WORDS, _TIMES, int64, I64, I64, I64, I64), borrows=True)
def take_records(
    producer: npt.NDArray[np.uint64],
    memory: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint32],
    times: npt.NDArray[np.uint64],
    ring_bytes: int,
    position: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    times_ns: npt.NDArray[np.int64],
) -> int:
    """Find the next records, as many as the outputs can hold; stops at a record that is still being written.

    Parameters
    ----------
    producer : uint64 [1]
        The kernel's position, mapped.
    memory, words, times : uint8 [2 ring_bytes], uint32 [ring_bytes / 2], uint64 [ring_bytes / 4]
        Three views of the ring, mapped twice in a row.
    ring_bytes : int
        Its size, a power of two.
    position : int64 [1], in and out
        The read position; :func:`publish` returns the memory before it.
    starts, lengths : int64 [room], out
        Offset of each frame in the double mapping, and its length.
    times_ns : int64 [room], out
        When the filter judged it (CLOCK_MONOTONIC).

    Returns
    -------
    int
        Number of frames.
    """
    end = np.int64(load_acquire(producer, 0))
    at = position[0]
    mask = np.int64(ring_bytes - 1)
    n = 0
    while at < end and n < starts.shape[0]:
        place = at & mask
        # The filter clears the busy bit when the record is complete, in any order: this is the index of each record.
        head = load_acquire(words, place >> 2)
        if head & _BUSY != 0:
            break
        size = np.int64(head & _LENGTH)
        whole = (size + RECORD_HEADER_BYTES + 7) & ~np.int64(7)
        at += whole
        ahead = (at + _AHEAD * whole) & mask  # all records of the filter have the same size
        prefetch(memory, ahead)
        prefetch(memory, ahead + 64)
        if head & _DISCARD != 0:
            continue
        slot = place + RECORD_HEADER_BYTES
        length = np.int64(words[(slot + LENGTH_OFFSET) >> 2])
        starts[n] = slot + FRAME_OFFSET
        lengths[n] = min(length, size - FRAME_OFFSET) if size > FRAME_OFFSET else 0
        times_ns[n] = np.int64(times[(slot + TIME_OFFSET) >> 3])
        n += 1
    position[0] = at
    return n


@kernel(void(U64, int64), borrows=True)
def publish(consumer: npt.NDArray[np.uint64], position: int) -> None:
    """Return everything before ``position`` to the kernel; ``consumer`` (uint64 [1]) is our mapped index."""
    store_release(consumer, 0, np.uint64(position))
