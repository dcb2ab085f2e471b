"""One host with an edge, ``klais_raw`` and a worker, in virtual time: what the decisions of the controller act on.

The token buckets are those of the edge and of the dam, and :func:`klais.control.decide.decide` is the controller's.
Frames are counted, not simulated one by one: frames of the same tick and kind are equal.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from klais.config.load import Settings
from klais.control.decide import Decision, Inputs, LoopState, OperatorRequest, Targets, decide
from klais.control.forecast import NOTHING, Predictor
from klais.control.pid import Gains
from klais.core.dam.bucket import TokenBucket
from klais.edge.shedding import LoadShedder
from klais.traffic.fleet import Series

TICK_S = 0.02
LATE_S = 0.3  # from a measurement to the decision that uses it
TAKE_SHARE = 0.45  # of the cost of a frame is reading and deciding it, the rest its output
WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Load:
    """Traffic of one run.

    Attributes
    ----------
    name : str
    good, hostile : float64 [t]
        Frames per second.
    rows : float64 [t, columns]
        What the controller's collector would hold of it.
    capacity : float
        Frames/s that the worker can read, decide and write.
    senders : int
        Devices that send the hostile frames.
    from_s : int
        The figures count frames that arrive from this second on.
    """

    name: str
    good: Series
    hostile: Series
    rows: Series
    capacity: float
    senders: int = 0
    from_s: int = WINDOW_S


class Queue:
    """Frames in order of arrival, in groups of one tick."""

    def __init__(self) -> None:
        self.frames = 0
        self._groups: deque[list[int]] = deque()  # [tick, good, hostile]

    def add(self, tick: int, good: int, hostile: int) -> None:
        """Append frames that arrived at the edge in ``tick``."""
        if good + hostile:
            self._groups.append([tick, good, hostile])
            self.frames += good + hostile

    def take(self, most: int) -> list[tuple[int, int, int]]:
        """Remove up to ``most`` of the oldest frames."""
        out: list[tuple[int, int, int]] = []
        while most > 0 and self._groups:
            first = self._groups[0]
            here = first[1] + first[2]
            if here <= most:
                self._groups.popleft()
                out.append((first[0], first[1], first[2]))
            else:
                good = round(most * first[1] / here)
                first[1], first[2] = first[1] - good, first[2] - (most - good)
                out.append((first[0], good, most - good))
            taken = out[-1][1] + out[-1][2]
            most, self.frames = most - taken, self.frames - taken
        return out


@dataclass(slots=True)
class Counted:
    """Good frames: arrived, dropped by place, and landed by the ticks that they waited."""

    arrived: int = 0
    shed: int = 0
    queue_full: int = 0
    waited: dict[int, int] = field(default_factory=dict)

    def landed(self, ticks: int, frames: int) -> None:
        """Count frames that waited for ``ticks``."""
        self.waited[ticks] = self.waited.get(ticks, 0) + frames

    def figures(self) -> dict[str, Any]:
        """Shares and delays; the frames that still wait are neither landed nor dropped."""
        ticks = np.array(sorted(self.waited))
        sums = np.cumsum([self.waited[tick] for tick in ticks.tolist()])
        shares = (("p50", 0.5), ("p99", 0.99))
        at = {name: int(ticks[np.searchsorted(sums, share * sums[-1])]) for name, share in shares}
        return {
            "frames": self.arrived,
            "dropped": self.shed + self.queue_full,
            "dropped_share": round((self.shed + self.queue_full) / max(1, self.arrived), 6),
            **{f"{name}_ms": round(1000 * TICK_S * tick) for name, tick in at.items()},
            "longest_ms": round(1000 * TICK_S * int(ticks[-1])),
            "waiting_at_end": self.arrived - self.shed - self.queue_full - int(sums[-1]),
        }


class Plant:
    """Edge, topic and worker; :meth:`tick` runs one step of ``TICK_S``.

    Parameters
    ----------
    load : Load
    settings : Settings
        Burst and rate of a device, and the limit of the dam's queue.
    """

    def __init__(self, load: Load, settings: Settings) -> None:
        self._load, self._settings = load, settings
        self.edge, self.dam = LoadShedder(), TokenBucket(settings.dam_max_rate, settings.dam_burst_size)
        senders = load.senders
        self.devices = TokenBucket(senders * settings.dam_device_rate, senders * settings.dam_device_burst)
        self.raw, self.queue, self.counted = Queue(), Queue(), Counted()
        self.busy_s = 0.0
        self.landed = 0

    def tick(self, tick: int, good: int, hostile: int, now_ns: int) -> None:
        """Frames arrive; the worker writes those that the dam passes, then reads with the CPU time that is left."""
        counts = tick * TICK_S >= self._load.from_s
        received = good + hostile
        shed = received - self.edge.acquire(received, now_ns)
        shed_good = min(good, round(shed * good / max(1, received)))
        self.raw.add(tick, good - shed_good, hostile - (shed - shed_good))
        cost_s = 1.0 / self._load.capacity
        take_s, land_s = TAKE_SHARE * cost_s, (1.0 - TAKE_SHARE) * cost_s
        most = min(int(TICK_S / land_s), self.queue.frames)
        passing = self.dam.acquire(most, now_ns)
        for since, landed, bad in self.queue.take(passing):
            self.landed += landed + bad
            if since * TICK_S >= self._load.from_s and landed:
                self.counted.landed(tick - since, landed)
        left_s = TICK_S - passing * land_s
        taken = min(self.raw.frames, max(0, int(left_s / take_s)))
        dropped = self._take(taken, now_ns)
        self.busy_s += passing * land_s + taken * take_s
        if counts:
            self.counted.arrived += good
            self.counted.shed += shed_good
            self.counted.queue_full += dropped

    def _take(self, most: int, now_ns: int) -> int:
        """Read frames; return the good ones for which the dam's queue had no room."""
        lost = 0
        for since, good, bad in self.raw.take(most):
            bad = self.devices.acquire(bad, now_ns)
            room = max(0, self._settings.dam_queue_limit - self.queue.frames)
            excess = max(0, good + bad - room)
            excess_good = min(good, round(excess * good / max(1, good + bad)))
            lost += excess_good if since * TICK_S >= self._load.from_s else 0
            self.queue.add(since, good - excess_good, bad - (excess - excess_good))
        return lost


def targets_of(settings: Settings) -> Targets:
    """The controller's set-points without overrides."""
    s = settings
    return Targets(
        s.pid_lag_setpoint, s.pid_cpu_setpoint, s.pid_rate_min, s.pid_rate_max, s.dam_max_rate, s.dam_burst_size,
        float(s.dam_queue_limit), s.dam_device_rate,
    )  # fmt: skip


class Loop:
    """The controller over a plant: forecasts once a second, decides every ``KLAIS_PID_PERIOD_S``."""

    def __init__(self, load: Load, predictor: Predictor, settings: Settings) -> None:
        self.plant, self._load, self._predictor, self._settings = Plant(load, settings), load, predictor, settings
        self._targets = targets_of(settings)
        self._gains = Gains(settings.pid_kp, settings.pid_ki, settings.pid_kd, settings.pid_filter_s)
        self._state, self._forecast = LoopState(), NOTHING
        self._reports: deque[Inputs] = deque(maxlen=1 + round(LATE_S / settings.pid_period_s))
        self._second = deque([(0.0, 0)], maxlen=1 + round(1.0 / settings.pid_period_s))
        self.decisions: list[Decision] = []

    def run(self) -> Counted:
        """The whole load."""
        per_s, every = round(1.0 / TICK_S), round(self._settings.pid_period_s / TICK_S)
        for second in range(len(self._load.good)):
            good, hostile = (_ticks(float(of[second]), per_s) for of in (self._load.good, self._load.hostile))
            for step in range(per_s):
                tick = second * per_s + step
                self.plant.tick(tick, good[step], hostile[step], round((tick + 1) * TICK_S * 1e9))
                if (tick + 1) % every == 0:
                    self._decide(second, (tick + 1) * TICK_S)
            self._forecast = self._predictor.predict(self._load.rows[max(0, second + 1 - WINDOW_S) : second + 1])
        return self.plant.counted

    def _decide(self, second: int, now_s: float) -> None:
        plant = self.plant
        self._second.append((plant.busy_s, plant.landed))
        span_s = max(1, len(self._second) - 1) * self._settings.pid_period_s
        cpu, passed = (self._second[-1][at] - self._second[0][at] for at in (0, 1))
        received = float(self._load.good[second] + self._load.hostile[second])
        self._reports.append(
            Inputs(
                lag=float(plant.raw.frames),
                cpu=min(1.0, cpu / span_s),
                queue_depth=float(plant.queue.frames),
                demand={0: received},
                hosts={"host": received},
                passed=passed / span_s,
                forecast=self._forecast,
                fresh=True,
            )
        )
        self._state, decision = decide(
            self._state, self._reports[0], self._targets, self._gains, OperatorRequest("auto"), 1, now_s,
            self._settings.pid_period_s,
        )  # fmt: skip
        plant.edge.limit(*decision.hosts["host"])
        plant.dam.limit(decision.rate, decision.burst)
        share = (decision.defence.limit or self._settings.dam_device_rate) / self._settings.dam_device_rate
        rate, burst = share * self._settings.dam_device_rate, max(1.0, share * self._settings.dam_device_burst)
        plant.devices.limit(self._load.senders * rate, self._load.senders * burst)
        self.decisions.append(decision)


def _ticks(frames: float, ticks: int) -> list[int]:
    """Whole frames of each tick of a second."""
    ends = np.floor(np.arange(ticks + 1) * frames / ticks + 0.5).astype(int)
    return np.diff(ends).tolist()  # type: ignore[no-any-return]
