"""Frames and batches for lane tests, and a lane's twin in plain Python written from the definition."""

from collections import deque

import numpy as np

from klais.core.lane.journal import Limits
from klais.core.lane.step import Bounds
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason, encode_frame

T0_NS = 1_700_000_000_000_000_000


def limits(
    rate=1e9, burst=1e9, device_rate=1000.0, device_burst=5000.0, dead_letters=1000, flags=1000, z=6.0, samples=30
) -> Limits:
    """Limits of one step, wide open unless said."""
    return Limits(rate, burst, device_rate, device_burst, dead_letters, flags, z, samples, 500)


def bounds(queue_limit=1_000_000, device_limit=1_000_000, blocked=()) -> Bounds:
    """Bounds of a lane."""
    return Bounds(queue_limit, device_limit, tuple(blocked))


def frames(*parts: tuple[str, int] | tuple[str, int, bytes]) -> list[bytes]:
    """Frames from (device, sequence[, payload])."""
    return [encode_frame(p[0], p[1], p[2] if len(p) > 2 else b'{"t":%d}' % p[1]) for p in parts]


def batch(some: list[bytes], number: int = 0, at_ns: int = T0_NS, boot: int = 1, edge: int = 1) -> bytes:
    """A frame batch with offsets 0."""
    return encode_batch(some, at_ns, edge, boot, number, offsets=np.zeros(len(some), np.uint32))


class Window:
    """Sequence window of one device: the last 32 numbers with their frames, from the words of the definition."""

    def __init__(self) -> None:
        self.top: int | None = None
        self.seen: dict[int, bytes] = {}
        self.gaps = self.late = self.resets = 0

    def observe(self, sequence: int, frame: bytes) -> str:
        if self.top is None:
            self._restart(sequence, frame)
            return "in_order"
        ahead = (sequence - self.top) % 2**32
        behind = (self.top - sequence) % 2**32
        if 0 < ahead <= 2**20:
            self.gaps += ahead - 1
            self.top = sequence
            self.seen[sequence] = frame
            self.seen = {s: f for s, f in self.seen.items() if (sequence - s) % 2**32 < 32}
            return "in_order"
        if behind < 32 and sequence not in self.seen:
            self.seen[sequence] = frame
            self.gaps = max(0, self.gaps - 1)
            self.late += 1
            return "late"
        if behind < 32 and self.seen[sequence] == frame:
            return "duplicate"
        self._restart(sequence, frame)
        self.resets += 1
        return "restart"

    def _restart(self, sequence: int, frame: bytes) -> None:
        self.top = sequence
        self.seen = {sequence: frame}


class NaiveBucket:
    """Token bucket, from its definition."""

    def __init__(self, burst: float, at_ns: int) -> None:
        self.tokens, self.at_ns = burst, at_ns

    def refill(self, now_ns: int, rate: float, burst: float) -> None:
        self.tokens = min(burst, self.tokens + max(0, now_ns - self.at_ns) * 1e-9 * rate)
        if now_ns > self.at_ns or self.at_ns - now_ns > 10_000_000_000:
            self.at_ns = now_ns


class NaiveLane:
    """Verdicts of well-formed frames, one by one (no malformed frames, no blocks)."""

    def __init__(self) -> None:
        self.windows: dict[bytes, Window] = {}
        self.buckets: dict[bytes, NaiveBucket] = {}
        self.bucket: NaiveBucket | None = None
        self.queue: deque[bytes] = deque()

    def take(self, some: list[bytes], at_ns: int, now_ns: int, lim: Limits, queue_limit: int) -> list[Reason]:
        self._refill(now_ns, lim)
        return [self._one(frame, at_ns, lim, queue_limit) for frame in some]

    def _refill(self, now_ns: int, lim: Limits) -> None:
        if self.bucket is None:
            self.bucket = NaiveBucket(lim.burst, now_ns)
        self.bucket.tokens = min(lim.burst, self.bucket.tokens + max(0, now_ns - self.bucket.at_ns) * 1e-9 * lim.rate)
        self.bucket.at_ns = now_ns

    def _one(self, frame: bytes, at_ns: int, lim: Limits, queue_limit: int) -> Reason:
        device, sequence = frame[2:18], int.from_bytes(frame[18:22], "big")
        window = self.windows.setdefault(device, Window())
        bucket = self.buckets.setdefault(device, NaiveBucket(lim.device_burst, at_ns))
        outcome = window.observe(sequence, frame)
        bucket.refill(at_ns, lim.device_rate, lim.device_burst)
        if outcome == "duplicate":
            return Reason.DUPLICATE
        if bucket.tokens < 1:
            return Reason.DEVICE_RATE
        bucket.tokens -= 1
        if not self.queue and self.bucket.tokens >= 1:
            self.bucket.tokens -= 1
            return Reason.PASSED
        if len(self.queue) < queue_limit:
            self.queue.append(frame)
            return Reason.QUEUED
        return Reason.QUEUE_FULL

    def release(self, now_ns: int, lim: Limits, most: int) -> list[bytes]:
        self._refill(now_ns, lim)
        count = max(0, min(len(self.queue), int(self.bucket.tokens), most))
        self.bucket.tokens -= count
        return [self.queue.popleft() for _ in range(count)]
