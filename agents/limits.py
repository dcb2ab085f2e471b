"""The limits in force for each lane: from the settings and ``klais_control``, shared out over the lanes."""

import time

from klais.config import Settings
from klais.control.follower import ControlFollower
from klais.dam.bucket import refill
from klais.lane.journal import Limits
from klais.lane.step import Bounds, Step


class Allowance:
    """Token bucket of a whole process for records that must not become a flood (one second's worth of burst)."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate = rate_per_s
        self._tokens = rate_per_s
        self._at_ns = time.monotonic_ns()

    def available(self) -> int:
        """Records that may be written now."""
        now_ns = time.monotonic_ns()
        self._tokens = float(refill(self._tokens, self._at_ns, now_ns, self._rate, max(1.0, self._rate)))
        self._at_ns = now_ns
        return max(0, int(self._tokens))

    def take(self, records: int) -> None:
        """Count records written."""
        self._tokens -= records


class LaneLimits:
    """Limits of one lane now. The global rate, burst and queue are shared evenly by all partitions."""

    def __init__(self, settings: Settings, control: ControlFollower | None) -> None:
        self._settings = settings
        self._control = control
        self._dead_letters = Allowance(settings.dead_letter_rate)
        self._flags = Allowance(settings.anomaly_rate)
        n = settings.partitions
        self._queue_limit = settings.dam_queue_limit // n
        self._device_limit = max(1, settings.devices_max // n)

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
        """Device ids on the block list now."""
        if self._control is None:
            return ()
        now_ns = time.time_ns()
        return tuple(
            device_id for device_id, until_ns in self._control.blocked().items() if until_ns is None or until_ns > now_ns
        )

    def of_lane(self) -> tuple[Limits, Bounds]:
        """Limits and bounds of one lane's next step."""
        s, n = self._settings, self._settings.partitions
        limits = Limits(
            self.rate / n,
            max(1.0, self.burst / n),
            s.dam_device_rate,
            s.dam_device_burst,
            self._dead_letters.available(),
            self._flags.available(),
            s.anomaly_z,
            s.anomaly_min_samples,
            s.anomaly_window,
        )
        return limits, Bounds(self._queue_limit, self._device_limit, self.blocked())

    def spent(self, step: Step) -> None:
        """Take what a step writes from the allowances."""
        if step.dead is not None or step.corrupt is not None:
            self._dead_letters.take((len(step.dead) if step.dead is not None else 0) + (step.corrupt is not None))
        if step.flags is not None:
            self._flags.take(len(step.flags.found))
