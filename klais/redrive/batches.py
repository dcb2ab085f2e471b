"""Packs dead letters into frame batches: one lane and one generation each, in the order of the dead letters."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from klais.core.wire.batch import encode_batch
from klais.core.wire.partition import partition_of
from klais.redrive.dead_letters import DeadLetter, edge_of

MAX_BYTES = 512 << 10
MAX_BATCH_SPAN_MS = 4_000  # offsets are u32 ns from the first frame's time


@dataclass(frozen=True, slots=True)
class Batch:
    """Dead letters that are sent together to ``partition`` of ``klais_raw``, as edge ``edge``."""

    partition: int
    edge: int
    dead_letters: tuple[DeadLetter, ...]

    def encode(self, boot: int, number: int) -> bytes:
        """The record for ``klais_raw``; the frames keep their receive times."""
        begin_ms = self.dead_letters[0].ts_ms
        after = [(dead_letter.ts_ms - begin_ms) * 1_000_000 for dead_letter in self.dead_letters]
        signed = [dead_letter.epoch for dead_letter in self.dead_letters]
        return encode_batch(
            [dead_letter.frame for dead_letter in self.dead_letters],
            begin_ms * 1_000_000,
            self.edge,
            boot,
            number,
            offsets=np.array(after, np.uint32),
            epochs=np.array(signed, np.uint32) if any(signed) else None,
        )


def pack(dead_letters: Sequence[DeadLetter], partitions: int, max_count: int) -> Iterator[Batch]:
    """Batches of at most ``max_count`` frames; dead letters of one lane and generation stay in order."""
    open_: defaultdict[tuple[int, int], list[DeadLetter]] = defaultdict(list)
    sizes: Counter[tuple[int, int]] = Counter()
    for dead_letter in dead_letters:
        key = partition_of(dead_letter.device_id, partitions), edge_of(dead_letter.times + 1)
        some = open_[key]
        if some and not _fits(some, sizes[key], dead_letter, max_count):
            yield Batch(*key, tuple(some))
            some.clear()
            sizes[key] = 0
        some.append(dead_letter)
        sizes[key] += len(dead_letter.frame)
    for key, some in open_.items():
        if some:
            yield Batch(*key, tuple(some))


def _fits(some: list[DeadLetter], size: int, dead_letter: DeadLetter, max_count: int) -> bool:
    after_ms = dead_letter.ts_ms - some[0].ts_ms
    return len(some) < max_count and 0 <= after_ms <= MAX_BATCH_SPAN_MS and size + len(dead_letter.frame) <= MAX_BYTES
