"""Frames and batches for lane tests, and a lane's naive twin in plain Python, written from the definition."""

import numpy as np

from klais.core.anomaly.zscore import ZScore
from klais.core.dam.overrides import PREFIX
from klais.core.lane.journal import Limits
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason, encode_frame

T0_NS = 1_700_000_000_000_000_000


def limits(
    rate=1e9,
    burst=1e9,
    device_rate=1000.0,
    device_burst=5000.0,
    dead_letters=1000,
    flags=1000,
    new_rate=1e6,
    window_s=60.0,
) -> Limits:
    """Limits of one step, unlimited by default."""
    return Limits(rate, burst, device_rate, device_burst, dead_letters, flags, new_rate, window_s)


def scored(z: float = 6.0, samples: int = 30) -> LaneState:
    """A lane with the z-score detector, which needs the fewest frames."""
    return LaneState(detector=ZScore(z, samples, 500))


def bounds(
    queue_limit=1_000_000,
    device_limit=1_000_000,
    blocked=(),
    queue_bytes=1 << 40,
    uncounted=(),
    sticky=False,
    no_restarts=False,
) -> Bounds:
    """Bounds of a lane."""
    rest = {"queue_bytes": queue_bytes, "uncounted": np.array(uncounted, PREFIX)}
    return Bounds(queue_limit, device_limit, tuple(blocked), **rest, sticky=sticky, no_restarts=no_restarts)


def frames(*parts: tuple[str, int] | tuple[str, int, bytes]) -> list[bytes]:
    """Frames from (device, sequence[, payload])."""
    return [encode_frame(p[0], p[1], p[2] if len(p) > 2 else b'{"t":%d}' % p[1]) for p in parts]


def batch(
    some: list[bytes],
    number: int = 0,
    at_ns: int = T0_NS,
    boot: int = 1,
    edge: int = 1,
    epochs: list[int] | None = None,
) -> bytes:
    """A frame batch with offsets 0."""
    column = None if epochs is None else np.array(epochs, np.uint32)
    return encode_batch(some, at_ns, edge, boot, number, offsets=np.zeros(len(some), np.uint32), epochs=column)


class Stream:
    """A run of sequence numbers of one device: the last 32, each with the era of its arrival."""

    def __init__(self, sequence: int, era: int) -> None:
        self.top, self.era = sequence, era
        self.seen: dict[int, int | None] = {sequence: era}  # None: arrived, but too long ago to be recognized

    def age(self, era: int) -> None:
        if era in (self.era, self.era - 1):
            return
        keep = era == self.era + 1
        self.seen = {s: at if keep and at == self.era else None for s, at in self.seen.items()}
        self.era = era

    def is_current(self, era: int) -> bool:
        return any(at is not None and era - at <= 1 for at in self.seen.values())

    def near(self, sequence: int) -> bool:
        return (sequence - self.top) % 2**32 <= 32 or (self.top - sequence) % 2**32 < 32

    def advance(self, sequence: int) -> int:
        """Advance to a number; return the skipped numbers."""
        gap = (sequence - self.top) % 2**32 - 1
        self.top = sequence
        self.seen = {s: at for s, at in self.seen.items() if (sequence - s) % 2**32 < 32} | {sequence: self.era}
        return gap


class Window:
    """Sequence window of one device, by the definition (:mod:`klais.core.devices.sequence`)."""

    def __init__(self) -> None:
        self.main: Stream | None = None
        self.other: Stream | None = None
        self.restarted = False
        self.frames: dict[int, bytes] = {}  # by sequence modulo 32, of both streams
        self.gaps = self.late = self.resets = self.jumps = 0

    @property
    def top(self) -> int:
        assert self.main is not None
        return self.main.top

    def observe(self, sequence: int, frame: bytes, era: int, elapsed_s: float, interval_s: float | None) -> str:
        outcome = self._observe(sequence, frame, era, elapsed_s, interval_s)
        if outcome != "duplicate":
            self.frames[sequence % 32] = frame
        return outcome

    def _observe(self, sequence: int, frame: bytes, era: int, elapsed_s: float, interval_s: float | None) -> str:
        if self.main is None:
            self.main = Stream(sequence, era)
            return "in_order"
        if self.main.near(sequence):
            self.main.age(era)
            return self._take(self.main, sequence, frame, era)
        if self.other is not None and self.other.near(sequence):
            return self._take_other(self.other, sequence, frame, era)
        ahead = (sequence - self.main.top) % 2**32
        known = interval_s is not None and elapsed_s > 0
        if ahead < 2**31 and known and ahead <= 2 * elapsed_s / max(interval_s, 1e-3) + 1:
            self.gaps += self.main.advance(sequence)
            return "in_order"
        if elapsed_s < -1.0:
            self.other = Stream(sequence, era)
            self._late()
            return "late"
        self.main, self.other = Stream(sequence, era), self.main
        self.restarted = ahead >= 2**31
        self.resets += self.restarted
        self.jumps += not self.restarted
        return "restart" if self.restarted else "jump"

    def _take_other(self, other: Stream, sequence: int, frame: bytes, era: int) -> str:
        assert self.main is not None
        other.age(era)
        lower = (self.main.top - sequence) % 2**32 < 2**31
        if lower and self.main.is_current(era):
            outcome = self._take(other, sequence, frame, era)
            if outcome == "in_order":
                self._late()
                outcome = "late"
            return outcome
        self.main, self.other = other, self.main
        self.resets -= self.restarted
        self.restarted = False
        return self._take(other, sequence, frame, era)

    def _take(self, stream: Stream, sequence: int, frame: bytes, era: int) -> str:
        if 0 < (sequence - stream.top) % 2**32 <= 32:
            self.gaps += stream.advance(sequence)
            return "in_order"
        if sequence not in stream.seen:
            stream.seen[sequence] = stream.era
            self._late()
            return "late"
        if stream.seen[sequence] is not None and self.frames[sequence % 32] == frame:
            return "duplicate"
        stream.__init__(sequence, era)  # type: ignore[misc]
        self.resets += 1
        self.restarted = False
        return "restart"

    def _late(self) -> None:
        self.late += 1
        self.gaps = max(0, self.gaps - 1)


class Feature:
    """Running profile of one feature, by the definition (:mod:`klais.core.anomaly.zscore`)."""

    def __init__(self, smallest_deviation, z: float = 6.0, min_samples: int = 30, window: int = 500) -> None:
        self.least, self.z, self.min_samples, self.window = smallest_deviation, z, min_samples, window
        self.mean = self.var = 0.0
        self.samples = self.run = 0

    def learn(self, value: float) -> float:
        """Return the score of a value, then learn it."""
        difference, z = value - self.mean, 0.0
        if self.samples >= self.min_samples:
            deviation = max(self.var**0.5, self.least(self.mean))
            z = difference / deviation
            self.run = self.run + 1 if abs(z) > self.z else 0
            difference = min(max(difference, -8 * deviation), 8 * deviation)
            if self.run == 16:
                self.mean = self.var = 0.0
                self.samples = self.run = 0
                difference = value
        weight = 1 / min(self.samples + 1, self.window)
        self.mean += weight * difference
        self.var = (1 - weight) * (self.var + weight * difference**2)
        self.samples += 1
        return z


class Interval:
    """Mean interval of a device, by the definition (:mod:`klais.core.devices.intervals`)."""

    def __init__(self) -> None:
        self.mean_s, self.count = 0.0, 0

    def learn(self, interval_s: float) -> None:
        difference = interval_s - self.mean_s
        if self.count >= 8:
            difference = min(difference, 4 * self.mean_s + 1)
        self.mean_s = float(np.float32(self.mean_s + difference / min(self.count + 1, 500)))
        self.count += 1


class NaiveBucket:
    """Token bucket, from its definition."""

    def __init__(self, burst: float, at_ns: int) -> None:
        self.tokens, self.at_ns = burst, at_ns

    def refill(self, now_ns: int, rate: float, burst: float) -> None:
        self.tokens = min(burst, self.tokens + max(0, now_ns - self.at_ns) * 1e-9 * rate)
        self.at_ns = now_ns


class NaiveDevice:
    """A lane's state of one device."""

    def __init__(self, lim: Limits, at_ns: int) -> None:
        self.window, self.bucket = Window(), NaiveBucket(lim.device_burst, at_ns)
        self.interval = Interval()
        self.admitted_ns: int | None = None

    def observe(self, sequence: int, frame: bytes, at_ns: int, window_s: float) -> str:
        era = int(at_ns * (2e-9 / window_s))
        interval_s = self.interval.mean_s if self.interval.count else None
        return self.window.observe(sequence, frame, era, (at_ns - self.bucket.at_ns) * 1e-9, interval_s)

    def admit(self, at_ns: int) -> None:
        self.bucket.tokens -= 1
        if self.admitted_ns is not None and at_ns >= self.admitted_ns:
            self.interval.learn((at_ns - self.admitted_ns) * 1e-9)
        self.admitted_ns = at_ns


class NaiveFairQueue:
    """Turns of devices, by the definition (:mod:`klais.core.dam.fair`)."""

    def __init__(self) -> None:
        self.round = 0  # the round being served
        self.waiting: list[tuple[int, int, bytes, bytes]] = []  # (round, arrival number, device, frame)
        self.arrived = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def append(self, device: bytes, frame: bytes) -> None:
        newest = max((turn for turn, _, own, _ in self.waiting if own == device), default=self.round)
        self.waiting.append((max(newest, self.round) + 1, self.arrived, device, frame))
        self.arrived += 1

    def pop(self, count: int) -> list[bytes]:
        """Remove and return the next frames."""
        gone, self.waiting = (ordered := sorted(self.waiting))[:count], ordered[count:]
        self.round = gone[-1][0] if gone and self.waiting else 0 if not self.waiting else self.round
        return [frame for _, _, _, frame in gone]


class NaiveLane:
    """Verdicts of frames, one by one (no malformed frames, no blocks, one edge)."""

    def __init__(self) -> None:
        self.devices: dict[bytes, NaiveDevice] = {}
        self.bucket: NaiveBucket | None = None
        self.queue = NaiveFairQueue()

    def take(self, some: list[bytes], at_ns: int, now_ns: int, lim: Limits, queue_limit: int) -> list[Reason]:
        self._refill(now_ns, lim)
        return [self._one(frame, at_ns, lim, queue_limit) for frame in some]

    def _refill(self, now_ns: int, lim: Limits) -> None:
        if self.bucket is None:
            self.bucket = NaiveBucket(lim.burst, now_ns)
        self.bucket.refill(now_ns, lim.rate, lim.burst)

    def _one(self, frame: bytes, at_ns: int, lim: Limits, queue_limit: int) -> Reason:
        key, sequence = frame[2:18], int.from_bytes(frame[18:22], "big")
        device = self.devices.get(key) or NaiveDevice(lim, at_ns)
        outcome = device.observe(sequence, frame, at_ns, lim.sequence_window_s)
        device.bucket.refill(at_ns, lim.device_rate, lim.device_burst)
        if outcome == "duplicate":
            return Reason.DUPLICATE
        if device.bucket.tokens < 1:
            return Reason.DEVICE_RATE
        if not self.queue and self.bucket.tokens >= 1:
            self.bucket.tokens -= 1
            verdict = Reason.PASSED
        elif len(self.queue) < queue_limit:
            self.queue.append(key, frame)
            verdict = Reason.QUEUED
        else:
            device.bucket.tokens -= 1
            return Reason.QUEUE_FULL  # for a new device it remains the only trace
        device.admit(at_ns)
        self.devices[key] = device
        return verdict

    def release(self, now_ns: int, lim: Limits, max_count: int) -> list[bytes]:
        self._refill(now_ns, lim)
        count = max(0, min(len(self.queue), int(self.bucket.tokens), max_count))
        self.bucket.tokens -= count
        return self.queue.pop(count)
