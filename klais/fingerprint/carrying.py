"""Carry over names and types from the previous model, including types without samples this time.

Devices that send four times an hour give enough samples only after hours. A worker that was restarted since must not
forget their type.
"""

import numpy as np
import numpy.typing as npt

from klais.core.fingerprint.record import MAX_TYPES, DeviceTypes

TYPE_DISTANCE = 1.0  # distance of two types: one field that all devices of one type send and none of the other
INTERVAL_SCALE, SIZE_SCALE = 1.2, 0.5  # differences of ln(interval) and ln(size) with the same weight


def vectors(types: DeviceTypes) -> npt.NDArray[np.float64]:
    """A point for each type, such that ``TYPE_DISTANCE`` is the distance of two types."""
    return np.column_stack([types.rates, types.interval[:, 0] / INTERVAL_SCALE, types.size[:, 0] / SIZE_SCALE])


def same_as(types: DeviceTypes, before: DeviceTypes) -> list[int]:
    """For each of ``types`` the matching one of ``before``, -1 = none; each is matched at most once."""
    distance = np.sqrt(((vectors(types)[:, None] - vectors(before)[None]) ** 2).sum(axis=2))
    out = [-1] * len(types.names)
    for at in np.argsort(distance, axis=None, kind="stable").tolist():
        mine, old = divmod(at, len(before.names))
        if distance[mine, old] >= TYPE_DISTANCE:
            break
        if out[mine] < 0 and old not in out:
            out[mine] = old
    return out


def carry_over(types: DeviceTypes, before: DeviceTypes) -> tuple[DeviceTypes, int]:
    """``types`` with their previous names, followed by the types of ``before`` that are not among them, up to
    MAX_TYPES; and the number of those.

    The names of ``types`` must differ from those of ``before``, except where two types are the same.
    """
    if not before.names:
        return types, 0
    same = same_as(types, before)
    near = np.sqrt(((vectors(before)[:, None] - vectors(types)[None]) ** 2).sum(axis=2)).min(axis=1) < TYPE_DISTANCE
    room = MAX_TYPES - len(types.names)
    kept = [k for k in range(len(before.names)) if k not in same and not near[k]][:room]
    names = [before.names[old] if old >= 0 else name for name, old in zip(types.names, same, strict=True)]
    parts = [
        np.concatenate([getattr(types, name), getattr(before, name)[kept]]) for name in ("rates", "interval", "size")
    ]
    names += [before.names[k] for k in kept]
    return DeviceTypes(types.version, tuple(names), parts[0], parts[1], parts[2], types.threshold), len(kept)
