"""SipHash-2-4 as kernels: the tag of a signed frame, and the key of a device (see :mod:`klais.core.wire.signing`)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.devices.siphash import sip_round
from klais.jit.intrinsics import load_u64
from klais.jit.kernel import BYTES, group, int64, kernel, uint64

_C0 = np.uint64(0x736F6D6570736575)
_C1 = np.uint64(0x646F72616E646F6D)
_C2 = np.uint64(0x6C7967656E657261)
_C3 = np.uint64(0x7465646279746573)
_FF, _EE, _DD = np.uint64(0xFF), np.uint64(0xEE), np.uint64(0xDD)
_ID_LENGTH = np.uint64(16 << 56)
_LOW = np.uint64(0xFF)
_WORD2 = group((uint64,) * 2)
_WORD4 = group((uint64,) * 4)


@kernel(_WORD4(uint64, uint64, uint64, uint64, uint64), borrows=True, inlined=True)
def _absorb(v0: Any, v1: Any, v2: Any, v3: Any, word: Any) -> tuple[Any, Any, Any, Any]:
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3 ^ word)
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    return v0 ^ word, v1, v2, v3


@kernel(_WORD4(uint64, uint64, uint64, uint64), borrows=True, inlined=True)
def _four_rounds(v0: Any, v1: Any, v2: Any, v3: Any) -> tuple[Any, Any, Any, Any]:
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    return sip_round(v0, v1, v2, v3)  # type: ignore[no-any-return]


@kernel(uint64(BYTES, int64, int64, uint64, uint64), borrows=True, inlined=True)
def tag_of(buf: npt.NDArray[np.uint8], start: int, size: int, k0: Any, k1: Any) -> int:
    """SipHash-2-4 (64 bits) of ``buf[start : start + size]`` under the key ``k0, k1``; ``start + size``
    is at least 8."""
    v0, v1, v2, v3 = k0 ^ _C0, k1 ^ _C1, k0 ^ _C2, k1 ^ _C3
    p = start
    end = start + size
    while p + 8 <= end:
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, load_u64(buf, p))
        p += 8
    last = (np.uint64(size) & _LOW) << np.uint64(56)
    left = end - p
    if left:  # the last eight bytes in one load, without those already absorbed
        last |= load_u64(buf, end - 8) >> np.uint64(64 - 8 * left)
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, last)
    v0, v1, v2, v3 = _four_rounds(v0, v1, v2 ^ _FF, v3)
    return int(v0 ^ v1 ^ v2 ^ v3)


@kernel(_WORD2(uint64, uint64, uint64, uint64), borrows=True)
def derive_key(low: Any, high: Any, k0: Any, k1: Any) -> tuple[Any, Any]:
    """SipHash-2-4-128 of the 16 bytes in two words (a device_id) under the key ``k0, k1``: the device's key."""
    v0, v1, v2, v3 = k0 ^ _C0, k1 ^ _C1 ^ _EE, k0 ^ _C2, k1 ^ _C3
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, low)
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, high)
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, _ID_LENGTH)
    v0, v1, v2, v3 = _four_rounds(v0, v1, v2 ^ _EE, v3)
    first = v0 ^ v1 ^ v2 ^ v3
    v0, v1, v2, v3 = _four_rounds(v0, v1 ^ _DD, v2, v3)
    return first, v0 ^ v1 ^ v2 ^ v3
