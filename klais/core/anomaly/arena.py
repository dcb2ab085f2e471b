"""The channels of all devices of a lane: two arrays of fixed size; when full, channels of silent devices are evicted.

A *handle* names a channel: ``k + 1`` is place ``k`` of the light array, ``-(k + 1)`` of the full one, 0 none. The
channels of a device form a linked list that starts at its gate's ``first``. ``room`` (int64 [ROOM]) belongs to one
array: the number of places ever used, the first free place (+ 1, 0 = none), and where the search for a device to evict
continues.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import FULLS, LIGHTS, Channels
from klais.core.anomaly.gate import GATES, Gates
from klais.jit.kernel import I64, float64, group, int64, kernel, void

STORE = group((GATES, LIGHTS, FULLS, I64, I64))
"""Gates, light and full channels, and ``room`` of each of the two arrays, as kernels pass them to each other."""
Store = tuple[Gates, Channels, Channels, npt.NDArray[np.int64], npt.NDArray[np.int64]]
USED, FREE, HAND = range(3)
ROOM = 3
EVICTION_SAMPLES = 8  # channels examined in a search for one to evict
MIN_IDLE_S = 600.0  # a device is evicted after this much silence at the earliest,
IDLE_ROWS = 8.0  # and after this many of its mean intervals


@kernel([void(of, I64, int64) for of in (LIGHTS, FULLS)], borrows=True)
def free_place(state: Channels, room: npt.NDArray[np.int64], k: int) -> None:
    """Free place ``k``."""
    state["owner"][k] = np.int32(-1)
    state["following"][k] = np.int32(room[FREE])
    room[FREE] = k + 1


@kernel(void(STORE, int64), borrows=True)
def free_channels(store: Store, r: int) -> None:
    """Free all channels of the device in row ``r``."""
    gates, light, full, light_room, full_room = store
    handle = np.int64(gates["first"][r])
    gates["first"][r] = np.int32(0)
    while handle != 0:
        if handle > 0:
            following = np.int64(light["following"][handle - 1])
            free_place(light, light_room, handle - 1)
        else:
            following = np.int64(full["following"][-handle - 1])
            free_place(full, full_room, -handle - 1)
        handle = following


@kernel(int64(STORE, int64, int64), borrows=True)
def find_channel(store: Store, r: int, feature: int) -> int:
    """Handle of the channel of one feature of a device, 0 = none."""
    gates, light, full, _, _ = store
    handle = np.int64(gates["first"][r])
    while handle != 0:
        if handle > 0:
            if light["feature"][handle - 1] == feature:
                return int(handle)
            handle = np.int64(light["following"][handle - 1])
        else:
            if full["feature"][-handle - 1] == feature:
                return int(handle)
            handle = np.int64(full["following"][-handle - 1])
    return 0


@kernel([int64(of, I64, float64) for of in (LIGHTS, FULLS)], borrows=True)
def find_idle(state: Channels, room: npt.NDArray[np.int64], t: float) -> int:
    """Row of the device that was silent longest, and long enough, among the next few channels; -1 = none."""
    best, longest = -1, 0.0
    for _ in range(EVICTION_SAMPLES):
        k = room[HAND]
        room[HAND] = k + 1 if k + 1 < state.shape[0] else 0
        idle = t - state["t"][k]
        minimum = max(MIN_IDLE_S, IDLE_ROWS * np.float64(state["spacing"][k]))
        if state["owner"][k] >= 0 and idle > minimum and idle > longest:
            best, longest = int(state["owner"][k]), idle
    return best


@kernel([int64(of, I64) for of in (LIGHTS, FULLS)], borrows=True)
def take_place(state: Channels, room: npt.NDArray[np.int64]) -> int:
    """A free place, or -1."""
    if room[FREE] > 0:
        k = room[FREE] - 1
        room[FREE] = np.int64(state["following"][k])
        return int(k)
    if room[USED] < state.shape[0]:
        room[USED] += 1
        return int(room[USED] - 1)
    return -1


@kernel(void(LIGHTS, int64), borrows=True)
def clear_light(state: Channels, k: int) -> None:
    """Reset a channel to an empty state."""
    state["rows"][k], state["began_s"][k] = np.uint32(0), np.uint32(0)
    state["spacing"][k] = state["size"][k] = state["quantum"][k] = state["level"][k] = state["visit"][k] = 0.0
    state["run_size"][k] = state["longest"][k] = state["recent"][k] = state["peak"][k] = np.float32(0.0)
    state["up"][k] = state["down"][k] = state["visits"][k] = state["run"][k] = state["known"][k] = np.uint16(0)
    state["mode"][k] = state["traits"][k] = state["hour"][k] = state["latch"][k] = state["flag_count"][k] = np.uint8(0)
    for b in range(state["stored"].shape[1]):
        state["stored"][k, b] = state["expected"][k, b] = np.float32(0.0)
        state["factor"][k, b] = np.uint8(0)
    for b in range(state["levels"].shape[2]):
        state["levels"][k, 0, b] = np.uint16(0)
    state["low"][k, 0] = state["high"][k, 0] = np.float32(0.0)
    state["distance"][k] = state["today"][k] = state["furthest"][k] = np.float32(0.0)


@kernel(int64(STORE, int64, int64, float64), borrows=True)
def new_light(store: Store, r: int, feature: int, t: float) -> int:
    """Handle of a new light channel for a device's feature; 0: all channels belong to active devices."""
    gates, light, _, light_room, _ = store
    k = take_place(light, light_room)
    if k < 0:
        idle = find_idle(light, light_room, t) if light.shape[0] > 0 else -1
        if idle < 0 or idle == r:
            return 0
        free_channels(store, idle)
        k = take_place(light, light_room)
        if k < 0:
            return 0
    clear_light(light, k)
    light["owner"][k], light["feature"][k] = np.int32(r), np.uint8(feature)
    light["following"][k] = gates["first"][r]
    gates["first"][r] = np.int32(k + 1)
    return int(k + 1)


@kernel(void(STORE, int64, int64, int64), borrows=True)
def replace_handle(store: Store, r: int, old: int, new: int) -> None:
    """Replace ``old`` by ``new`` in the list of row ``r``; the caller sets the successor of ``new``."""
    gates, light, full, _, _ = store
    if np.int64(gates["first"][r]) == old:
        gates["first"][r] = np.int32(new)
        return
    handle = np.int64(gates["first"][r])
    while handle != 0:
        following = np.int64(light["following"][handle - 1] if handle > 0 else full["following"][-handle - 1])
        if following == old:
            if handle > 0:
                light["following"][handle - 1] = np.int32(new)
            else:
                full["following"][-handle - 1] = np.int32(new)
            return
        handle = following


@kernel(void(STORE, int64, int64), borrows=True)
def drop_channel(store: Store, r: int, feature: int) -> None:
    """Free the channel of one feature, if it has one."""
    _, light, full, light_room, full_room = store
    handle = find_channel(store, r, feature)
    if handle > 0:
        replace_handle(store, r, handle, np.int64(light["following"][handle - 1]))
        free_place(light, light_room, handle - 1)
    elif handle < 0:
        replace_handle(store, r, handle, np.int64(full["following"][-handle - 1]))
        free_place(full, full_room, -handle - 1)
