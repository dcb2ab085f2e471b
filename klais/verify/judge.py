"""The judge: checks that the landed frames are the accepted ones, each once, in order per device. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import Reason
from klais.jit.kernel import I64, U8, kernel, void
from klais.sim.columns import FrameColumns

EXAMPLES = 5
REPEAT_REASONS = frozenset({Reason.DUPLICATE.label, Reason.REPEATED_BATCH.label})


@kernel(void(I64, I64, I64, I64, I64, I64, U8))
def mark_out_of_order(
    group: npt.NDArray[np.int64],
    device: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    used: npt.NDArray[np.int64],
    bad: npt.NDArray[np.uint8],
) -> None:
    """Match n landed frames with the accepted ones, in order per device; ``bad`` [n] = 1 for frames without a match.

    ``group`` [n]: number of the set of equal frames; ``places[first[g] : first[g + 1]]``: their ascending places among
    the accepted frames; ``device`` [n]; ``last`` [devices], initially -1: place of the device's last match; ``used``
    [groups], initially 0: landed so far. The earliest place ahead leaves most room for the next frames, so that no
    frame is marked unnecessarily. Frames beyond the accepted ones are doubled or invented, not out of order.
    """
    for i in range(group.shape[0]):
        g, d = group[i], device[i]
        bad[i] = 0
        used[g] += 1
        if used[g] > first[g + 1] - first[g]:
            continue
        low, high = first[g], first[g + 1]
        while low < high:  # binary search: a device may send the same frame again and again
            middle = (low + high) // 2
            if places[middle] <= last[d]:
                low = middle + 1
            else:
                high = middle
        if low == first[g + 1]:
            bad[i] = 1
        else:
            last[d] = places[low]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the judge, in frames; ``ok`` if every fault is 0.

    ``missing``: accepted, and neither landed, nor dead, nor counted as dropped. ``doubled``: landed or dead more often
    than accepted. ``repeated``: accepted several times (the same bytes) and landed several times instead of once.
    ``invented``: landed or dead, never accepted. ``out_of_order``: landed after a later frame of its device.
    ``wrong_duplicates``: dropped as duplicates beyond the number of repeats. ``overcounted``: counted as dropped beyond
    the missing frames. ``examples`` names some frames for each fault.
    """

    accepted: int
    landed: int
    dead: int
    dropped: int
    missing: int
    doubled: int
    repeated: int
    invented: int
    out_of_order: int
    wrong_duplicates: int
    overcounted: int
    examples: dict[str, list[str]] = field(default_factory=dict)

    FAULTS = ("missing", "doubled", "repeated", "invented", "out_of_order", "wrong_duplicates", "overcounted")

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not any(getattr(self, name) for name in self.FAULTS)

    def public(self) -> dict[str, Any]:
        """As a JSON object."""
        sizes = {name: getattr(self, name) for name in ("accepted", "landed", "dead", "dropped", *self.FAULTS)}
        return {"ok": self.ok, **sizes, "examples": self.examples}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.public().items() if name != "examples") + "".join(
            f"\n  {name}: {'; '.join(frames)}" for name, frames in self.examples.items()
        )


def judge(
    accepted: FrameColumns, landed: FrameColumns, dead: FrameColumns, dropped_by_reason: Mapping[str, int]
) -> Verdict:
    """Compare the accepted frames with their destinations.

    Parameters
    ----------
    accepted : FrameColumns
        Every frame in the staging topic, in order per device.
    landed : FrameColumns
        Every frame rebuilt from a clean record, in order per device.
    dead : FrameColumns
        Dead letters of the lanes, without those of the edge, which never reached the staging topic.
    dropped_by_reason : mapping
        Reason label to the number of accepted frames that a lane dropped and that are *not* in the dead letters.
        Includes malformed frames above the rate of dead letters.
    """
    groups = group_hashes(accepted, landed, dead)
    was, got, gone = (np.bincount(part, minlength=groups.count) for part in groups.parts)
    there = got + gone
    excess, lacking = np.maximum(there - was, 0), np.maximum(was - there, 0)
    repeats_landed = np.maximum(np.minimum(got, was) - 1, 0)
    lost = (was > 0) & (there == 0)
    lacking_repeats = int(lacking.sum() - lost.sum())
    dropped = sum(dropped_by_reason.values())
    as_repeats = sum(count for reason, count in dropped_by_reason.items() if reason in REPEAT_REASONS)
    behind = out_of_order(accepted, landed, groups.parts[0], groups.parts[1], groups.count)
    missing = max(0, int(lacking.sum()) - dropped)
    seen = FrameIndex(accepted, landed, dead, groups)
    named = {
        "missing": seen.of_groups(lost if missing else lost & False),
        "doubled": seen.of_groups((was > 0) & (excess > 0)),
        "repeated": seen.of_groups(repeats_landed > 0),
        "invented": seen.of_groups((was == 0) & (there > 0)),
        "out_of_order": [landed.name(int(i)) for i in np.flatnonzero(behind)[:EXAMPLES]],
    }
    return Verdict(
        accepted=accepted.count,
        landed=landed.count,
        dead=dead.count,
        dropped=dropped,
        missing=missing,
        doubled=int(excess[was > 0].sum()),
        repeated=int(repeats_landed.sum()),
        invented=int(there[was == 0].sum()),
        out_of_order=int(behind.sum()),
        wrong_duplicates=max(0, as_repeats - lacking_repeats),
        overcounted=max(0, dropped - int(lacking.sum())),
        examples={name: frames for name, frames in named.items() if frames},
    )


@dataclass(frozen=True, slots=True)
class Groups:
    """Equal frames: ``parts`` gives each part's group numbers (int64), ``count`` is the number of groups."""

    parts: tuple[npt.NDArray[np.int64], ...]
    count: int


def group_hashes(*parts: FrameColumns) -> Groups:
    """Number the distinct frames (by hash) of all parts."""
    values, inverse = np.unique(np.concatenate([part.hashes for part in parts]), return_inverse=True)
    ends = np.cumsum([part.count for part in parts])[:-1]
    return Groups(tuple(np.split(inverse.astype(np.int64), ends)), len(values))


class FrameIndex:
    """Finds an example frame of a group."""

    def __init__(self, accepted: FrameColumns, landed: FrameColumns, dead: FrameColumns, groups: Groups) -> None:
        self._parts = list(zip((accepted, landed, dead), groups.parts, strict=True))

    def of_groups(self, which: npt.NDArray[np.bool_]) -> list[str]:
        """One frame each of the first EXAMPLES groups where ``which`` [groups] is true."""
        names = []
        for group in np.flatnonzero(which)[:EXAMPLES]:
            for columns, numbers in self._parts:
                found = np.flatnonzero(numbers == group)
                if len(found):
                    names.append(columns.name(int(found[0])))
                    break
        return names


def out_of_order(
    accepted: FrameColumns,
    landed: FrameColumns,
    accepted_group: npt.NDArray[np.int64],
    landed_group: npt.NDArray[np.int64],
    groups: int,
) -> npt.NDArray[np.uint8]:
    """1 for each landed frame that cannot be matched with the accepted ones in its device's order, uint8 [landed]."""
    places = np.argsort(accepted_group, kind="stable").astype(np.int64)
    first = np.concatenate(([0], np.cumsum(np.bincount(accepted_group, minlength=groups)))).astype(np.int64)
    devices, device = np.unique(landed.device_keys(), return_inverse=True)
    bad = np.zeros(landed.count, np.uint8)
    last = np.full(len(devices), -1, np.int64)
    used = np.zeros(groups, np.int64)
    mark_out_of_order(np.ascontiguousarray(landed_group), device.astype(np.int64), first, places, last, used, bad)
    return bad
