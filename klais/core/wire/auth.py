"""Authenticated frames as columns: check the tags of a batch, and sign a batch for the simulator.

The edge runs ``verify`` on frames processed by ``check_headers``: frames that begin with AA 56 have a tag, the others
have none. See :mod:`klais.core.wire.signing` for the frame and its keys.
"""

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import Reason
from klais.core.wire.frame import copy_frame, read_header
from klais.core.wire.signing import GENERATIONS, MIN_SIGNED_BYTES, TRAILER_SIZE
from klais.core.wire.siphash24 import derive_key, tag_of
from klais.jit.intrinsics import load_u64, prefetch
from klais.jit.kernel import BYTES, I64, IDS, U8, U32, U64, group, int64, kernel, uint64, void


class Mode(IntEnum):
    """How frames without a valid tag are treated; OFF never reaches these kernels."""

    OFF = 0
    MONITOR = 1  # all pass and are counted
    STICKY = 2  # a bad tag is refused; lanes refuse unsigned frames of a device that has ever signed
    REQUIRE = 3  # unsigned frames are refused too, unless the id is exempt


class Result(IntEnum):
    """The result for a frame, as counted in ``klais_auth_frames_total``; ``label`` is its name there."""

    OK = 0
    BAD_MAC = 1  # the tag does not match the device's key
    NO_KEY = 2  # no key of this generation is installed
    SUITE = 3  # a suite that edges do not know, or reserved bits
    REVOKED = 4  # the device is revoked in the file of keys
    EPOCH = 5  # further in the future than KLAIS_AUTH_MAX_SKEW_S permits
    UNSIGNED = 6
    EXEMPT = 7  # unsigned, and the id begins with one of KLAIS_AUTH_EXEMPT

    @property
    def label(self) -> str:
        """Lower-case name for metrics."""
        return self.name.lower()


RESULTS = len(Result)
NO_GENERATION = GENERATIONS  # row of the counts for unsigned frames
MAX_FRAME_BYTES = 65_536
CACHE_PLACES = 4096
_LINE_WORDS = 8  # of 64 bytes
_BLOCK = 64  # frames whose keys are prefetched
_TO_CHECK = np.uint8(0xFF)  # not a Reason
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SPREAD_SHIFT = np.uint64(52)

_OK, _BAD_MAC_RESULT, _NO_KEY, _SUITE = int(Result.OK), int(Result.BAD_MAC), int(Result.NO_KEY), int(Result.SUITE)
_REVOKED, _EPOCH = int(Result.REVOKED), int(Result.EPOCH)
_UNSIGNED_RESULT, _EXEMPT_RESULT = int(Result.UNSIGNED), int(Result.EXEMPT)
_MONITOR, _REQUIRE = int(Mode.MONITOR), int(Mode.REQUIRE)
_TOO_SHORT, _BAD_MAGIC = np.uint8(Reason.TOO_SHORT), np.uint8(Reason.BAD_MAGIC)
_BAD_ID, _BAD_MAC = np.uint8(Reason.BAD_DEVICE_ID), np.uint8(Reason.BAD_MAC)
_BAD_EPOCH, _UNSIGNED = np.uint8(Reason.BAD_EPOCH), np.uint8(Reason.UNSIGNED)
_MIN_SIGNED, _TRAILER = np.int64(MIN_SIGNED_BYTES), np.int64(TRAILER_SIZE)
_NO_GENERATION = int(NO_GENERATION)
_KEY3 = group((uint64,) * 3)
_COUNTS = int64[:, ::1]


class KeyColumns(NamedTuple):
    """Keys in the form that kernels take.

    ``masters`` uint64 [4, 3]: two words of K_master and 1 if the generation is installed. ``own_ids`` uint64 [k, 2],
    sorted by first, then second word, and ``own_keys`` uint64 [k, 3] (two words, 0 = revoked): devices with their own
    key. ``cache`` uint64 [4 * 4096, 4] has keys of devices whose tag was valid, by generation: id, key.
    """

    masters: npt.NDArray[np.uint64]
    own_ids: npt.NDArray[np.uint64]
    own_keys: npt.NDArray[np.uint64]
    cache: npt.NDArray[np.uint64]


def key_columns(masters: dict[int, bytes], own: dict[bytes, bytes | None] | None = None) -> KeyColumns:
    """Columns from K_master by generation and from devices' own keys (None = revoked).

    Examples
    --------
    >>> key_columns({1: bytes(16)}, {b"dev-1": None}).masters[:, 2].tolist()
    [0, 1, 0, 0]
    """
    table = np.zeros((GENERATIONS, 3), np.uint64)
    for generation, key in masters.items():
        table[generation, :2], table[generation, 2] = np.frombuffer(key, "<u8"), 1
    own = own or {}
    ids = np.frombuffer(b"".join(name.ljust(16, b"\0") for name in own), "<u8").reshape(-1, 2)
    keys = np.zeros((len(own), 3), np.uint64)
    keys[:, :2] = np.frombuffer(b"".join(key or bytes(16) for key in own.values()), "<u8").reshape(-1, 2)
    keys[:, 2] = [key is not None for key in own.values()]
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    return KeyColumns(table, np.ascontiguousarray(ids[order]), np.ascontiguousarray(keys[order]), _empty_cache())


def _empty_cache() -> npt.NDArray[np.uint64]:
    """Rows of half a cache line, aligned so that none spans two lines."""
    rows = GENERATIONS * CACHE_PLACES
    memory = np.zeros(4 * rows + _LINE_WORDS, np.uint64)
    first = -(memory.ctypes.data // 8) % _LINE_WORDS
    return memory[first : first + 4 * rows].reshape(rows, 4)


@kernel(int64(IDS, uint64, uint64), borrows=True)
def find_own(own_ids: npt.NDArray[np.uint64], low: Any, high: Any) -> int:
    """Row of a device in the sorted ids, -1 = not found."""
    first = 0
    last = own_ids.shape[0]
    while first < last:
        middle = (first + last) // 2
        if own_ids[middle, 0] < low or (own_ids[middle, 0] == low and own_ids[middle, 1] < high):
            first = middle + 1
        else:
            last = middle
    if first < own_ids.shape[0] and own_ids[first, 0] == low and own_ids[first, 1] == high:
        return first
    return -1


@kernel(int64(uint64, uint64, int64), borrows=True, inlined=True)
def place_of(low: Any, high: Any, generation: int) -> int:
    """Row of a device in ``cache``; no id is 0, so an empty row matches no device."""
    return np.int64(((low ^ high) * _SPREAD) >> _SPREAD_SHIFT) + generation * CACHE_PLACES  # type: ignore[return-value]


@kernel(_KEY3(IDS, IDS, IDS, int64, uint64, uint64), borrows=True)
def key_of(
    masters: npt.NDArray[np.uint64],
    own_ids: npt.NDArray[np.uint64],
    own_keys: npt.NDArray[np.uint64],
    generation: int,
    low: Any,
    high: Any,
) -> tuple[Any, Any, Any]:
    """Key of a device as two words, and a :class:`Result`: OK, NO_KEY or REVOKED."""
    row = find_own(own_ids, low, high)
    if row >= 0:
        return own_keys[row, 0], own_keys[row, 1], np.uint64(_OK if own_keys[row, 2] else _REVOKED)
    if masters[generation, 2] == np.uint64(0):
        return np.uint64(0), np.uint64(0), np.uint64(_NO_KEY)
    k0, k1 = derive_key(low, high, masters[generation, 0], masters[generation, 1])
    return k0, k1, np.uint64(_OK)


@kernel(int64(BYTES, int64), borrows=True, inlined=True)
def read_epoch(buf: npt.NDArray[np.uint8], end: int) -> int:
    """Epoch of the signed frame that ends at ``end``."""
    high = (np.int64(buf[end - 13]) << 24) | (np.int64(buf[end - 12]) << 16)
    return int(high | (np.int64(buf[end - 11]) << 8) | np.int64(buf[end - 10]))


@kernel(int64(BYTES, int64, int64, IDS, IDS, IDS, IDS, uint64, uint64, int64), borrows=True, inlined=True)
def verify_one(
    buf: npt.NDArray[np.uint8],
    start: int,
    size: int,
    masters: npt.NDArray[np.uint64],
    own_ids: npt.NDArray[np.uint64],
    own_keys: npt.NDArray[np.uint64],
    cache: npt.NDArray[np.uint64],
    low: Any,
    high: Any,
    latest: int,
) -> int:
    """Check the signed frame ``buf[start : start + size]`` of the device ``low, high``.

    A key is stored in ``cache`` only after a valid tag, so that forged frames evict none.

    Returns
    -------
    int
        ``epoch << 8 | generation << 4 | Result``; EPOCH if the epoch is above ``latest``.
    """
    ctrl = np.int64(buf[start + size - 9])
    generation = ctrl >> 4 & 3
    said = read_epoch(buf, start + size) << 8 | generation << 4
    if ctrl & 0xCF:
        return int(said | _SUITE)
    place = place_of(low, high, generation)
    known = cache[place, 0] == low and cache[place, 1] == high
    if known:
        k0, k1 = cache[place, 2], cache[place, 3]
    else:
        k0, k1, found = key_of(masters, own_ids, own_keys, generation, low, high)
        if found != np.uint64(_OK):
            return int(said | np.int64(found))
    if np.uint64(tag_of(buf, start, size - 8, k0, k1)) != load_u64(buf, start + size - 8):
        return int(said | _BAD_MAC_RESULT)
    if not known:
        cache[place, 0] = low
        cache[place, 1] = high
        cache[place, 2] = k0
        cache[place, 3] = k1
    return int(said | (_EPOCH if said >> 8 > latest else _OK))


@kernel(
    void(*(BYTES, I64, int64, I64, int64, IDS, int64, U8, int64, int64), *(U8, IDS, U32, U8, U32, _COUNTS)),
    borrows=True,
    inlined=True,
)
def find_signed(
    head: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    head_size: int,
    lengths: npt.NDArray[np.int64],
    max_length: int,
    cache: npt.NDArray[np.uint64],
    mode: int,
    exempt: npt.NDArray[np.uint8],
    first: int,
    until: int,
    reason: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint64],
    sequence: npt.NDArray[np.uint32],
    id_size: npt.NDArray[np.uint8],
    epoch: npt.NDArray[np.uint32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Of frames ``first`` to ``until``: judge those without a tag; read the headers of the others, set their ``reason``
    to _TO_CHECK, and prefetch their keys."""
    for i in range(first, until):
        epoch[i] = 0
        if reason[i] == 0:
            counts[_NO_GENERATION, _EXEMPT_RESULT if exempt[i] else _UNSIGNED_RESULT] += 1
            reason[i] = _UNSIGNED if mode == _REQUIRE and exempt[i] == 0 else 0
            continue
        size = lengths[i]
        s = starts[i]
        if reason[i] != _BAD_MAGIC or size > max_length + _TRAILER or head[s] != 0xAA or head[s + 1] != 0x56:
            continue
        if size < _MIN_SIGNED or not read_header(head, s, i, ids, sequence, id_size):
            reason[i] = _TOO_SHORT if size < _MIN_SIGNED else _BAD_ID
            continue
        reason[i] = _TO_CHECK
        if size <= head_size:  # data evicted from the CPU's caches is loaded while other frames are hashed
            prefetch(cache, 4 * place_of(ids[i, 0], ids[i, 1], np.int64(head[s + size - 9]) >> 4 & 3))


@kernel(
    void(
        *(BYTES, I64, int64, BYTES, I64, I64, U8, int64, IDS, IDS, IDS, IDS),
        *(int64, U8, int64, U8, IDS, U32, U8, U32, _COUNTS),
    ),
    borrows=True,
)
def verify(
    head: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    head_size: int,
    tail: npt.NDArray[np.uint8],
    tail_starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    room: npt.NDArray[np.uint8],
    max_length: int,
    masters: npt.NDArray[np.uint64],
    own_ids: npt.NDArray[np.uint64],
    own_keys: npt.NDArray[np.uint64],
    cache: npt.NDArray[np.uint64],
    mode: int,
    exempt: npt.NDArray[np.uint8],
    latest: int,
    reason: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint64],
    sequence: npt.NDArray[np.uint32],
    id_size: npt.NDArray[np.uint8],
    epoch: npt.NDArray[np.uint32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Check the tags of n frames; an accepted signed frame becomes a plain one: ``lengths[i]`` is 13 less.

    Its first two bytes stay AA 56: the code that copies it writes AA 55 (memory of a source may be read-only).
    ``head`` to ``lengths`` give the position of the frames (:class:`klais.edge.sources.base.Source`), ``reason`` to
    ``id_size`` [n] are as ``check_headers`` left them and are filled in for signed frames. ``room`` uint8 [65,536] is
    for frames in two pieces; frames longer than ``max_length`` are TOO_LONG without a check. ``masters`` to ``cache``:
    see :class:`KeyColumns`. ``mode``: MONITOR, STICKY or REQUIRE; ``exempt`` uint8 [n] is 1 if the id may be unsigned.
    ``epoch`` uint32 [n], out: of each frame with a valid tag, else 0; none may be above ``latest``. ``counts`` int64
    [5, 8], in and out: frames by generation (the last row: unsigned) and :class:`Result`.
    """
    for block in range(0, starts.shape[0], _BLOCK):
        until = min(block + _BLOCK, starts.shape[0])
        find_signed(
            head, starts, head_size, lengths, max_length, cache, mode, exempt,
            block, until, reason, ids, sequence, id_size, epoch, counts,
        )  # fmt: skip
        for i in range(block, until):
            if reason[i] != _TO_CHECK:
                continue
            size = lengths[i]
            s = starts[i]
            if size <= head_size:
                said = verify_one(head, s, size, masters, own_ids, own_keys, cache, ids[i, 0], ids[i, 1], latest)
            else:
                copy_frame(room, 0, size, head, s, head_size, tail, tail_starts[i])
                said = verify_one(room, 0, size, masters, own_ids, own_keys, cache, ids[i, 0], ids[i, 1], latest)
            found = said & 15
            counts[said >> 4 & 3, found] += 1
            if found == _OK or mode == _MONITOR:
                reason[i] = 0
                lengths[i] = size - _TRAILER
                epoch[i] = np.uint32(said >> 8 if found == _OK else 0)
            else:
                reason[i] = _BAD_EPOCH if found == _EPOCH else _BAD_MAC


@kernel(void(U8, I64, I64, U64, U64, U8, IDS, U32, int64), borrows=True)
def sign(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    k0: npt.NDArray[np.uint64],
    k1: npt.NDArray[np.uint64],
    wanted: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint64],
    epoch: npt.NDArray[np.uint32],
    generation: int,
) -> None:
    """Sign the n plain frames ``buf[starts[i] : starts[i] + lengths[i]]``, each followed by 13 free bytes.

    Parameters
    ----------
    k0, k1 : uint64 [n or 1]
        One: K_master, from which the keys of the devices ``ids`` uint64 [n, 2] are derived. n: their own keys.
    wanted : uint8 [n]
        0 = leave unsigned, 1 = sign, 2 = sign with a wrong tag.
    epoch : uint32 [n]
    lengths : int64 [n], in and out
    """
    for i in range(starts.shape[0]):
        if wanted[i] == 0:
            continue
        s = starts[i]
        n = lengths[i]
        a, b = k0[i % k0.shape[0]], k1[i % k1.shape[0]]
        if k0.shape[0] == 1:
            a, b = derive_key(ids[i, 0], ids[i, 1], a, b)
        buf[s + 1] = 0x56
        for k in range(4):
            buf[s + n + k] = np.uint8((epoch[i] >> np.uint32(24 - 8 * k)) & np.uint32(0xFF))
        buf[s + n + 4] = np.uint8(generation << 4)
        tag = np.uint64(tag_of(buf, s, n + 5, a, b))
        if wanted[i] == 2:
            tag ^= np.uint64(1)
        for k in range(8):
            buf[s + n + 5 + k] = np.uint8((tag >> np.uint64(8 * k)) & np.uint64(0xFF))
        lengths[i] = n + _TRAILER
