"""Rules of single devices in the pinned map ``rules``: block and allow lists with expiry times, limits of their own."""

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
from klais.errors import KlaisError
from klais.xdp import bpf
from klais.xdp.device_id import device_key, device_keys, padded, readable
from klais.xdp.layout import DEVICE_COST, FOREVER, LIMIT, MARK_WORDS, RULE, RULES
from klais.xdp.limits import from_units, to_units

NO_LIMIT = np.zeros((), LIMIT)


class RulesFull(KlaisError):
    """The map of rules holds as many devices as it can, none of them expired."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is in force for one device now. ``None`` = nothing; ``inf`` seconds = until it is taken back."""

    device_id: str
    blocked_for_s: float | None
    allowed_for_s: float | None
    rate_per_s: float | None
    burst: float | None


class Rules:
    """Reads and changes the map; ``lock()`` keeps other processes from changing the same rule meanwhile.

    ``marks`` (uint64 [MARK_WORDS], shared with the kernel) tells the filter which keys may have a rule: set before the
    rule is, taken back only by :meth:`sweep`. One too many costs a packet some ns, one too few would hide the rule.
    """

    def __init__(self, fd: int, marks: npt.NDArray[np.uint64], lock: Callable[[], AbstractContextManager[None]]) -> None:
        self._fd, self._marks, self._lock = fd, marks, lock

    def change(self, device_id: bytes | str, **parts: Any) -> bool:
        """Set parts of a device's rule (fields of ``RULE``), keep the others; a rule that says nothing is removed.

        Returns
        -------
        bool
            Whether the device had a rule in force before.
        """
        key, now_ns = np.array([device_key(device_id)], np.uint64), time.monotonic_ns()
        with self._lock():
            rule = np.zeros((), RULE)
            there = bpf.lookup(self._fd, key, rule) and bool(in_force(rule, now_ns))
            rule["id"] = np.frombuffer(padded(device_id), np.uint8)
            for name, value in parts.items():
                rule[name] = value
            if in_force(rule, now_ns):
                self._write(key, rule.reshape(1))
            else:
                bpf.delete(self._fd, key)
        return there

    def set_limits(self, device_ids: Sequence[bytes | str], rate_per_s: float, burst: float) -> None:
        """One limit for many devices, in one batch call; their other parts are kept."""
        limit, now_ns = to_units(rate_per_s, burst, DEVICE_COST), time.monotonic_ns()
        if math.isinf(rate_per_s):  # in a rule "no limit" would say nothing: so high that it never bites
            limit = to_units(1e9, math.inf, DEVICE_COST)
        ids = np.frombuffer(b"".join(padded(device_id) for device_id in device_ids), np.uint8).reshape(-1, ID_SIZE)
        keys, values = device_keys(ids), np.zeros(len(ids), RULE)
        with self._lock():
            for i in np.flatnonzero(self._marked(keys)):  # the others have no rule yet
                bpf.lookup(self._fd, keys[i : i + 1], values[i : i + 1])
            for part in ("block_until_ns", "allow_until_ns"):
                values[part][values[part] <= now_ns] = 0
            values["id"], values["limit"] = ids, limit
            self._write(keys, values)

    def sweep(self) -> int:
        """Remove rules that have expired altogether; how many. The filter ignores them, they only take room."""
        now_ns = time.monotonic_ns()
        with self._lock():
            return self._sweep(now_ns)

    def all(self) -> list[Rule]:
        """Every rule that is in force now, by device id."""
        now_ns = time.monotonic_ns()
        return sorted((_public(rule, now_ns) for rule in self._rows(now_ns)), key=lambda rule: rule.device_id)

    def _rows(self, now_ns: int) -> Iterator[npt.NDArray[np.void]]:
        for _, values in bpf.batches(self._fd, np.uint64, RULE, 4096):
            yield from values[in_force(values, now_ns)]

    def _write(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.void]) -> None:
        for last_try in (False, True):
            self._mark(self._marks, keys)
            try:
                bpf.update_many(self._fd, keys, values)
                return
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                if last_try or not self._sweep(time.monotonic_ns()):
                    text = f"{RULES:,} devices have a rule of their own, as many as there is room for"
                    raise RulesFull(f"{text}: take some back (`klais xdp unblock`, `klais xdp rate DEVICE --clear`)") from None

    def _sweep(self, now_ns: int) -> int:
        marks, old = np.zeros_like(self._marks), []
        for keys, values in bpf.batches(self._fd, np.uint64, RULE, 4096):
            good = in_force(values, now_ns)
            self._mark(marks, keys[good])
            old += keys[~good].tolist()
        gone = sum(bpf.delete(self._fd, np.array([key], np.uint64)) for key in old)
        self._marks[:] = marks
        return gone

    def _marked(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        words, bits = marks_of(keys)
        return np.asarray(self._marks[words] & bits, bool)

    @staticmethod
    def _mark(marks: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> None:
        words, bits = marks_of(keys)
        np.bitwise_or.at(marks, words, bits)


def marks_of(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
    """Word and bit of each key's mark (``klais_is_marked`` in ``bpf/device.h``)."""
    words = (keys >> np.uint64(12)) % np.uint64(MARK_WORDS)
    return words.astype(np.intp), np.uint64(1) << ((keys >> np.uint64(6)) & np.uint64(63))


def until_ns(ttl_s: float | None) -> int:
    """When a rule of ``ttl_s`` seconds from now ends; None = never."""
    if ttl_s is None:
        return FOREVER
    if not ttl_s > 0:
        raise ValueError(f"a time to live must be more than 0 s, not {ttl_s}")
    return min(time.monotonic_ns() + int(ttl_s * 1e9), FOREVER)


def in_force(rules: npt.NDArray[np.void], now_ns: int) -> npt.NDArray[np.bool_]:
    """Whether any part of each rule is in force at ``now_ns`` (``RULE [n]`` or one)."""
    limited: npt.NDArray[np.bool_] = rules["limit"]["cap_units"] > 0
    return limited | (rules["block_until_ns"] > now_ns) | (rules["allow_until_ns"] > now_ns)


def _public(rule: npt.NDArray[np.void], now_ns: int) -> Rule:
    def left_s(at_ns: int) -> float | None:
        if at_ns <= now_ns:
            return None
        return math.inf if at_ns == FOREVER else (at_ns - now_ns) / 1e9

    limited = bool(rule["limit"]["cap_units"])
    rate, burst = from_units(rule["limit"], DEVICE_COST)
    return Rule(
        device_id=readable(bytes(rule["id"])),
        blocked_for_s=left_s(int(rule["block_until_ns"])),
        allowed_for_s=left_s(int(rule["allow_until_ns"])),
        rate_per_s=rate if limited else None,
        burst=burst if limited else None,
    )
