"""Kernels of the edge: sort out blocked and malformed frames, distribute the rest to one batch builder for each
partition.
"""

import numpy as np
import numpy.typing as npt

from klais.core.wire.batch import HEADER, SOURCE_SIZE
from klais.core.wire.constants import Reason
from klais.core.wire.frame import copy_frame
from klais.jit.kernel import BYTES, I32, I64, U8, U32, U64, int64, kernel, uint8, uint16, uint32, uint64

_TOO_LONG = np.uint8(Reason.TOO_LONG)
_BLOCKED_SOURCE = np.uint8(Reason.BLOCKED_SOURCE)
_MAPPED = np.uint64(0xFFFF)
_LAST_OFFSET = np.int64(0xFFFFFFFF)
_BATCH_HEADER = HEADER.size
_COLUMN_BYTES = 2 + 4  # of one frame in a batch: length and time offset

_U8_2D = uint8[:, ::1]
_U16_2D = uint16[:, ::1]
_U32_2D = uint32[:, ::1]
_U8_3D = uint8[:, :, ::1]


@kernel(int64(I64, int64, U8, I32, U64, I64))
def mark_malformed(
    lengths: npt.NDArray[np.int64],
    max_length: int,
    reason: npt.NDArray[np.uint8],
    partition: npt.NDArray[np.int32],
    by_reason: npt.NDArray[np.uint64],
    bad: npt.NDArray[np.int64],
) -> int:
    """Count malformed and blocked frames by reason and list the malformed ones; returns the number of those.

    Parameters
    ----------
    lengths : int64 [n]
        Frame lengths.
    max_length : int
        Longer frames are TOO_LONG, whatever their other errors, unless their source is blocked.
    reason : uint8 [n], in and out
        The result of ``check_headers`` and ``mark_blocked``.
    partition : int32 [n], in and out
        -1 for each such frame, so that ``scatter`` skips it.
    by_reason : uint64 [r], in and out
        Counters, indexed by ``Reason``.
    bad : int64 [n], out
        Indices of the malformed frames.
    """
    found = 0
    for i in range(lengths.shape[0]):
        if lengths[i] > max_length and reason[i] != _BLOCKED_SOURCE:
            reason[i] = _TOO_LONG
        if reason[i] != 0:
            partition[i] = -1
            by_reason[reason[i]] += np.uint64(1)
            if reason[i] != _BLOCKED_SOURCE:  # a flood of blocked frames must not take the place of dead letters
                bad[found] = i
                found += 1
    return found


@kernel(int64(U64, U64, int64, int64, uint64, uint64))
def last_at_most(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], first: int, until: int, wanted_high: int, wanted_low: int
) -> int:
    """Index of the last of the sorted numbers ``first`` to ``until`` (128 bits: ``high``, ``low``) that is at most
    ``wanted``; ``first`` - 1 if all are above it."""
    below, above = first, until
    while below < above:
        middle = (below + above) >> 1
        if high[middle] < wanted_high or (high[middle] == wanted_high and low[middle] <= wanted_low):
            below = middle + 1
        else:
            above = middle
    return below - 1


@kernel(int64(_U8_2D, U64, U64, I32, int64, U8, I64))
def mark_blocked(
    sources: npt.NDArray[np.uint8],
    high: npt.NDArray[np.uint64],
    low: npt.NDArray[np.uint64],
    entry: npt.NDArray[np.int32],
    split: int,
    reason: npt.NDArray[np.uint8],
    drops: npt.NDArray[np.int64],
) -> int:
    """Mark the frames whose source is blocked; returns their number.

    Parameters
    ----------
    sources : uint8 [n, 18]
        Sender of each frame, as in KFB1.
    high, low : uint64 [r]
        Where each range of addresses begins, ascending; it ends where the next one begins. The first ``split`` ranges
        are of IPv4 (v4-mapped), the others of IPv6.
    entry : int32 [r]
        Block that applies to the range; -1 = none.
    reason : uint8 [n], in and out
        BLOCKED_SOURCE for these frames, whatever else is wrong with them.
    drops : int64 [blocks], in and out
        Frames dropped by each block.
    """
    found = 0
    for i in range(sources.shape[0]):
        upper = np.uint64(0)
        lower = np.uint64(0)
        for k in range(8):
            upper = upper << np.uint64(8) | np.uint64(sources[i, k])
            lower = lower << np.uint64(8) | np.uint64(sources[i, 8 + k])
        if upper == 0 and lower >> np.uint64(32) == _MAPPED:
            begin, until = np.int64(0), np.int64(split)
        else:
            begin, until = np.int64(split), np.int64(high.shape[0])
        at = last_at_most(high, low, begin, until, upper, lower)
        if at >= begin and entry[at] >= 0:
            reason[i] = _BLOCKED_SOURCE
            drops[entry[at]] += 1
            found += 1
    return found


@kernel(
    int64(
        BYTES, I64, int64, BYTES, I64, I64, I32, _U8_2D, I64, U32,
        int64, int64, int64, I64, I64, I64, _U16_2D, _U32_2D, _U8_3D, _U32_2D, _U8_2D,
    )
)  # fmt: skip
def scatter(
    head: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    head_size: int,
    tail: npt.NDArray[np.uint8],
    tail_starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    partition: npt.NDArray[np.int32],
    sources: npt.NDArray[np.uint8],
    times_ns: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.uint32],
    first: int,
    now_ns: int,
    max_bytes: int,
    count: npt.NDArray[np.int64],
    used: npt.NDArray[np.int64],
    opened_ns: npt.NDArray[np.int64],
    batch_lengths: npt.NDArray[np.uint16],
    batch_offsets: npt.NDArray[np.uint32],
    batch_sources: npt.NDArray[np.uint8],
    batch_epochs: npt.NDArray[np.uint32],
    batch_frames: npt.NDArray[np.uint8],
) -> int:
    """Append frames ``first`` to n, in order, each to the batch of its partition, until one does not fit.

    Returns n, or the first frame that did not fit: close the batch of its partition and continue from it. ``head`` to
    ``lengths``: see :class:`klais.edge.sources.base.Source`; ``partition`` int32 [n], -1 = skipped. ``sources`` uint8
    [n or 0, 18], ``times_ns`` int64, ``epochs`` uint32 [n or 0]: sender of each frame, when the kernel received it
    (clock of ``now_ns``), its epoch; no rows = no such column. With epochs, frames become plain ones, AA 55. No frame
    counts as received after ``now_ns``; ``max_bytes`` is the largest encoded size of a batch of two or more frames.
    ``count`` to ``batch_frames`` [p, ...]: open batches, as stored by :class:`klais.edge.batcher.Batcher`.
    """
    with_sources = sources.shape[0] > 0
    with_epochs = epochs.shape[0] > 0
    column_bytes = _COLUMN_BYTES + (SOURCE_SIZE if with_sources else 0) + (4 if with_epochs else 0)
    for i in range(first, lengths.shape[0]):
        p = partition[i]
        if p < 0:
            continue
        n, at, size = count[p], used[p], lengths[i]
        when = min(times_ns[i], now_ns) if times_ns.shape[0] else now_ns
        if n == 0:
            opened_ns[p] = when
        elif _BATCH_HEADER + (n + 1) * column_bytes + at + size > max_bytes or when - opened_ns[p] > _LAST_OFFSET:
            return i
        batch_lengths[p, n] = size
        batch_offsets[p, n] = max(when - opened_ns[p], 0)  # the times of a card's queues may differ slightly
        if with_sources:
            for k in range(SOURCE_SIZE):
                batch_sources[p, n, k] = sources[i, k]
        copy_frame(batch_frames[p], at, size, head, starts[i], min(size, head_size), tail, tail_starts[i])
        if with_epochs:
            batch_epochs[p, n] = epochs[i]
            batch_frames[p, at + 1] = 0x55
        count[p] = n + 1
        used[p] = at + size
    return lengths.shape[0]  # type: ignore[no-any-return]


@kernel(int64(I64, I64, int64))
def oldest(count: npt.NDArray[np.int64], opened_ns: npt.NDArray[np.int64], otherwise_ns: int) -> int:
    """When the oldest open batch was opened; ``otherwise_ns`` if none is open."""
    when = otherwise_ns
    for p in range(count.shape[0]):
        if count[p] > 0 and opened_ns[p] < when:
            when = opened_ns[p]
    return when


@kernel(int64(I32, int64))
def shed(partition: npt.NDArray[np.int32], max_count: int) -> int:
    """Let the first ``max_count`` frames pass and set the partition of later ones to -1 (int32 [n]); returns the
    number of those.

    Frames that already have -1 do not count.
    """
    left = max_count
    refused = 0
    for i in range(partition.shape[0]):
        if partition[i] < 0:
            continue
        if left > 0:
            left -= 1
        else:
            partition[i] = -1
            refused += 1
    return refused
