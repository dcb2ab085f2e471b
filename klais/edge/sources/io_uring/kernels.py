"""Kernels of an io_uring with one request, which receives datagrams into a ring of provided buffers."""

import numpy as np
import numpy.typing as npt

from klais.jit.kernel import I64, U16, U32, int64, kernel, uint16, uint32, uint64, void
from klais.jit.ordering import load_acquire, store_release

_U16_2D = uint16[:, ::1]
_U32_2D = uint32[:, ::1]
_U64_2D = uint64[:, ::1]

_HAS_BUFFER = np.uint32(1)  # IORING_CQE_F_BUFFER
_MORE = np.uint32(2)  # IORING_CQE_F_MORE
_BUFFER_SHIFT = np.uint32(16)
_PAYLOAD_WORD = np.int64(2)  # struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags

ENDED, ERROR = 0, 1  # indices in ``notes``


@kernel(int64(_U32_2D, int64, I64), borrows=True, inlined=True)
def note_completion(ring: npt.NDArray[np.uint32], slot: int, notes: npt.NDArray[np.int64]) -> int:
    """Record the state of the request from one completion in ``notes``; returns its buffer, -1 = none."""
    flags = ring[slot, 3]
    if flags & _MORE == 0:
        notes[ENDED] = 1
    result = np.int64(np.int32(ring[slot, 2]))
    if result < 0:
        notes[ERROR] = -result
    return int(flags >> _BUFFER_SHIFT) if flags & _HAS_BUFFER else -1


@kernel(int64(U32, U32, _U32_2D, _U32_2D, int64, int64, I64, I64, I64, I64), borrows=True)
def take_completions(
    tail: npt.NDArray[np.uint32],
    head: npt.NDArray[np.uint32],
    ring: npt.NDArray[np.uint32],
    buffers: npt.NDArray[np.uint32],
    stride_bytes: int,
    payload_offset: int,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    taken: npt.NDArray[np.int64],
    notes: npt.NDArray[np.int64],
) -> int:
    """Take completions off the ring, as many as the outputs can hold.

    Parameters
    ----------
    tail, head : uint32 [1]
        The completion ring's indices, mapped; ``head`` is advanced.
    ring : uint32 [size, 4]
        ``struct io_uring_cqe``: user data (two words), result, flags. ``size`` is a power of two.
    buffers : uint32 [b, stride_bytes / 4]
        All buffers; each begins with ``struct io_uring_recvmsg_out``.
    stride_bytes, payload_offset : int
        Distance of two buffers, and offset of the datagram in a buffer.
    starts, lengths : int64 [room], out
        The datagrams, as offsets into the memory of ``buffers``.
    taken : int64 [room], out
        The buffer of each.
    notes : int64 [2], in and out
        ``ENDED``: 1 if the request no longer receives; ``ERROR``: a negative result, as errno.

    Returns
    -------
    int
        Number of datagrams.
    """
    first = np.int64(head[0])
    ready = np.int64(np.uint32(load_acquire(tail, 0) - head[0]))
    mask = np.int64(ring.shape[0] - 1)
    payload_room = np.int64(stride_bytes - payload_offset)
    n, done = 0, 0
    while done < ready and n < starts.shape[0]:
        buffer = note_completion(ring, (first + done) & mask, notes)
        done += 1
        if buffer < 0 or buffer >= buffers.shape[0]:
            continue
        starts[n] = buffer * stride_bytes + payload_offset
        lengths[n] = min(np.int64(buffers[buffer, _PAYLOAD_WORD]), payload_room)
        taken[n] = buffer
        n += 1
    store_release(head, 0, np.uint32(first + done))
    return n


@kernel(void(U16, _U64_2D, _U16_2D, int64, int64, I64), borrows=True)
def provide(
    tail: npt.NDArray[np.uint16],
    addresses: npt.NDArray[np.uint64],
    words: npt.NDArray[np.uint16],
    memory_at: int,
    stride_bytes: int,
    buffers: npt.NDArray[np.int64],
) -> None:
    """Put n buffers into the ring of provided buffers.

    Parameters
    ----------
    tail : uint16 [1]
        The ring's index, in a spare word of the first entry. Advanced by n.
    addresses, words : uint64 [size, 2], uint16 [size, 8]
        Two views of the same entries (``struct io_uring_buf``): the address is word 0 of the first, the buffer id word
        6 of the second. The length between them is the same for all and was written once.
    memory_at, stride_bytes : int
        Address of the first buffer, and distance of two buffers.
    buffers : int64 [n]
        Indices of the buffers.
    """
    first = np.int64(tail[0])
    mask = np.int64(words.shape[0] - 1)
    for i in range(buffers.shape[0]):
        slot = (first + i) & mask
        addresses[slot, 0] = np.uint64(memory_at + buffers[i] * stride_bytes)
        words[slot, 6] = np.uint16(buffers[i])
    store_release(tail, 0, np.uint16(first + buffers.shape[0]))
