"""Rules for single devices in the pinned map ``rules``: block and allow lists with expiry times, separate limits."""

import errno
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_SIZE
from klais.errors import RulesFull
from klais.xdp import bpf
from klais.xdp.device_id import device_keys, padded, readable
from klais.xdp.layout import DEVICE_COST, FOREVER, LIMIT, MARK_WORDS, RULE, RULES
from klais.xdp.limits import from_units, to_units

NO_LIMIT = np.zeros((), LIMIT)
_ID = np.dtype(("u1", (ID_SIZE,)))  # the key of the map


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule in force for one device now. ``None`` = nothing; ``inf`` seconds = until it is removed.

    ``dropped`` counts the packets that its block dropped since it began; 0 without a block. It can miss those of the
    microseconds in which the rule is rewritten: a renewed block, a new limit.
    """

    device_id: str
    blocked_for_s: float | None
    allowed_for_s: float | None
    rate_per_s: float | None
    burst: float | None
    dropped: int = 0


class Rules:
    """Reads and changes the map; ``lock()`` keeps other processes from changing the same rule at the same time.

    Parameters
    ----------
    fd : int
        The map ``rules``.
    marks : uint64 [MARK_WORDS], shared with the kernel
        Shows the filter which devices may have a rule. A mark is set before its rule and cleared only by
        :meth:`sweep`: a superfluous mark costs a packet some ns, a missing one would hide the rule.
    multipliers : uint64 [4]
        As in :func:`klais.xdp.device_id.device_keys`.
    lock : callable
        Locks out other writers.
    """

    def __init__(
        self,
        fd: int,
        marks: npt.NDArray[np.uint64],
        multipliers: npt.NDArray[np.uint64],
        lock: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._fd, self._marks, self._multipliers, self._lock = fd, marks, multipliers, lock

    def change(self, device_id: bytes | str, **parts: Any) -> bool:
        """Set parts of a device's rule (fields of ``RULE``), keep the others; an empty rule is removed.

        Returns
        -------
        bool
            Whether the device had a rule in force before.
        """
        ids, now_ns = _columns([device_id]), time.monotonic_ns()
        with self._lock():
            rule = np.zeros((), RULE)
            there = bpf.lookup(self._fd, ids, rule) and bool(in_force(rule, now_ns))
            if rule["block_until_ns"] <= now_ns:
                rule["dropped"] = 0  # of a block that ended: the next one counts from 0
            for name, value in parts.items():
                rule[name] = value
            if in_force(rule, now_ns):
                self._write(ids, rule.reshape(1))
            else:
                bpf.delete(self._fd, ids)
        return there

    def set_limits(self, device_ids: Sequence[bytes | str], rate_per_s: float, burst: float) -> None:
        """Set one limit for many devices, in one batch call; other parts of their rules are kept."""
        limit, now_ns = to_units(rate_per_s, burst, DEVICE_COST), time.monotonic_ns()
        if math.isinf(rate_per_s):  # in a rule "no limit" would mean "not set": use a rate that is never reached
            limit = to_units(1e9, math.inf, DEVICE_COST)
        ids = _columns(device_ids)
        values = np.zeros(len(ids), RULE)
        with self._lock():
            for i in np.flatnonzero(self._marked(ids)):  # the others have no rule yet
                bpf.lookup(self._fd, ids[i], values[i : i + 1])
            for part in ("block_until_ns", "allow_until_ns"):
                values[part][values[part] <= now_ns] = 0
            values["limit"] = limit
            self._write(ids, values)

    def sweep(self) -> int:
        """Remove completely expired rules; returns their number. The filter ignores them, they only take space."""
        now_ns = time.monotonic_ns()
        with self._lock():
            return self._sweep(now_ns)

    def all(self) -> list[Rule]:
        """All rules in force now, by device id."""
        now_ns = time.monotonic_ns()
        rows = (_public(raw_id, rule, now_ns) for raw_id, rule in self._rows(now_ns))
        return sorted(rows, key=lambda rule: rule.device_id)

    def blocks(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
        """Blocked devices as columns: ids (S16 [n]), seconds until each block ends (inf = until it is removed), and
        the packets that it dropped."""
        now_ns, ids, left_s, dropped = time.monotonic_ns(), [np.zeros(0, "S16")], [np.zeros(0)], [np.zeros(0, "u8")]
        for keys, values in bpf.batches(self._fd, _ID, RULE, 4096):
            until, kept = values["block_until_ns"], values["block_until_ns"] > now_ns
            ids.append(keys[kept].view("S16").ravel())
            left_s.append(np.where(until == FOREVER, np.inf, (until - np.uint64(now_ns)) / 1e9)[kept])
            dropped.append(values["dropped"][kept])
        return np.concatenate(ids), np.concatenate(left_s), np.concatenate(dropped)

    def _rows(self, now_ns: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]]:
        for ids, values in bpf.batches(self._fd, _ID, RULE, 4096):
            good = in_force(values, now_ns)
            yield from zip(ids[good], values[good], strict=True)

    def _write(self, ids: npt.NDArray[np.uint8], values: npt.NDArray[np.void]) -> None:
        for last_try in (False, True):
            self._mark(self._marks, ids)
            try:
                bpf.update_many(self._fd, ids, values)
                return
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                if last_try or not self._sweep(time.monotonic_ns()):
                    text = f"{RULES:,} devices have their own rule, the maximum number"
                    raise RulesFull(
                        f"{text}: remove some (`klais xdp unblock`, `klais xdp rate DEVICE --clear`)"
                    ) from None

    def _sweep(self, now_ns: int) -> int:
        marks, old = np.zeros_like(self._marks), []
        for ids, values in bpf.batches(self._fd, _ID, RULE, 4096):
            good = in_force(values, now_ns)
            self._mark(marks, ids[good])
            old += list(ids[~good])
        gone = sum(bpf.delete(self._fd, raw_id) for raw_id in old)
        self._marks[:] = marks
        return gone

    def _marked(self, ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        words, bits = marks_of(device_keys(ids, self._multipliers))
        return np.asarray(self._marks[words] & bits, bool)

    def _mark(self, marks: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint8]) -> None:
        words, bits = marks_of(device_keys(ids, self._multipliers))
        np.bitwise_or.at(marks, words, bits)


def _columns(device_ids: Sequence[bytes | str]) -> npt.NDArray[np.uint8]:
    """The padded ids: uint8 [n, 16]."""
    return np.frombuffer(b"".join(padded(device_id) for device_id in device_ids), np.uint8).reshape(-1, ID_SIZE)


def marks_of(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
    """Word and bit of each key's mark (``klais_is_marked`` in ``bpf/device.h``)."""
    words = (keys >> np.uint64(52)) % np.uint64(MARK_WORDS)
    return words.astype(np.intp), np.uint64(1) << ((keys >> np.uint64(46)) & np.uint64(63))


def until_ns(ttl_s: float | None) -> int:
    """End of a rule that lasts ``ttl_s`` seconds from now; None = no end."""
    if ttl_s is None:
        return FOREVER
    if not ttl_s > 0:
        raise ValueError(f"a time to live must be more than 0 s, not {ttl_s}")
    return min(time.monotonic_ns() + int(ttl_s * 1e9), FOREVER)


def in_force(rules: npt.NDArray[np.void], now_ns: int) -> npt.NDArray[np.bool_]:
    """Whether any part of each rule is in force at ``now_ns`` (``RULE [n]`` or one)."""
    limited: npt.NDArray[np.bool_] = rules["limit"]["cap_units"] > 0
    return limited | (rules["block_until_ns"] > now_ns) | (rules["allow_until_ns"] > now_ns)


def _public(raw_id: npt.NDArray[np.uint8], rule: npt.NDArray[np.void], now_ns: int) -> Rule:
    def left_s(at_ns: int) -> float | None:
        if at_ns <= now_ns:
            return None
        return math.inf if at_ns == FOREVER else (at_ns - now_ns) / 1e9

    limited = bool(rule["limit"]["cap_units"])
    blocked = int(rule["block_until_ns"]) > now_ns
    rate, burst = from_units(rule["limit"], DEVICE_COST)
    return Rule(
        device_id=readable(raw_id.tobytes()),
        blocked_for_s=left_s(int(rule["block_until_ns"])),
        allowed_for_s=left_s(int(rule["allow_until_ns"])),
        rate_per_s=rate if limited else None,
        burst=burst if limited else None,
        dropped=int(rule["dropped"]) if blocked else 0,
    )
