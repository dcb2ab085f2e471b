"""The devices of this worker that lose most frames above their own rate, from the growth of a column of the rows.

A lane that catches up, for example on a spool that an edge replays, takes many seconds of frames in one. So the time
that counts is that between the receive times of the newest frames, if it is longer than that between the samples.
"""

import time
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klais.core.lane.state import LaneState
from klais.worker.rows import Part, last_seen_ns

MAX_NAMED = 10  # devices named in one record
# A device known for so long is probably genuine, and a flood in its name forged. Its own rate limits it.
KNOWN_S = 86_400


class TopOffenders:
    """Sampled once a second in a thread; keeps one number per device (4 bytes).

    Parameters
    ----------
    spare_known : bool
        Leave out devices that their lane has known for ``KNOWN_S``.
    wall_s : callable
        Seconds since the epoch.
    """

    def __init__(self, spare_known: bool = True, wall_s: Callable[[], float] = time.time) -> None:
        self._spare_known, self._wall_s = spare_known, wall_s
        # Of each partition the owner of the rows, the column, and the newest receive time (ns since the epoch). An `id`
        # of the owner may be given again.
        self._before: dict[int, tuple[weakref.ref[LaneState], npt.NDArray[np.uint32], int]] = {}
        self._at_s = 0.0

    def sample(self, parts: list[Part], now_s: float) -> dict[str, float]:
        """Device -> frames/s dropped above its rate since the last sample, for the ten highest."""
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        before, self._before = self._before, {}
        found: list[tuple[float, str]] = []
        for part in parts:
            now, newest_ns = part.column("device_rate").copy(), int(last_seen_ns(part).max(initial=0))
            self._before[part.partition] = (weakref.ref(part.state), now, newest_ns)
            owner, old, old_ns = before.get(part.partition, (None, now, newest_ns))
            if owner is None or owner() is not part.state or elapsed_s <= 0.0:
                continue  # the lane has moved here: its counters grew before this second
            grown = now.copy()
            both = min(len(old), len(grown))
            grown[:both] -= np.minimum(old[:both], grown[:both])  # a lower count: another device has the row now
            if self._spare_known:
                created_s = part.column("created_s")[: len(grown)]
                grown[: len(created_s)][created_s.astype(np.int64) < self._wall_s() - KNOWN_S] = 0
            top = (
                np.argpartition(grown, -min(MAX_NAMED, len(grown)))[-MAX_NAMED:]
                if len(grown)
                else np.zeros(0, np.int64)
            )
            for row in top[grown[top] > 0].tolist():
                name = part.rows["id"][row].tobytes()[: int(part.rows["id_size"][row])].decode(errors="replace")
                found.append((int(grown[row]) / max(elapsed_s, (newest_ns - old_ns) * 1e-9), name))
        return {name: round(per_s, 1) for per_s, name in sorted(found, reverse=True)[:MAX_NAMED]}
