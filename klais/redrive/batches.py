"""Letters packed into frame batches: one lane, one generation, in the order of the letters."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from klais.core.wire.batch import encode_batch
from klais.core.wire.partition import partition_of
from klais.redrive.letters import Letter, edge_of

MOST_BYTES = 512 << 10
LONGEST_MS = 4_000  # offsets are u32 ns from the first frame's time


@dataclass(frozen=True, slots=True)
class Batch:
    """Letters that go together to ``partition`` of ``klais_raw``, as edge ``edge``."""

    partition: int
    edge: int
    letters: tuple[Letter, ...]

    def encode(self, boot: int, number: int) -> bytes:
        """The record for ``klais_raw``: the frames keep the times at which they were received."""
        begin_ms = self.letters[0].ts_ms
        after = [(letter.ts_ms - begin_ms) * 1_000_000 for letter in self.letters]
        signed = [letter.epoch for letter in self.letters]
        return encode_batch(
            [letter.frame for letter in self.letters],
            begin_ms * 1_000_000,
            self.edge,
            boot,
            number,
            offsets=np.array(after, np.uint32),
            epochs=np.array(signed, np.uint32) if any(signed) else None,
        )


def pack(letters: Sequence[Letter], partitions: int, most: int) -> Iterator[Batch]:
    """Batches of at most ``most`` frames; letters of one lane and generation stay in order."""
    open_: defaultdict[tuple[int, int], list[Letter]] = defaultdict(list)
    sizes: Counter[tuple[int, int]] = Counter()
    for letter in letters:
        key = partition_of(letter.device_id, partitions), edge_of(letter.times + 1)
        some = open_[key]
        if some and not _fits(some, sizes[key], letter, most):
            yield Batch(*key, tuple(some))
            some.clear()
            sizes[key] = 0
        some.append(letter)
        sizes[key] += len(letter.frame)
    for key, some in open_.items():
        if some:
            yield Batch(*key, tuple(some))


def _fits(some: list[Letter], size: int, letter: Letter, most: int) -> bool:
    after_ms = letter.ts_ms - some[0].ts_ms
    return len(some) < most and 0 <= after_ms <= LONGEST_MS and size + len(letter.frame) <= MOST_BYTES
