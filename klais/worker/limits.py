"""The limits in force for each lane, from the settings and ``klais_control``, divided among the lanes."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from klais.config.load import Settings
from klais.control.ends import in_force
from klais.control.setpoints import ControlFollower
from klais.core.dam.bucket import TokenBucket
from klais.core.dam.overrides import NO_OVERRIDES, PREFIX, Overrides, override_table
from klais.core.lane.journal import Limits
from klais.core.lane.step import Bounds, Step
from klais.system.shared_clock import shared

MIN_LANE_RATE = 1e-3  # frames/s: a lane may be slow, but never stops


@dataclass(frozen=True, slots=True)
class Validity:
    """Validity of a list whose entries can expire, made at ``made_ns`` from the records of a ``version``.

    If the clock was set back, expired entries may be in force again.
    """

    version: int
    made_ns: int
    until_ns: int

    def holds(self, version: int, now_ns: int) -> bool:
        """Whether the list is still valid."""
        return version == self.version and self.made_ns <= now_ns < self.until_ns


_NEVER = Validity(-1, 0, 0)


class LaneLimits:
    """The present limits of each lane. The global rate is divided by demand if a controller publishes shares; burst and
    queue are divided evenly.

    Parameters
    ----------
    settings, control
        Of the worker; without ``control`` the settings apply.
    ahead_s : callable
        How far the clock of this host is ahead of Kafka's (s), None = not known yet.

    Attributes
    ----------
    device_limit : int
        Devices that one lane may hold.
    queue_limit, queue_bytes : int
        Frames that may wait in the queue of one lane, and the memory that they may use.
    """

    def __init__(
        self, settings: Settings, control: ControlFollower | None, ahead_s: Callable[[], float | None] = lambda: 0.0
    ) -> None:
        self._settings = settings
        self._control = control
        # Allowances of the whole process, which limit the rate of anomaly records and dead letters.
        self._dead_letters = TokenBucket.of_one_second(settings.dead_letter_rate)
        self._flags = TokenBucket.of_one_second(settings.anomaly_rate)
        self._overrides, self._overrides_hold = NO_OVERRIDES, _NEVER
        self._blocked: tuple[bytes, ...] = ()
        self._blocked_hold = _NEVER
        self.ahead_s = ahead_s
        n = settings.partitions
        self.queue_limit = settings.dam_queue_limit // n
        self.queue_bytes = settings.dam_queue_bytes // n
        self.device_limit = max(1, settings.devices_max // n)
        self._uncounted = np.array(settings.uncounted_prefixes, PREFIX)

    @property
    def rate(self) -> float:
        """Global rate in force, frames/s over all lanes."""
        default = self._settings.dam_max_rate
        return self._control.rate(default) if self._control else default

    @property
    def burst(self) -> float:
        """Global burst in force, frames over all lanes."""
        default = self._settings.dam_burst_size
        return self._control.burst(default) if self._control else default

    def blocked(self) -> tuple[bytes, ...]:
        """Device ids on the block list now (rebuilt when a record changed or expired)."""
        if self._control is None:
            return ()
        now_ns, version = shared.time_ns(), self._control.version
        if not self._blocked_hold.holds(version, now_ns):
            live = {name: until_ns for name, until_ns in self._control.blocked().items() if in_force(until_ns, now_ns)}
            ends = [until_ns for until_ns in live.values() if until_ns is not None]
            self._blocked = tuple(live)
            self._blocked_hold = Validity(version, now_ns, min(ends, default=1 << 62))
        return self._blocked

    def overrides(self) -> int:
        """Number of overrides in force."""
        return len(self._control.overrides()) if self._control else 0

    def controlled(self) -> bool:
        """Whether a controller or an operator sets the rate; else it is fixed."""
        return self._control is not None and self._control.mode() != "fixed"

    def version(self) -> int:
        """Increases when limits change."""
        return self._control.version if self._control else 0

    def changes(self, call: Callable[[], object]) -> AbstractContextManager[None]:
        """Within the block, call ``call`` after each increase of the version, in the thread that increased it."""
        return self._control.changes(call) if self._control else nullcontext()

    def share(self, partition: int) -> float:
        """The lane's share of the global rate: the newest published one, or an even share before that."""
        n = self._settings.partitions
        return self._control.share(partition, n) if self._control else 1.0 / n

    def device_overrides(self) -> Overrides:
        """Devices with their own limits now (OVERRIDE [k], rebuilt when a record changed or expired)."""
        if self._control is None or not self._control.device_limits():
            return NO_OVERRIDES
        now_ns = shared.time_ns()
        version = self._control.version
        if not self._overrides_hold.holds(version, now_ns):
            s, found = self._settings, self._control.device_limits()
            live = {name: at for name, at in found.items() if in_force(at.until_ns, now_ns)}
            ends = [at.until_ns for at in live.values() if at.until_ns is not None]
            own = {name: (at.rate or s.dam_device_rate, at.burst or s.dam_device_burst) for name, at in live.items()}
            self._overrides = override_table(own)
            self._overrides_hold = Validity(version, now_ns, min(ends, default=1 << 62))
        return self._overrides

    def device(self, device_id: bytes) -> tuple[float, float]:
        """The present rate and burst of one device."""
        for row in self.device_overrides():
            if row["id"] == device_id:
                return float(row["rate"]), float(row["burst"])
        return self.of_devices()

    @property
    def tightened(self) -> bool:
        """Whether an attack lowers the limit of a device."""
        return self.of_devices()[0] < self._settings.dam_device_rate

    def of_devices(self) -> tuple[float, float]:
        """Rate (frames/s) and burst (frames) of a device without its own limits; lower during an attack."""
        s = self._settings
        rate = self._control.device_rate(s.dam_device_rate) if self._control else s.dam_device_rate
        return rate, max(1.0, s.dam_device_burst * rate / s.dam_device_rate)

    def to_forget(self) -> dict[bytes, int]:
        """Devices that operators asked to forget: device_id -> time of the request (s since the epoch)."""
        return self._control.to_forget() if self._control is not None else {}

    def of_lane(self, partition: int) -> tuple[Limits, Bounds]:
        """The limits and bounds of a lane's next step."""
        s, n, now_ns = self._settings, self._settings.partitions, time.monotonic_ns()
        limits = Limits(
            max(MIN_LANE_RATE, self.rate * self.share(partition)),
            max(1.0, self.burst / n),
            *self.of_devices(),
            self._dead_letters.available(now_ns),
            self._flags.available(now_ns),
            s.devices_new_rate,
            s.sequence_window_s,
        )
        bounds = Bounds(
            self.queue_limit,
            self.device_limit,
            self.blocked(),
            self.device_overrides(),
            self.queue_bytes,
            self._uncounted,
            s.json_strict,
            s.auth in ("sticky", "require"),
            s.sequence_strict,
        )
        return limits, bounds

    def spend(self, step: Step) -> None:
        """Charge a step's records to the allowances."""
        if step.dead is not None or step.corrupt is not None:
            self._dead_letters.spend((len(step.dead) if step.dead is not None else 0) + (step.corrupt is not None))
        if step.flags is not None:
            self._flags.spend(len(step.flags.found))
