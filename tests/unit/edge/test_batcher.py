"""Batch builders: every frame, in order, in the batch of its partition; held against a plain definition."""

import random

import numpy as np
import pytest

from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import MAX_FRAME_SIZE
from klais.edge.batcher import Batcher, ClosedBatch


class Frames:
    """A source that holds given frames, ``head_size`` bytes of each in ``head``."""

    def __init__(self, frames: list[bytes], head_size: int = 64) -> None:
        self.head_size = head_size
        self.lengths = np.array([len(f) for f in frames], np.int64)
        self.starts = np.arange(len(frames), dtype=np.int64) * head_size
        self.tail_starts = np.arange(len(frames), dtype=np.int64) * MAX_FRAME_SIZE
        self.head = np.zeros(max(1, len(frames)) * head_size, np.uint8)
        self.tail = np.zeros(max(1, len(frames)) * MAX_FRAME_SIZE, np.uint8)
        for i, frame in enumerate(frames):
            for buf, start, part in (
                (self.head, self.starts[i], frame[:head_size]),
                (self.tail, self.tail_starts[i], frame[head_size:]),
            ):
                buf[start : start + len(part)] = np.frombuffer(part, np.uint8)


def feed(batcher: Batcher, frames: list[bytes], partition: list[int], now_ns: int, sources=None) -> list[ClosedBatch]:
    """As the spine does: add, closing what is full."""
    source, column, built = Frames(frames), np.array(partition, np.int32), []
    at = batcher.add(source, column, 0, now_ns, sources)
    while at < len(frames):
        built.append(batcher.close(partition[at], now_ns, now_ns))
        at = batcher.add(source, column, at, now_ns, sources)
    return built


def naive(frames: list[bytes], partition: list[int], max_bytes: int, columns: int) -> dict[int, list[list[bytes]]]:
    """The definition: a batch takes frames until the next one would make its record larger than max_bytes."""
    out: dict[int, list[list[bytes]]] = {}
    for frame, p in zip(frames, partition, strict=True):
        if p < 0:
            continue
        batches = out.setdefault(p, [[]])
        size = 32 + (len(batches[-1]) + 1) * columns + sum(map(len, batches[-1])) + len(frame)
        if batches[-1] and size > max_bytes:
            batches.append([])
        batches[-1].append(frame)
    return out


@pytest.mark.parametrize("with_sources", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_batches_equal_the_definition(seed: int, with_sources: bool) -> None:
    rng = random.Random(seed)
    max_bytes = rng.choice([1024, 5000, 131_072])
    batcher = Batcher(3, max_bytes, edge_id=9, boot=77, with_sources=with_sources)
    frames, partition, built, rows = [], [], [], []
    for call in range(8):
        sizes = [rng.choice([0, 22, 57, 63, 64, 65, rng.randrange(3000)]) for _ in range(rng.randrange(40))]
        some = [rng.randbytes(size) for size in sizes]
        where = [rng.randrange(-1, 3) for _ in some]
        sources = np.frombuffer(rng.randbytes(18 * len(some)), np.uint8).reshape(-1, 18).copy()
        built += feed(batcher, some, where, 1000 + call, sources)
        frames += some
        partition += where
        rows += sources.tolist()
    built += [batcher.close(p, 5000, 5000) for p in batcher.due(10**18, 0)]

    want = naive(frames, partition, max_bytes, 24 if with_sources else 6)
    for p in range(3):
        batches = [decode_batch(b.value) for b in built if b.partition == p]
        assert [[b.frame(i) for i in range(b.count)] for b in batches] == want.get(p, [])
        assert [b.number for b in batches] == list(range(len(batches)))
        assert {(b.edge, b.boot) for b in batches} <= {(9, 77)}
        if with_sources:
            assert [row for b in batches for row in b.sources.tolist()] == [
                r for r, q in zip(rows, partition, strict=True) if q == p
            ]
        else:
            assert all(b.sources is None for b in batches)
    assert sum(b.count for b in built) == sum(p >= 0 for p in partition)
    assert batcher.waiting() == 0
    for b in built:
        assert len(b.value) <= max_bytes or b.count == 1


def test_received_at_and_offsets_name_each_frames_time() -> None:
    batcher = Batcher(1, 131_072, 1, 1)
    feed(batcher, [b"a", b"b"], [0, 0], now_ns=1000)
    feed(batcher, [b"c"], [0], now_ns=1700)
    built = batcher.close(0, now_ns=2500, wall_ns=9_000_002_500)
    batch = decode_batch(built.value)
    assert built.age_ns == 1500
    assert batch.received_at == 9_000_001_000
    assert batch.offsets is not None and batch.offsets.tolist() == [0, 0, 700]


def test_largest_frame_goes_alone_whatever_the_limit() -> None:
    batcher = Batcher(1, 1024, 1, 1)
    big = bytes(range(256)) * 256
    frames = [b"x" * 57, big[:MAX_FRAME_SIZE], b"y" * 57]
    built = feed(batcher, frames, [0, 0, 0], 1)
    built.append(batcher.close(0, 1, 1))
    assert [[b.frame(i) for i in range(b.count)] for b in (decode_batch(x.value) for x in built)] == [
        [f] for f in frames
    ]


def test_all_open_batches_are_due_with_the_oldest() -> None:
    batcher = Batcher(3, 131_072, 1, 1)
    assert batcher.due(10**15, 0) == []
    assert batcher.oldest_ns(42) == 42
    feed(batcher, [b"a"], [2], 1000)
    feed(batcher, [b"b", b"c"], [0, 2], 1500)
    assert batcher.due(1999, 1000) == []
    assert batcher.due(2000, 1000) == [0, 2]
    assert batcher.oldest_ns(9999) == 1000
    batcher.close(2, 2000, 2000)
    assert batcher.due(2000, 1000) == [] and batcher.due(2500, 1000) == [0]


def test_a_batch_that_was_not_sent_gives_its_number_back() -> None:
    batcher = Batcher(1, 131_072, 1, 1)
    numbers = []
    for taken in (True, False, True):
        feed(batcher, [b"a"], [0], 1)
        built = batcher.close(0, 1, 1)
        numbers.append(decode_batch(built.value).number)
        if not taken:
            batcher.take_back(built)
    assert numbers == [0, 1, 1]


def test_receive_times_become_offsets_and_a_gap_too_wide_for_them_closes_the_batch() -> None:
    batcher, now_ns = Batcher(1, 5000, 1, 1), 10**12
    # Behind the first by 7 ns, before it, in the future (counts as now), and later than an offset can say.
    when = [now_ns - 6 * 10**9, now_ns - 6 * 10**9 + 7, now_ns - 7 * 10**9, now_ns - 10**9, now_ns + 50]
    frames = [b"a" * 30] * 5
    source, partition = Frames(frames), np.zeros(5, np.int32)
    times = np.array(when, np.int64)
    at = batcher.add(source, partition, 0, now_ns, None, times)
    assert at == 3
    first = decode_batch(batcher.close(0, now_ns, 10**18).value)
    assert batcher.add(source, partition, at, now_ns, None, times) == 5
    second = decode_batch(batcher.close(0, now_ns, 10**18).value)
    assert (first.received_at, first.offsets.tolist()) == (10**18 - 6 * 10**9, [0, 7, 0])
    assert (second.received_at, second.offsets.tolist()) == (10**18 - 10**9, [0, 10**9])


def test_a_batch_is_as_old_as_the_kernel_says() -> None:
    batcher = Batcher(1, 5000, 1, 1)
    batcher.add(Frames([b"a" * 30]), np.zeros(1, np.int32), 0, 1000, None, np.array([400], np.int64))
    assert batcher.oldest_ns(10**9) == 400
    assert batcher.due(1400, 1000) == [0]


@pytest.mark.parametrize("wall_ns", [-(10**18), 0, 1, 999, 2**62, 2**63 - 1, 2**63, 2**64])
def test_a_batch_of_an_edge_with_any_clock_is_one_that_lanes_read(wall_ns):
    """An edge whose clock begins at the epoch closes a batch that it opened, by that clock, before it."""
    batcher = Batcher(1, 4096, 1, 7, True)
    feed(batcher, [b"x" * 30] * 3, [0, 0, 0], 10_000)
    batch = decode_batch(batcher.close(0, 11_000, wall_ns).value)
    assert batch.count == 3 and 0 <= batch.received_at < 2**63
