"""Kernels of an AF_XDP socket's rings (``Documentation/networking/af_xdp.rst``): read packets, return chunks."""

import numpy as np
import numpy.typing as npt

from klais.jit.kernel import I64, U32, U64, int64, kernel, uint64, void
from klais.jit.ordering import load_acquire, store_release

_U64_2D = uint64[:, ::1]
_LENGTH = np.uint64(0xFFFFFFFF)


@kernel(int64(U32, U32, _U64_2D, int64, I64, I64), borrows=True)
def take_descriptors(
    producer: npt.NDArray[np.uint32],
    consumer: npt.NDArray[np.uint32],
    ring: npt.NDArray[np.uint64],
    base: int,
    packet_at: npt.NDArray[np.int64],
    packet_size: npt.NDArray[np.int64],
) -> int:
    """Take descriptors off the RX ring, as many as the outputs can hold.

    The slots of the ring are released immediately, because the descriptors are copied. Their chunks stay ours.

    Parameters
    ----------
    producer, consumer : uint32 [1]
        The ring's indices, mapped; ``consumer`` is advanced.
    ring : uint64 [size, 2]
        ``struct xdp_desc``: address in the UMEM; length (low 32 bits) and options. ``size`` is a power of two.
    base : int
        Offset of this socket's UMEM in the source's memory; added to each address.
    packet_at, packet_size : int64 [room], out
        Offset of each packet in the source's memory, and its length.

    Returns
    -------
    int
        Number of descriptors taken.
    """
    first = consumer[0]
    ready = np.int64(np.uint32(load_acquire(producer, 0) - first))
    n = min(ready, packet_at.shape[0])
    mask = np.int64(ring.shape[0] - 1)
    for i in range(n):
        slot = (np.int64(first) + i) & mask
        packet_at[i] = base + np.int64(ring[slot, 0])
        packet_size[i] = np.int64(ring[slot, 1] & _LENGTH)
    store_release(consumer, 0, np.uint32(np.int64(first) + n))
    return n  # type: ignore[no-any-return]


@kernel(void(U32, U64, int64, int64, I64), borrows=True)
def give_back(
    producer: npt.NDArray[np.uint32],
    ring: npt.NDArray[np.uint64],
    base: int,
    chunk_bytes: int,
    packet_at: npt.NDArray[np.int64],
) -> None:
    """Put the chunks of n packets into the fill ring.

    The ring has as many entries as the UMEM has chunks, and each chunk is in one place only, so there is always room.

    Parameters
    ----------
    producer : uint32 [1]
        The fill ring's index, mapped; advanced by n.
    ring : uint64 [size]
        Its entries; ``size`` is a power of two.
    base, packet_at
        As in :func:`take_descriptors`; a packet begins somewhere in its chunk (after headroom and metadata).
    chunk_bytes : int
        Size of a chunk, a power of two.
    """
    first = np.int64(producer[0])
    mask = np.int64(ring.shape[0] - 1)
    inside = ~np.int64(chunk_bytes - 1)
    for i in range(packet_at.shape[0]):
        ring[(first + i) & mask] = np.uint64((packet_at[i] - base) & inside)
    store_release(producer, 0, np.uint32(first + packet_at.shape[0]))
