"""The kernels of the simulator: choice of devices, the frames' bytes, their send order, and their hash.

All randomness comes from one SplitMix64 state (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number
generators"), so that the same seed gives the same frames on any machine.
"""

import math

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import FIRST_MALFORMED, HEADER_SIZE, ID_OFFSET, ID_SIZE, SEQUENCE_OFFSET, Reason
from klais.jit.kernel import (
    BYTES,
    I32,
    I64,
    U8,
    U32,
    U64,
    boolean,
    float64,
    int64,
    kernel,
    uint8,
    uint64,
    void,
)
from klais.sim.kinds import DUPLICATE, GOOD, LATE, REBOOT, SPIKE
from klais.sim.malformed import KINDS, payload_table

U8_2D = uint8[:, ::1]
F64_2D = float64[:, ::1]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_LOW16 = np.uint64(0xFFFF)
_LOW32 = np.uint64(0xFFFFFFFF)

# columns of the sensor model, float64 [devices, 6]
TEMPERATURE, HUMIDITY, BATTERY, PHASE, NOISE_T, NOISE_H = range(6)
MODEL_COLUMNS = 6
AR_KEEP = 0.95  # AR(1): noise' = 0.95 noise + sqrt(1 - 0.95^2) * white, so that its variance stays 1
AR_NEW = math.sqrt(1 - AR_KEEP * AR_KEEP)
SPIKE_DEGREES = 40.0

# cumulative 32-bit thresholds of one draw, uint64 [5]; columns of `shares`
SHARE_MALFORMED, SHARE_REBOOT, SHARE_SPIKE, SHARE_LATE, SHARE_DUPLICATE = range(5)

_KEY_T = np.frombuffer(b'{"t":', np.uint8)
_KEY_H = np.frombuffer(b',"h":', np.uint8)
_KEY_B = np.frombuffer(b',"b":', np.uint8)
_KEY_S = np.frombuffer(b',"s":1}', np.uint8)
_BAD_TEXTS, _BAD_STARTS, _BAD_FIRST = payload_table()
_TOO_SHORT = np.uint8(Reason.TOO_SHORT)
_BAD_MAGIC = np.uint8(Reason.BAD_MAGIC)
_BAD_ID = np.uint8(Reason.BAD_DEVICE_ID)
_MALFORMED = np.uint8(FIRST_MALFORMED)
_KINDS = np.uint64(KINDS)
MAX_BUILT_BYTES = 320  # of one frame: the header and the longest malformed payload; recorded payloads are far shorter
AGAIN_SLACK = 64  # places after the last frame of a chunk for repeats that are due after it


@kernel(uint64(U64))
def next_random(state: npt.NDArray[np.uint64]) -> int:
    """Next 64 random bits; ``state`` uint64 [1] moves on (SplitMix64)."""
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return np.uint64(z ^ (z >> np.uint64(31)))  # type: ignore[return-value]


@kernel(float64(uint64))
def white(bits: int) -> float:
    """Noise of mean 0 and variance 1 from 64 random bits: four 16-bit uniforms added up (Irwin-Hall), within +-3.47."""
    total = np.float64(0.0)
    for k in range(4):
        total += np.float64((np.uint64(bits) >> np.uint64(16 * k)) & _LOW16)
    return (total / 65_536.0 - 2.0) * 1.7320508075688772  # type: ignore[no-any-return]


@kernel(int64(U8, int64, BYTES, int64, int64))
def put_bytes(out: npt.NDArray[np.uint8], at: int, text: npt.NDArray[np.uint8], start: int, end: int) -> int:
    """Copy ``text[start:end]`` to ``out[at:]``; returns the place after it."""
    for k in range(start, end):
        out[at + k - start] = text[k]
    return at + end - start


@kernel(int64(U8, int64, float64, int64))
def put_fixed(out: npt.NDArray[np.uint8], at: int, value: float, decimals: int) -> int:
    """Write ``value`` (|value| < 1e9) with 1 or 2 decimals, rounded half away from zero; returns the place after it."""
    scale = np.int64(10) if decimals == 1 else np.int64(100)
    units = int(abs(value) * scale + 0.5)
    if value < 0 and units > 0:
        out[at] = 0x2D  # minus
        at += 1
    whole = units // scale
    fraction = units - whole * scale
    digits, limit = 1, 10
    while whole >= limit:
        digits += 1
        limit *= 10
    for k in range(digits):
        out[at + digits - 1 - k] = 0x30 + whole % 10
        whole //= 10
    at += digits
    out[at] = 0x2E  # point
    for k in range(decimals):
        out[at + decimals - k] = 0x30 + fraction % 10
        fraction //= 10
    return at + 1 + decimals


@kernel(void(U64, I64, int64, int64, U64, U32, I32, U32, U8))
def draw(
    rng: npt.NDArray[np.uint64],
    cycle: npt.NDArray[np.int64],
    devices: int,
    stride: int,
    shares: npt.NDArray[np.uint64],
    next_sequence: npt.NDArray[np.uint32],
    device: npt.NDArray[np.int32],
    sequence: npt.NDArray[np.uint32],
    kind: npt.NDArray[np.uint8],
) -> None:
    """Choose device, sequence and kind of the next n frames.

    Devices take turns: each sends once per round, in an order scattered by ``stride`` (coprime to ``devices``) and
    shifted by up to a tenth of a round, so that intervals vary slightly. ``cycle`` int64 [2]: position in the round,
    shift of the round. ``next_sequence`` uint32 [devices] is advanced; ``device``, ``sequence``, ``kind`` [n] are
    written.
    """
    n = device.shape[0]
    for i in range(n):
        bits = next_random(rng)
        what = np.uint8(GOOD)
        if i > 0 and kind[i - 1] == LATE:
            d = np.int64(device[i - 1])  # the frame that overtakes
        else:
            d = (cycle[1] + cycle[0] * stride) % devices
            cycle[0] += 1
            if cycle[0] == devices:
                cycle[0] = 0
                turn = np.int64((bits >> np.uint64(40)) % np.uint64(devices // 10 + 1))
                cycle[1] = turn * stride % devices
            low = bits & _LOW32
            if low < shares[SHARE_MALFORMED]:
                what = np.uint8(_MALFORMED + np.uint8((bits >> np.uint64(32)) % _KINDS))
            elif low < shares[SHARE_REBOOT]:
                what = np.uint8(REBOOT)
                next_sequence[d] = 0
            elif low < shares[SHARE_SPIKE]:
                what = np.uint8(SPIKE)
            elif low < shares[SHARE_LATE] and i + 1 < n:
                what = np.uint8(LATE)
        kind[i] = what
        device[i] = d
        sequence[i] = next_sequence[d]
        next_sequence[d] += np.uint32(1)


@kernel(int64(U64, U64, U8, I32, I32, U8))
def plan_order(
    rng: npt.NDArray[np.uint64],
    shares: npt.NDArray[np.uint64],
    kind: npt.NDArray[np.uint8],
    again: npt.NDArray[np.int32],
    order: npt.NDArray[np.int32],
    sent_kind: npt.NDArray[np.uint8],
) -> int:
    """Compute the send order of n built frames: late ones are swapped with their successor, repeats follow within the
    next 8 places.

    ``kind`` uint8 [n]; ``again`` int32 [n + AGAIN_SLACK] is scratch; ``order`` int32 and ``sent_kind`` uint8, room for
    2n, are written: frame and kind at each place. Returns the number of places used.
    """
    n = kind.shape[0]
    last = again.shape[0] - 1
    again[:] = -1
    count = 0
    for i in range(last + 1):
        if i < n:
            j = i
            if kind[i] == LATE:
                j = i + 1
            elif i > 0 and kind[i - 1] == LATE:
                j = i - 1
            order[count] = j
            sent_kind[count] = kind[j]
            count += 1
            if kind[j] < _MALFORMED:
                bits = next_random(rng)
                if (bits & _LOW32) < shares[SHARE_DUPLICATE]:
                    at = i + np.int64((bits >> np.uint64(32)) & np.uint64(7))
                    while at < last and again[at] >= 0:
                        at += 1
                    if again[at] < 0:
                        again[at] = j
        if again[i] >= 0:
            order[count] = again[i]
            sent_kind[count] = DUPLICATE
            count += 1
    return count


@kernel(int64(U8, int64, F64_2D, int64, float64, U64, boolean))
def put_modelled(
    out: npt.NDArray[np.uint8],
    at: int,
    model: npt.NDArray[np.float64],
    d: int,
    day_angle: float,
    rng: npt.NDArray[np.uint64],
    spike: bool,
) -> int:
    """Write device d's next payload, ``{"t":21.53,"h":48.2,"b":3.71,"s":1}``; returns the place after it.

    t = base + 4 sin(day) + 0.3 AR(1) degrees, h = base - 8 sin(day) + 1.5 AR(1) percent, b = base + up to 0.03 V, s =
    1.
    """
    bits = next_random(rng)
    model[d, NOISE_T] = AR_KEEP * model[d, NOISE_T] + AR_NEW * white(bits)
    model[d, NOISE_H] = AR_KEEP * model[d, NOISE_H] + AR_NEW * white(next_random(rng))
    sine = math.sin(day_angle + model[d, PHASE])
    t = model[d, TEMPERATURE] + 4.0 * sine + 0.3 * model[d, NOISE_T]
    if spike:
        t += SPIKE_DEGREES
    at = put_bytes(out, at, _KEY_T, 0, 5)
    at = put_fixed(out, at, t, 2)
    at = put_bytes(out, at, _KEY_H, 0, 5)
    at = put_fixed(out, at, model[d, HUMIDITY] - 8.0 * sine + 1.5 * model[d, NOISE_H], 1)
    at = put_bytes(out, at, _KEY_B, 0, 5)
    at = put_fixed(out, at, model[d, BATTERY] + 0.01 * np.float64(bits & np.uint64(3)), 2)
    return int(put_bytes(out, at, _KEY_S, 0, 7))


@kernel(int64(U8, int64, int64, uint8, U64))
def corrupt_frame(out: npt.NDArray[np.uint8], start: int, end: int, kind: int, rng: npt.NDArray[np.uint64]) -> int:
    """Make the valid frame ``out[start:end]`` malformed for reason ``kind``; returns its new end."""
    bits = next_random(rng)
    if kind == _TOO_SHORT:
        return start + 1 + int(bits % np.uint64(21))
    if kind == _BAD_MAGIC:
        out[start + np.int64(bits & np.uint64(1))] ^= np.uint8(0x0F)
        return end
    if kind == _BAD_ID:
        if bits & np.uint64(1):
            out[start + 2] = 0xFF  # invalid in UTF-8
        else:
            out[start + 2] = 0  # an empty id with bytes after the NUL
            out[start + 17] = 0x41
        return end
    row = np.int64(kind) - np.int64(_MALFORMED)
    texts = _BAD_FIRST[row + 1] - _BAD_FIRST[row]
    text = _BAD_FIRST[row] + np.int64(bits % np.uint64(texts))
    return int(put_bytes(out, start + HEADER_SIZE, _BAD_TEXTS, _BAD_STARTS[text], _BAD_STARTS[text + 1]))


@kernel(void(U8, U8_2D, I32, U32, U8, F64_2D, float64, float64, BYTES, I64, I64, I64, U64, int64, I64, I64))
def build(
    out: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.uint8],
    device: npt.NDArray[np.int32],
    sequence: npt.NDArray[np.uint32],
    kind: npt.NDArray[np.uint8],
    model: npt.NDArray[np.float64],
    day_angle: float,
    angle_step: float,
    texts: npt.NDArray[np.uint8],
    text_starts: npt.NDArray[np.int64],
    text_first: npt.NDArray[np.int64],
    cursor: npt.NDArray[np.int64],
    rng: npt.NDArray[np.uint64],
    gap: int,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> None:
    """Write n frames into ``out`` (at least MAX_BUILT_BYTES each), each followed by a ``gap``; ``starts`` and
    ``lengths`` int64 [n] are their places.

    ``ids`` uint8 [devices, 16]; ``model`` float64 [devices, MODEL_COLUMNS]. If ``cursor`` int64 [devices] is not empty,
    the payloads are recorded ones (see :class:`klais.sim.traffic.Series`) and the cursors are advanced.
    """
    at = 0
    for i in range(device.shape[0]):
        d = int(device[i])
        start = at
        out[at] = 0xAA
        out[at + 1] = 0x55
        for k in range(ID_SIZE):
            out[at + ID_OFFSET + k] = ids[d, k]
        for k in range(4):
            out[at + SEQUENCE_OFFSET + k] = np.uint8((sequence[i] >> np.uint32(24 - 8 * k)) & np.uint32(0xFF))
        at += HEADER_SIZE
        if cursor.shape[0] > 0:
            text = text_first[d] + cursor[d]
            cursor[d] = (cursor[d] + 1) % (text_first[d + 1] - text_first[d])
            at = put_bytes(out, at, texts, text_starts[text], text_starts[text + 1])
        else:
            at = put_modelled(out, at, model, d, day_angle + i * angle_step, rng, kind[i] == SPIKE)
        if kind[i] >= _MALFORMED:
            at = corrupt_frame(out, start, at, kind[i], rng)
        starts[i] = start
        lengths[i] = at - start
        at += gap


@kernel(void(I32, U8, U32, U32))
def epochs_of(
    device: npt.NDArray[np.int32],
    kind: npt.NDArray[np.uint8],
    epoch: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
) -> None:
    """Epoch of each of n frames into ``out`` uint32 [n]. The epoch of a device, ``epoch`` uint32 [devices], increases
    by one at each restart."""
    for i in range(device.shape[0]):
        if kind[i] == REBOOT:
            epoch[device[i]] += np.uint32(1)
        out[i] = epoch[device[i]]


@kernel(void(BYTES, I64, I64, U64))
def fnv1a64_column(
    buf: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint64],
) -> None:
    """64-bit FNV-1a of each ``buf[starts[i] : starts[i] + lengths[i]]`` (draft-eastlake-fnv) into ``out`` uint64
    [n]."""
    for i in range(starts.shape[0]):
        h = _FNV_BASIS
        for k in range(starts[i], starts[i] + lengths[i]):
            h = np.uint64((h ^ np.uint64(buf[k])) * _FNV_PRIME)
        out[i] = h
