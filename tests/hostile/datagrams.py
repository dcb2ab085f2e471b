"""Mutated datagrams as columns, many thousand in one call, and a source that hands them to the edge."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.hostile.cases import TOKENS

WIDTH = 384  # bytes there are for a datagram
PIECE = 12  # bytes that one change writes at most
_TOKENS = np.zeros((len(TOKENS), PIECE), np.uint8)
_TOKEN_SIZES = np.array([min(len(token), PIECE) for token in TOKENS])
for _i, _token in enumerate(TOKENS):
    _TOKENS[_i, : _TOKEN_SIZES[_i]] = np.frombuffer(_token[:PIECE], np.uint8)


def mutate(
    random: np.random.Generator, corpus: list[bytes], count: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """``count`` datagrams made of the corpus: uint8 [count, WIDTH] and int64 [count] lengths.

    Half of them keep their header, so that payloads are reached; most get one to four changes.
    """
    table, sizes = np.zeros((len(corpus), WIDTH), np.uint8), np.zeros(len(corpus), np.int64)
    for i, value in enumerate(corpus):
        sizes[i] = min(len(value), WIDTH)
        table[i, : sizes[i]] = np.frombuffer(value[:WIDTH], np.uint8)
    which = random.integers(0, len(corpus), count)
    out, lengths = table[which], sizes[which]
    rows = np.arange(count)
    spared = np.where(random.random(count) < 0.5, 22, 0)  # bytes at the beginning that stay
    for _ in range(4):
        chosen = rows[random.random(count) < 0.4]
        at = np.minimum(spared[chosen] + random.integers(0, 120, len(chosen)), np.maximum(lengths[chosen] - 1, 0))
        kind = random.integers(0, 6, len(chosen))
        one = chosen[kind == 0], at[kind == 0]
        out[one] = random.integers(0, 256, len(one[0]))
        bit = chosen[kind == 1], at[kind == 1]
        out[bit] ^= np.uint8(1) << random.integers(0, 8, len(bit[0])).astype(np.uint8)
        _write_tokens(random, out, chosen[kind == 2], at[kind == 2])
        _splice(random, out, chosen[kind == 3], at[kind == 3])
        cut = chosen[kind == 4]
        lengths[cut] = random.integers(0, np.maximum(lengths[cut], 1) + 1)
        grown = chosen[kind == 5]
        lengths[grown] = random.integers(lengths[grown], WIDTH + 1)
    numbers = rows[random.random(count) < 0.7]
    out[numbers, 18:22] = random.integers(0, 50, len(numbers)).astype(">u4").view(np.uint8).reshape(-1, 4)
    some = rows[random.random(count) < 0.3]  # a few devices that send a lot
    out[some, 2:18] = 0
    out[some, 2] = 97 + random.integers(0, 5, len(some))
    return out, lengths


def _write_tokens(random: np.random.Generator, out: npt.NDArray[np.uint8], rows: Any, at: Any) -> None:
    token = random.integers(0, len(_TOKENS), len(rows))
    for k in range(PIECE):
        fits = (k < _TOKEN_SIZES[token]) & (at + k < WIDTH)
        out[rows[fits], at[fits] + k] = _TOKENS[token[fits], k]


def _splice(random: np.random.Generator, out: npt.NDArray[np.uint8], rows: Any, at: Any) -> None:
    """A piece of another datagram in the place of this one's."""
    others, begin = random.integers(0, len(out), len(rows)), random.integers(0, WIDTH - PIECE, len(rows))
    for k in range(PIECE):
        fits = at + k < WIDTH
        out[rows[fits], at[fits] + k] = out[others[fits], begin[fits] + k]


class ArraySource:
    """Datagrams of an array, in one piece or, with a ``head_size``, in two."""

    name, buffer_bytes, port, granted_bytes = "array", 1 << 24, 0, 0

    def __init__(self, capacity: int, head_size: int) -> None:
        self.capacity, self.head_size = capacity, head_size
        tail_size = max(1, WIDTH - head_size)
        self.head, self.tail = np.zeros(capacity * head_size, np.uint8), np.zeros(capacity * tail_size, np.uint8)
        self.starts = np.arange(capacity, dtype=np.int64) * head_size
        self.tail_starts = np.arange(capacity, dtype=np.int64) * tail_size
        self.lengths = np.zeros(capacity, np.int64)
        self._sources, self._times = np.zeros((capacity, 18), np.uint8), np.zeros(capacity, np.int64)

    def put(self, random: np.random.Generator, data: Any, lengths: Any, now_ns: int) -> int:
        """Let these be the datagrams of the next round; how many."""
        n = len(lengths)
        self.head[: n * self.head_size] = data[:, : self.head_size].reshape(-1)
        if self.head_size < WIDTH:
            self.tail[: n * (WIDTH - self.head_size)] = data[:, self.head_size :].reshape(-1)
        self.lengths[:n] = lengths
        self._sources[:n] = random.integers(0, 256, (n, 18))
        self._sources[: n // 2, :12] = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
        self._times[:n] = now_ns + random.integers(-(10**10), 10**9, n)
        return n

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Random ones."""
        return self._sources[:n].copy()

    def times(self, n: int) -> npt.NDArray[np.int64]:
        """Random ones, some of them in the future."""
        return self._times[:n]

    def kernel_drops(self) -> int:
        """None."""
        return 0
