"""The limits in force for each lane: from the settings and ``klais_control``, shared out over the lanes."""

import time

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower, in_force
from klais.core.dam.bucket import refill
from klais.core.dam.special import NONE, Special, table
from klais.core.lane.journal import Limits
from klais.core.lane.step import Bounds, Step

MIN_LANE_RATE = 1e-3  # frames/s: a lane is slow, never shut


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

    def spend(self, records: int) -> None:
        """Count records written."""
        self._tokens -= records


class LaneLimits:
    """Limits of each lane now. The global rate is shared out by demand where a controller says so.

    Burst and queue evenly.
    """

    def __init__(self, settings: Settings, control: ControlFollower | None) -> None:
        self._settings = settings
        self._control = control
        self._dead_letters = Allowance(settings.dead_letter_rate)
        self._flags = Allowance(settings.anomaly_rate)
        self._special, self._special_version, self._special_until_ns = NONE, -1, 0
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
            device_id
            for device_id, until_ns in self._control.blocked().items()
            if until_ns is None or until_ns > now_ns
        )

    def overrides(self) -> int:
        """Overrides of operators in force."""
        return len(self._control.overrides()) if self._control else 0

    def version(self) -> int:
        """Goes up when limits change."""
        return self._control.version if self._control else 0

    def share(self, partition: int) -> float:
        """The lane's share of the global rate: the newest that was published, an even one before."""
        n = self._settings.partitions
        return self._control.share(partition, n) if self._control else 1.0 / n

    def special(self) -> Special:
        """Devices with limits of their own now (SPECIAL [k], made again when something changed or ended)."""
        if self._control is None or not self._control.device_limits():
            return NONE
        now_ns = time.time_ns()
        version = self._control.version
        if version != self._special_version or now_ns >= self._special_until_ns:
            s, found = self._settings, self._control.device_limits()
            live = {name: at for name, at in found.items() if in_force(at.until_ns, now_ns)}
            ends = [at.until_ns for at in live.values() if at.until_ns is not None]
            own = {name: (at.rate or s.dam_device_rate, at.burst or s.dam_device_burst) for name, at in live.items()}
            self._special = table(own)
            self._special_version, self._special_until_ns = version, min(ends, default=1 << 62)
        return self._special

    def device(self, device_id: bytes) -> tuple[float, float]:
        """Rate and burst of one device now."""
        for row in self.special():
            if row["id"] == device_id:
                return float(row["rate"]), float(row["burst"])
        return self._settings.dam_device_rate, self._settings.dam_device_burst

    def of_lane(self, partition: int) -> tuple[Limits, Bounds]:
        """Limits and bounds of a lane's next step."""
        s, n = self._settings, self._settings.partitions
        limits = Limits(
            max(MIN_LANE_RATE, self.rate * self.share(partition)),
            max(1.0, self.burst / n),
            s.dam_device_rate,
            s.dam_device_burst,
            self._dead_letters.available(),
            self._flags.available(),
            s.anomaly_z,
            s.anomaly_min_samples,
            s.anomaly_window,
        )
        return limits, Bounds(self._queue_limit, self._device_limit, self.blocked(), self.special(), s.json_strict)

    def spend(self, step: Step) -> None:
        """Count what a step writes against the allowances."""
        if step.dead is not None or step.corrupt is not None:
            self._dead_letters.spend((len(step.dead) if step.dead is not None else 0) + (step.corrupt is not None))
        if step.flags is not None:
            self._flags.spend(len(step.flags.found))
