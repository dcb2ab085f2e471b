"""Decides which devices a lane forgets, and when: long silent devices, evictions, and requests of operators."""

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.core.devices.forget import ALARM_ABOVE, EVICT_ABOVE, choose
from klais.core.devices.layout import row_time_s
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step, forget
from klais.system.shared_clock import TOLERANCE_S
from klais.telemetry import log as logs
from klais.worker.limits import LaneLimits

log = logs.get("klais.worker.forget")

FORGET_TICK_S = 1.0
WAIT_S = 3.0  # for the second after a request, and until it is known how far the clocks differ
SWEEP_S = 60.0  # between two searches for long silent devices, while there is room
ALARM_S = 60.0
STEP_S = 60.0  # a larger shift of the wall clock against the monotonic one means that it was set
STEADY_S = 600.0  # after that, active devices have timestamps of the new time


class Forgetter:
    """Decides the FORGET steps of one session of a lane."""

    def __init__(self, settings: Settings, limits: LaneLimits, partition: int) -> None:
        self._forget_s = settings.devices_forget_s
        self._limits, self._partition = limits, partition
        self._swept_s = -SWEEP_S
        self._ahead_s: float | None = None  # wall clock minus monotonic clock
        self._set_s = -STEADY_S  # when the wall clock was set
        self._asked: dict[bytes, int] = {}  # requests handled in this session
        self._waiting: dict[tuple[bytes, int], float] = {}  # requests that wait for the next second: since when

    def step(self, state: LaneState, now_ns: int, now_s: float) -> Step | None:
        """The next FORGET step, None if there is no device to forget (``now_s`` monotonic)."""
        self._alarm(state)
        self._watch_clock(now_ns * 1e-9 - now_s, now_s)
        ids = self._requested(state, row_time_s(now_ns), now_s)
        if not len(ids):
            ids = self._silent(state, row_time_s(now_ns), now_s)
        if not len(ids):
            return None
        limits, _ = self._limits.of_lane(self._partition)
        return forget(state, ids, limits, now_ns)

    def _requested(self, state: LaneState, wall_s: int, now_s: float) -> npt.NDArray[np.uint8]:
        """Devices that an operator asked to forget, and whose row is older than the request.

        A request is handled after the second in which it was made. If the device comes back, its new row is of a later
        second, so that the next session does not forget it again. Requests have Kafka's time, rows that of this host:
        if it is wrong, the difference counts.
        """
        found, waiting = [], dict[tuple[bytes, int], float]()
        known_s = self._limits.ahead_s()
        ahead_s = round(known_s) if known_s is not None and abs(known_s) > TOLERANCE_S else 0
        for device_id, asked_s in self._limits.to_forget().items():
            if self._asked.get(device_id) == asked_s:
                continue
            since_s = self._waiting.get((device_id, asked_s), now_s)
            if (known_s is None or wall_s <= asked_s + ahead_s) and now_s - since_s < WAIT_S:
                waiting[device_id, asked_s] = since_s
                continue
            self._asked[device_id] = asked_s
            row = state.find(device_id)
            if row >= 0 and int(state.rows["created_s"][row]) <= asked_s + ahead_s:
                found.append(device_id.ljust(16, b"\0"))
                log.info("device_forgotten", partition=self._partition, device=device_id.decode(errors="replace"))
        self._waiting = waiting
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)

    def _silent(self, state: LaneState, wall_s: int, now_s: float) -> npt.NDArray[np.uint8]:
        limit = self._limits.device_limit
        crowded = state.devices > EVICT_ABOVE * limit
        if not crowded and (now_s - self._swept_s < SWEEP_S or now_s - self._set_s < STEADY_S):
            return np.empty((0, 16), np.uint8)
        self._swept_s = now_s
        ids = choose(state.rows, state.used, state.devices, limit, wall_s, self._forget_s)
        if len(ids):
            log.info("devices_forgotten", partition=self._partition, count=len(ids), devices=state.devices, limit=limit)
        return ids

    def _watch_clock(self, ahead_s: float, now_s: float) -> None:
        """Detect a wall clock that was set: a jump forward would make all devices look silent."""
        if self._ahead_s is not None and abs(ahead_s - self._ahead_s) > STEP_S:
            self._set_s = now_s
            by_s = round(ahead_s - self._ahead_s)
            log.warning("clock_was_set", partition=self._partition, by_s=by_s, no_device_forgotten_for_s=STEADY_S)
        self._ahead_s = ahead_s

    def _alarm(self, state: LaneState) -> None:
        limit = self._limits.device_limit
        if state.devices > ALARM_ABOVE * limit and logs.every(ALARM_S, f"klais.worker.forget.{self._partition}"):
            text = "raise KLAIS_DEVICES_MAX, or find the sender of new ids: above 90 % the longest silent are forgotten"
            log.warning("devices_near_limit", partition=self._partition, devices=state.devices, limit=limit, do=text)
