"""Promotion from the light to the full tier: a flagged or watched channel keeps its learned state."""

import numpy as np

from klais.core.anomaly.arena import STORE, Store, clear_light, free_place, replace_handle, take_place
from klais.core.anomaly.channel import (
    BLOCKS,
    FULLS,
    HOURS,
    HOURS_LIGHT,
    LEVELS,
    LIGHTS,
    VIEWS,
    Channels,
)
from klais.core.anomaly.full import forget_full
from klais.jit.kernel import int64, kernel, void

# For each view of the full tier: the indices of its mean, smoothed input and w in ``stored`` of the light channel, from
# the most similar view; -1 = none.
_MEAN = np.array([-1, -1, 4, 6, 9, 12, -1, -1, 14])
_SLOW = np.array([1, 1, -1, -1, -1, -1, -1, -1, -1])
_FAST = np.array([0, 0, 3, -1, 8, 11, -1, -1, -1])
_USUAL = np.array([2, 2, 5, 7, 10, 13, 7, 15, 15])


@kernel(void(LIGHTS, int64, FULLS, int64), borrows=True)
def copy_common(light: Channels, k: int, full: Channels, f: int) -> None:
    """Copy the fields that both tiers have, and the hours of the day."""
    full["t"][f], full["x"][f], full["began_s"][f] = light["t"][k], light["x"][k], light["began_s"][k]
    full["rows"][f], full["spacing"][f], full["size"][f] = light["rows"][k], light["spacing"][k], light["size"][k]
    full["quantum"][f], full["level"][f] = light["quantum"][k], light["level"][k]
    full["run_size"][f], full["longest"][f] = light["run_size"][k], light["longest"][k]
    full["recent"][f], full["peak"][f] = light["recent"][k], light["peak"][k]
    full["up"][f], full["down"][f], full["run"][f] = light["up"][k], light["down"][k], light["run"][k]
    full["mode"][f], full["traits"][f] = light["mode"][k], light["traits"][k]
    full["feature"][f], full["flag_count"][f], full["owner"][f] = (
        light["feature"][k],
        light["flag_count"][k],
        light["owner"][k],
    )
    full["low"][f, 0], full["high"][f, 0] = light["low"][k, 0], light["high"][k, 0]
    for b in range(LEVELS):
        full["levels"][f, 0, b] = light["levels"][k, 0, b]
    for b in range(HOURS):
        at = b * HOURS_LIGHT // HOURS
        if np.int64(light["known"][k]) >> at & 1 == 1:
            full["known"][f, b], full["expected"][f, b] = np.uint8(1), light["expected"][k, at]


@kernel(int64(STORE, int64), borrows=True)
def promote(store: Store, handle: int) -> int:
    """Replace the light channel ``handle`` by a full one; returns its handle, or ``handle`` if there is no room."""
    _, light, full, light_room, full_room = store
    f = take_place(full, full_room)
    if f < 0:
        return handle
    k = handle - 1
    forget_full(full, f)
    full["place"][f] = full["latch"][f] = np.uint8(0)
    full["low"][f, 1] = full["high"][f, 1] = np.float32(0.0)
    for b in range(BLOCKS):
        full["ring"][f, b] = light["recent"][k]
    copy_common(light, k, full, f)
    stored = light["stored"]
    for j in range(VIEWS):
        full["mean"][f, j] = stored[k, _MEAN[j]] if _MEAN[j] >= 0 else np.float32(0.0)
        full["slow"][f, j] = stored[k, _SLOW[j]] if _SLOW[j] >= 0 else np.float32(0.0)
        full["fast"][f, j] = stored[k, _FAST[j]] if _FAST[j] >= 0 else np.float32(0.0)
        full["usual"][f, j] = stored[k, _USUAL[j]]
        for b in range(HOURS):
            eighths = np.float64(light["factor"][k, b * HOURS_LIGHT // HOURS])
            full["usual_by_hour"][f, j, b] = np.float32(np.float64(stored[k, _USUAL[j]]) * 2.0 ** (eighths * 0.0625))
    full["following"][f] = light["following"][k]
    replace_handle(store, np.int64(light["owner"][k]), handle, -(f + 1))
    clear_light(light, k)
    free_place(light, light_room, k)
    return int(-(f + 1))
