"""Limit of dead letters per second, in records and bytes, shared fairly by reason and by source.

A token bucket in seconds: a letter costs its share of the allowance per second, in records or in bytes, whichever is
larger. Each reason, and each source within it, may use as much of the remaining tokens as it has not used recently
(dynamic thresholds, Choudhury and Hahne 1998, "Dynamic Queue Length Thresholds"). So a single flooding source gets
nearly the whole rate, several share it, and some is always left for a reason or a source that was silent.
"""

import secrets

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill
from klais.core.devices.siphash import hash_words, key_words
from klais.core.wire.batch import SOURCE_SIZE
from klais.jit.intrinsics import load_u64
from klais.jit.kernel import BYTES, F64, I64, U8, U64, int64, kernel

REASONS = 64  # a power of two above all of Reason
SOURCES = 256  # classes of sources; the hash of an address selects its class
MEMORY_S = 0.25  # time constant in which use is forgotten
BURST_S = 1.0  # seconds of the allowance that may be used at once, at most a third of them by one class
_V4_MAPPED = np.uint64(0)
_NETWORK = np.uint64(0x00FFFFFFFFFFFFFF)  # a /56 of an IPv6 address: its first seven bytes, little-endian
_SOURCE = np.int64(SOURCE_SIZE)
_MASK = np.uint64(SOURCES - 1)
_REASON = np.uint8(REASONS - 1)


@kernel(int64(I64, U8, I64, BYTES, int64, F64, F64, F64, U64, I64))
def choose(
    bad: npt.NDArray[np.int64],
    reason: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int64],
    sources: npt.NDArray[np.uint8],
    max_bytes: int,
    budget: npt.NDArray[np.float64],
    by_reason: npt.NDArray[np.float64],
    by_source: npt.NDArray[np.float64],
    key: npt.NDArray[np.uint64],
    out: npt.NDArray[np.int64],
) -> int:
    """List in ``out`` (int64 [m]) the frames of ``bad`` (int64 [m]) to send as dead letters; returns their number.

    Parameters
    ----------
    reason, lengths, sources : uint8 [n], int64 [n], uint8 [n * 18]
        Columns of all frames.
    max_bytes : int
        A letter has at most this many bytes of its frame.
    budget : float64 [3], in and out
        Seconds left, seconds per record, seconds per byte.
    by_reason, by_source : float64 [REASONS], [REASONS * SOURCES], in and out
        Seconds used recently.
    key : uint64 [2]
        Key of the hash of addresses.
    """
    found = 0
    for j in range(bad.shape[0]):
        i = bad[j]
        r = np.int64(reason[i] & _REASON)
        cost = max(budget[1], budget[2] * np.float64(min(lengths[i], max_bytes)))
        if budget[0] < cost or by_reason[r] >= budget[0]:
            continue
        low, high = np.uint64(load_u64(sources, i * _SOURCE)), np.uint64(load_u64(sources, i * _SOURCE + 8))
        if low != _V4_MAPPED:
            low, high = low & _NETWORK, _V4_MAPPED
        place = r * SOURCES + np.int64(np.uint64(hash_words(low, high, key)) & _MASK)
        if by_source[place] >= budget[0] - by_reason[r]:
            continue
        budget[0] -= cost
        by_reason[r] += cost
        by_source[place] += cost
        out[found] = i
        found += 1
    return found


class FairAllowance:
    """The allowance described in the module; it starts with ``BURST_S`` seconds.

    Parameters
    ----------
    records_per_s, bytes_per_s : float
        If either is 0, no letters are sent.
    max_bytes : int
        Maximum number of bytes of a frame in a letter.
    hash_key : bytes, optional
        16 bytes; random by default, so that nobody can choose an address in the class of another one.
    """

    def __init__(self, records_per_s: float, bytes_per_s: float, max_bytes: int, hash_key: bytes | None = None) -> None:
        self._max_bytes = max_bytes
        self._key = key_words(hash_key or secrets.token_bytes(16))
        self._budget = np.zeros(3)
        self._by_reason, self._by_source = np.zeros(REASONS), np.zeros(REASONS * SOURCES)
        self._at_ns = 0
        self.set_rates(records_per_s, bytes_per_s)
        self._budget[0] = self._burst

    def set_rates(self, records_per_s: float, bytes_per_s: float) -> None:
        """Change the rates at run time."""
        self._on = records_per_s > 0 and bytes_per_s > 0
        if self._on:
            self._budget[1:] = 1.0 / records_per_s, 1.0 / bytes_per_s
        # A slow rate must still allow the largest letter now and then.
        self._burst = max(BURST_S, float(self._budget[1]), float(self._budget[2]) * self._max_bytes)

    def choose(
        self,
        bad: npt.NDArray[np.int64],
        reason: npt.NDArray[np.uint8],
        lengths: npt.NDArray[np.int64],
        sources: npt.NDArray[np.uint8],
        now_ns: int,
    ) -> npt.NDArray[np.int64]:
        """The frames of ``bad`` to send as dead letters at ``now_ns``; ``sources`` uint8 [n, 18]."""
        if not self.open(now_ns):
            return bad[:0]
        out = np.empty(len(bad), np.int64)
        flat = np.ascontiguousarray(sources).reshape(-1)
        columns = (bad, reason, lengths, flat, self._max_bytes)
        return out[: choose(*columns, self._budget, self._by_reason, self._by_source, self._key, out)]

    def open(self, now_ns: int) -> bool:
        """Whether any allowance is left at ``now_ns``."""
        if not self._on:
            return False
        last_ns = self._at_ns or now_ns
        self._budget[0] = refill(float(self._budget[0]), last_ns, now_ns, 1.0, self._burst)
        kept = np.exp(-max(0, now_ns - last_ns) * 1e-9 / MEMORY_S)
        self._by_reason *= kept
        self._by_source *= kept
        self._at_ns = now_ns
        return bool(self._budget[0] >= self._budget[1])
