"""Repeat offenders: devices that stay far above their rate, and the duration of each block (pure)."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MANY_PER_S = 100.0  # frames/s dropped above its rate: a flood, not a misconfigured device
WINDOW, OFTEN = 10, 5  # above it in OFTEN of the last WINDOW updates (one a second)
FIRST_S, MAX_BLOCK_S = 60.0, 3600.0  # duration of a block: doubled each time, up to an hour
FORGET_S = 7200.0
MAX_OFFENDERS = 10_000  # an attacker chooses ids: beyond this number, only the latest offenders are kept
MAX_BLOCKS = 1000  # blocks of the controller that klais_control holds at once


@dataclass(slots=True)
class _Record:
    history: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    blocks: int = 0
    blocked_until_s: float = 0.0
    seen_s: float = 0.0


class Offenders:
    """Remembers offenders; call ``update`` once a second.

    Examples
    --------
    >>> offenders = Offenders()
    >>> [offenders.update(float(second), {"dev-7": 500.0}) for second in range(5)]
    [{}, {}, {}, {}, {'dev-7': 60.0}]
    """

    def __init__(self) -> None:
        self._known: dict[str, _Record] = {}

    def update(self, now_s: float, dropped_per_s: Mapping[str, float]) -> dict[str, float]:
        """Devices to block now, with the duration (s).

        Parameters
        ----------
        now_s : float
            Monotonic.
        dropped_per_s : mapping of str to float
            Device -> frames/s dropped above its own rate.
        """
        for name, per_s in dropped_per_s.items():
            if per_s >= MANY_PER_S and name not in self._known:
                self._known[name] = _Record()
        out = {}
        for name, record in self._known.items():
            offends = dropped_per_s.get(name, 0.0) >= MANY_PER_S
            record.history.append(offends)
            record.seen_s = now_s if offends else record.seen_s
            if now_s >= record.blocked_until_s and sum(record.history) >= OFTEN:
                for_s = min(MAX_BLOCK_S, FIRST_S * 2.0**record.blocks)
                record.blocks, record.blocked_until_s = record.blocks + 1, now_s + for_s
                record.history.clear()
                out[name] = for_s
        self._forget(now_s)
        return out

    def _forget(self, now_s: float) -> None:
        known = {n: r for n, r in self._known.items() if now_s - max(r.seen_s, r.blocked_until_s) < FORGET_S}
        if len(known) > MAX_OFFENDERS:
            newest = sorted(known, key=lambda name: max(known[name].seen_s, known[name].blocked_until_s))[
                -MAX_OFFENDERS:
            ]
            known = {name: known[name] for name in newest}
        self._known = known


def own_blocks(records: Mapping[str, Mapping[str, Any]], now_ms: int) -> tuple[int, list[str]]:
    """The controller's blocks on ``klais_control``: the number in force, and the scopes of expired ones.

    A record that holds other fields as well is also an operator's, and stays.

    Examples
    --------
    >>> block = {"block": True, "until_ms": 10, "author": "controller"}
    >>> own_blocks({"device/a": block, "device/b": block | {"until_ms": 99}, "device/c": block | {"rate": 5}}, 50)
    (1, ['device/a'])
    """
    in_force, over = 0, []
    for scope, record in records.items():
        if record.get("author") != "controller" or record.get("block") is not True or record.get("until_ms") is None:
            continue
        if record["until_ms"] > now_ms:
            in_force += 1
        elif not any(record.get(name) is not None for name in ("rate", "burst", "unblock", "forget_ms")):
            over.append(scope)
    return in_force, over
