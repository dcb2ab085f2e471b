"""SipHash-1-3 (Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF"; the variant used by the hash tables of
CPython and Rust).

A keyed hash: without the 128-bit key an attacker cannot choose inputs that collide. It hashes the two words of a
device_id for the device index, and whole frames for the sequence window.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from klais.jit.intrinsics import load_u64
from klais.jit.kernel import BYTES, I64, U32, U64, group, int64, kernel, uint64, void

_WORD4 = group((uint64,) * 4)
_C0 = np.uint64(0x736F6D6570736575)
_C1 = np.uint64(0x646F72616E646F6D)
_C2 = np.uint64(0x6C7967656E657261)
_C3 = np.uint64(0x7465646279746573)
_R13, _R16, _R17, _R21, _R32 = np.uint64(13), np.uint64(16), np.uint64(17), np.uint64(21), np.uint64(32)
_L13, _L16, _L17, _L21 = np.uint64(51), np.uint64(48), np.uint64(47), np.uint64(43)
_FF = np.uint64(0xFF)
_SIXTEEN_BYTES = np.uint64(16 << 56)


@kernel(_WORD4(uint64, uint64, uint64, uint64), borrows=True, inlined=True)
def sip_round(v0: Any, v1: Any, v2: Any, v3: Any) -> tuple[Any, Any, Any, Any]:
    """One SipRound (figure 2.1 of the paper)."""
    v0 += v1
    v1 = (v1 << _R13 | v1 >> _L13) ^ v0
    v0 = v0 << _R32 | v0 >> _R32
    v2 += v3
    v3 = (v3 << _R16 | v3 >> _L16) ^ v2
    v0 += v3
    v3 = (v3 << _R21 | v3 >> _L21) ^ v0
    v2 += v1
    v1 = (v1 << _R17 | v1 >> _L17) ^ v2
    v2 = v2 << _R32 | v2 >> _R32
    return v0, v1, v2, v3


@kernel(uint64(uint64, uint64, uint64, uint64, uint64), borrows=True, inlined=True)
def finish(v0: int, v1: int, v2: int, v3: int, last: int) -> int:
    """Absorb the last word (the input's length in its top byte) and finish with three rounds."""
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3 ^ last)
    v0, v1, v2, v3 = sip_round(v0 ^ last, v1, v2 ^ _FF, v3)
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    return int(v0 ^ v1 ^ v2 ^ v3)


@kernel(uint64(uint64, uint64, U64), borrows=True, inlined=True)
def hash_words(low: int, high: int, key: npt.NDArray[np.uint64]) -> int:
    """Hash of the 16 bytes in two words under ``key`` uint64 [2]."""
    v0, v1, v2, v3 = key[0] ^ _C0, key[1] ^ _C1, key[0] ^ _C2, key[1] ^ _C3
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3 ^ low)
    v0, v1, v2, v3 = sip_round(v0 ^ low, v1, v2, v3 ^ high)
    return int(finish(v0 ^ high, v1, v2, v3, _SIXTEEN_BYTES))


@kernel(uint64(BYTES, int64, int64, U64), borrows=True, inlined=True)
def hash_bytes(buf: npt.NDArray[np.uint8], start: int, size: int, key: npt.NDArray[np.uint64]) -> int:
    """Hash of ``buf[start : start + size]`` under ``key`` uint64 [2]."""
    v0, v1, v2, v3 = key[0] ^ _C0, key[1] ^ _C1, key[0] ^ _C2, key[1] ^ _C3
    p = start
    end = start + size
    while p + 8 <= end:
        word = load_u64(buf, p)
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3 ^ word)
        v0 ^= word
        p += 8
    last = np.uint64(size) << np.uint64(56)
    for k in range(end - p):
        last |= np.uint64(buf[p + k]) << np.uint64(8 * k)
    return int(finish(v0, v1, v2, v3, last))


@kernel(void(BYTES, I64, I64, U64, U32), borrows=True)
def hash_spans(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    key: npt.NDArray[np.uint64],
    out: npt.NDArray[np.uint32],
) -> None:
    """Low 32 bits of the hash of each of n spans of ``buf`` (``out`` uint32 [n]), 1 instead of 0: 0 means no hash."""
    for i in range(starts.shape[0]):
        out[i] = max(np.uint32(hash_bytes(buf, starts[i], lengths[i], key)), np.uint32(1))


def key_words(key: bytes) -> npt.NDArray[np.uint64]:
    """A 16-byte key in the form that kernels take: uint64 [2].

    Examples
    --------
    >>> key_words(bytes([1]) + bytes(7) + bytes([2]) + bytes(7)).tolist()
    [1, 2]
    """
    return np.frombuffer(key, "<u8", 2).astype(np.uint64)
