"""Partition of a device: Kafka's default partitioner, as a column.

``(murmur2(device_id) & 0x7fffffff) % partitions`` over the unpadded device_id, as in
``org.apache.kafka.common.utils.Utils.murmur2`` (seed 0x9747b28c) and librdkafka's ``murmur2_random``.
"""

import numpy as np
import numpy.typing as npt

from klais.jit.kernel import BYTES, I32, I64, U8, int64, kernel, uint32, void

_M = np.uint32(0x5BD1E995)
_SEED = np.uint32(0x9747B28C)


@kernel(uint32(BYTES, int64, int64), borrows=True)
def murmur2(buf: npt.NDArray[np.uint8], start: int, size: int) -> int:
    """32-bit murmur2 of ``buf[start : start + size]``, Kafka's variant."""
    h = _SEED ^ np.uint32(size)
    words = size // 4
    for w in range(words):
        p = start + 4 * w
        k = (
            np.uint32(buf[p])
            | (np.uint32(buf[p + 1]) << np.uint32(8))
            | (np.uint32(buf[p + 2]) << np.uint32(16))
            | (np.uint32(buf[p + 3]) << np.uint32(24))
        )
        k = np.uint32(k * _M)
        k = np.uint32(k ^ (k >> np.uint32(24)))
        k = np.uint32(k * _M)
        h = np.uint32(np.uint32(h * _M) ^ k)
    tail = start + 4 * words
    left = size - 4 * words
    if left >= 3:
        h = np.uint32(h ^ (np.uint32(buf[tail + 2]) << np.uint32(16)))
    if left >= 2:
        h = np.uint32(h ^ (np.uint32(buf[tail + 1]) << np.uint32(8)))
    if left >= 1:
        h = np.uint32(h ^ np.uint32(buf[tail]))
        h = np.uint32(h * _M)
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * _M)
    return np.uint32(h ^ (h >> np.uint32(15)))  # type: ignore[return-value]


@kernel(void(BYTES, I64, U8, int64, I32), borrows=True)
def partition_column(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    id_size: npt.NDArray[np.uint8],
    partitions: int,
    out: npt.NDArray[np.int32],
) -> None:
    """Partition of each of n frames (``out`` int32 [n]); -1 if ``id_size`` is 0 (no readable device_id)."""
    for i in range(starts.shape[0]):
        if id_size[i] == 0:
            out[i] = -1
        else:
            h = murmur2(buf, starts[i] + 2, np.int64(id_size[i]))
            out[i] = np.int64(h & np.uint32(0x7FFFFFFF)) % partitions


def partition_of(device_id: bytes, partitions: int) -> int:
    """Partition of one device, for tools and views.

    Examples
    --------
    >>> partition_of(b"dev-1", 4)
    1
    """
    data = np.frombuffer(device_id, np.uint8)
    return (int(murmur2(data, 0, len(device_id))) & 0x7FFFFFFF) % partitions
