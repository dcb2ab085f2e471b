"""Saved profiles: gate and channels of one device as bytes, the value of its record in the ``profiles`` table.

Little-endian: magic ``KLP1``, version, light channels, full channels, one byte of padding; then GATE, LIGHT and FULL
records. Profiles are soft state: a value of another version is skipped, and the device is learned again. A value that
no detector can have written is skipped too, because kernels use some of its numbers as array indices.
"""

from struct import Struct

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.arena import STORE, Store, free_channels, new_light, take_place
from klais.core.anomaly.channel import BLOCKS, FULL, HOURS, HOURS_LIGHT, LIGHT, Channels
from klais.core.anomaly.detector import Saved
from klais.core.anomaly.gate import BANDS, GATE
from klais.core.anomaly.record import MAX_FIELDS
from klais.jit.intrinsics import copy_bytes
from klais.jit.kernel import I32, I64, U8, group, int64, kernel

MAGIC, VERSION = b"KLP1", 3
_HEAD = Struct("<4sBBBx")
_START = tuple(_HEAD.pack(MAGIC, VERSION, 0, 0))
_LIGHT_AT, _FULL_AT = 5, 6  # where the header has the numbers of channels
_HEAD_SIZE, _GATE_SIZE, _LIGHT_SIZE, _FULL_SIZE = _HEAD.size, GATE.itemsize, LIGHT.itemsize, FULL.itemsize
_MIN_PROFILE_BYTES, _MAX_PROFILE_BYTES = (
    _HEAD_SIZE + _GATE_SIZE + channels for channels in (_LIGHT_SIZE, BANDS * _FULL_SIZE)
)
RECORDS = group((U8,) * 3)
Records = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Gates, light and full channels of a store as bytes."""


def places(store: Store, row: int) -> tuple[list[int], list[int]]:
    """Indices of a device's light and full channels."""
    gates, light, full, _, _ = store
    found: tuple[list[int], list[int]] = ([], [])
    handle = int(gates["first"][row])
    while handle and len(found[0]) + len(found[1]) < BANDS:
        k = abs(handle) - 1
        found[handle < 0].append(k)
        handle = int((light if handle > 0 else full)["following"][k])
    return found


@kernel(int64(STORE, RECORDS, int64, U8, int64), borrows=True)
def put_profile(store: Store, records: Records, r: int, out: npt.NDArray[np.uint8], at: int) -> int:
    """Write the value of row ``r`` at ``out[at]``; returns where it ends."""
    gates, light, full, _, _ = store
    of_gates, of_light, of_full = records
    begin = at
    for k in range(_HEAD_SIZE):
        out[at + k] = _START[k]
    copy_bytes(out, at + _HEAD_SIZE, of_gates, r * _GATE_SIZE, _GATE_SIZE)
    at += _HEAD_SIZE + _GATE_SIZE
    for tier in range(2):  # the light channels come first, whatever their order in the chain
        handle = np.int64(gates["first"][r])
        for _ in range(BANDS):
            if handle == 0:
                break
            if handle > 0:
                if tier == 0:
                    copy_bytes(out, at, of_light, int(handle - 1) * _LIGHT_SIZE, _LIGHT_SIZE)
                    at += _LIGHT_SIZE
                    out[begin + _LIGHT_AT] += np.uint8(1)
                handle = np.int64(light["following"][handle - 1])
            else:
                if tier == 1:
                    copy_bytes(out, at, of_full, int(-handle - 1) * _FULL_SIZE, _FULL_SIZE)
                    at += _FULL_SIZE
                    out[begin + _FULL_AT] += np.uint8(1)
                handle = np.int64(full["following"][-handle - 1])
    return at


@kernel((STORE, RECORDS, int64, int64, int64, U8, I32, I64), borrows=True)
def put_changed(
    store: Store,
    records: Records,
    begin: int,
    end: int,
    limit_bytes: int,
    out: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Write the values of rows ``begin`` to ``end`` that changed since the last save, until ``limit_bytes`` bytes are
    written. Returns their number (``row`` int32, ``ends`` int64 [k], out) and the row to continue with."""
    gates = store[0]
    count = at = 0
    for r in range(begin, end):
        if gates["scored_ds"][r] == gates["saved_ds"][r] or gates["first"][r] == 0:
            continue
        if at >= limit_bytes:
            return count, r
        at = put_profile(store, records, r, out, at)
        gates["saved_ds"][r] = gates["scored_ds"][r]
        row[count], ends[count] = r, at
        count += 1
    return count, end


def _records(store: Store) -> Records:
    gates, light, full, _, _ = store
    return gates.view(np.uint8), light.view(np.uint8), full.view(np.uint8)


def dump_profile(store: Store, row: int) -> bytes:
    """The value of one device."""
    out = np.empty(_MAX_PROFILE_BYTES, np.uint8)
    return out[: put_profile(store, _records(store), row, out, 0)].tobytes()


def dump_changed(store: Store, begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
    """Values of rows ``begin`` to ``end`` that changed since the last save, up to about ``max_bytes``, and the row to
    continue with."""
    out = np.empty(max_bytes + _MAX_PROFILE_BYTES, np.uint8)
    row, ends = (
        np.empty(max_bytes // _MIN_PROFILE_BYTES + 1, np.int32),
        np.zeros(max_bytes // _MIN_PROFILE_BYTES + 2, np.int64),
    )
    count, following = put_changed(store, _records(store), begin, end, max_bytes, out, row, ends[1:])
    starts = ends[:count]
    return Saved(row[:count], out, starts, ends[1 : count + 1] - starts), int(following)


def read_profile(value: bytes) -> tuple[Channels, Channels, Channels] | None:
    """Gate (GATE [1]), light and full channels of a value; None if it is not of this version."""
    if len(value) < _HEAD.size or value[:4] != MAGIC or value[4] != VERSION:
        return None
    _, _, light, full = _HEAD.unpack_from(value)
    begin_light = _HEAD.size + GATE.itemsize
    begin_full = begin_light + light * LIGHT.itemsize
    if light + full > BANDS or len(value) != begin_full + full * FULL.itemsize:
        return None
    gate = np.frombuffer(value, GATE, 1, _HEAD.size).copy()
    of_light = np.frombuffer(value, LIGHT, light, begin_light).copy()
    of_full = np.frombuffer(value, FULL, full, begin_full).copy()
    if not (_is_sound_gate(gate) and _is_sound(of_light, HOURS_LIGHT) and _is_sound(of_full, HOURS)):
        return None
    return gate, of_light, of_full


def _floats(records: Channels, *besides: str) -> bool:
    """Whether all floats except the named ones are finite."""
    names = [name for name in records.dtype.names or () if records.dtype[name].base.kind == "f" and name not in besides]
    return all(bool(np.isfinite(records[name]).all()) for name in names)


def _is_sound_gate(gate: Channels) -> bool:
    """Whether kernels can use a gate; its bands may be open."""
    bands = np.isnan(gate["low"]) | np.isnan(gate["high"])
    return bool(gate["slots"][0] <= MAX_FIELDS) and not bands.any() and _floats(gate, "low", "high")


def _is_sound(channels: Channels, hours: int) -> bool:
    """Whether kernels can use these channels, with ``hours`` parts of the day."""
    hour = channels["hour"]
    places = (channels["feature"] < BANDS) & ((hour < hours) | (hour == 255))
    if hours == HOURS:
        places &= channels["place"] < BLOCKS
    range_ = (channels["low"] <= channels["high"]).all()
    return bool(places.all()) and bool(range_) and _floats(channels)


def load_profile(store: Store, row: int, value: bytes, clock_ms: int) -> bool:
    """Replace the profile of ``row`` by a saved one if that has seen more rows; returns whether it did.

    ``clock_ms``: the fleet's clock now; a saved profile does not contain it.
    """
    found = read_profile(value)
    if found is None:
        return False
    gate, of_light, of_full = found
    gates, light, full, _, full_room = store
    here = gates[row]
    mine_light, mine_full = places(store, row)
    known = int(light["rows"][mine_light].sum(dtype=np.int64) + full["rows"][mine_full].sum(dtype=np.int64))
    saved = int(of_light["rows"].sum(dtype=np.int64) + of_full["rows"].sum(dtype=np.int64))
    if here["owner"] not in (0, gate["owner"][0]) or known > saved:
        return False
    free_channels(store, row)
    for name in ("clock_ms", "begin_ms", "frames"):
        gate[name] = here[name] if here["owner"] else {"frames": 0}.get(name, clock_ms & 0xFFFFFFFF)
    gate["first"] = 0
    gate["saved_ds"] = gate["scored_ds"]
    gates[row] = gate[0]
    for record in of_light:
        handle = new_light(store, row, int(record["feature"]), float(record["t"]))
        if handle > 0:
            _put(light, handle - 1, record)
    for record in of_full:
        k = take_place(full, full_room)
        if k >= 0:
            full["following"][k], full["owner"][k] = gates["first"][row], row
            gates["first"][row] = -(k + 1)
            _put(full, k, record)
    return True


def _put(channels: Channels, k: int, record: np.void) -> None:
    """Copy all of a channel except its links in the arena."""
    owner, following = int(channels["owner"][k]), int(channels["following"][k])
    channels[k] = record
    channels["owner"][k], channels["following"][k] = owner, following
