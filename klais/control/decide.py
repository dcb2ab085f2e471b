"""The controller's decision: from the reports of all processes to set-points with their reasons (pure).

    lag, CPU ──► error ──► PID ──► rate ──► cut (forecast) ──► rate in force ──► shares of lanes, intake of hosts
                            ▲                                       ▲
                        set-points, gains                      override (manual)

The PID's output 0 to 1 stands for a rate between ``rate_min`` and ``rate_max`` on a logarithmic scale: the capacity of
a worker is known within a factor, not within a number of frames, so equal steps of the output are equal factors of the
rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from klais.control import shares
from klais.control.cuts import CutState, next_cut
from klais.control.defence import Defence, expected_rate, is_herd, next_defence
from klais.control.forecast import NOTHING, TrafficForecast
from klais.control.pid import Gains, PidState, Terms, step, track

LAG_WEIGHT, CPU_WEIGHT = 0.7, 0.3
# A measurement counts up to twice its set-point: an hour of lag has the same weight as a few seconds.
MAX_ERROR_RATIO = 2.0

# Deadbands: a set-point is written again after a change by this share, because each record costs all followers.
RATE_DEADBAND = 0.05
HOST_RATE_DEADBAND = 0.1
SPARE_RATE_DEADBAND = 0.25  # while the limit is above twice the traffic and limits nothing

# Admission at the hosts. While the backlog is small, edges may also send what the queue has room for within the
# horizon. From BACKLOG_HIGH_RATIO of the allowed backlog on, admission follows the measured throughput of the lanes
# instead, and a proportional controller reduces the backlog to BACKLOG_TARGET_RATIO within BACKLOG_RETURN_S.
ADMIT_HORIZON_S = 5.0
BACKLOG_HIGH_RATIO = 0.5
BACKLOG_TARGET_RATIO, BACKLOG_RETURN_S = 2 / 3, 2.5
MIN_ADMIT_RATIO = 0.5  # of the throughput, for any backlog: after an outage traffic must not stop
# of the rate: an edge admits hundreds of frames at once, a smaller bucket could not pass its own rate
MIN_BURST_S = 0.1

FLOW_TIME_CONSTANT_S = 5.0  # of a falling throughput: a checkpoint lowers it only for a moment
HEADROOM = 1.1  # minimum rate: this times the throughput, plus what empties the queue within ADMIT_HORIZON_S
RESHARE_THRESHOLD = 0.5  # lanes get new shares when one needs more than this part of its share

Mode = Literal["auto", "manual", "fixed"]


@dataclass(frozen=True, slots=True)
class Targets:
    """Set-points and bounds: ``lag`` (frames), ``cpu`` (share), rates in frames/s, ``burst`` and ``queue_limit`` in
    frames; ``device_rate`` is the limit of a device (frames/s)."""

    lag: float
    cpu: float
    rate_min: float
    rate_max: float
    rate_start: float
    burst: float
    queue_limit: float
    device_rate: float = 1000.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """Measurements: ``lag`` and ``queue_depth`` (frames, all lanes), ``cpu`` share of the busiest process, ``demand``
    frames/s of each lane, ``hosts`` frames/s that each host's edges receive, ``passed`` frames/s of all lanes (None =
    unknown), ``forecast``. ``fresh`` False = no worker reports, and the other values are meaningless."""

    lag: float = 0.0
    cpu: float = 0.0
    queue_depth: float = 0.0
    demand: Mapping[int, float] = field(default_factory=dict)
    hosts: Mapping[str, float] = field(default_factory=dict)
    passed: float | None = None
    forecast: TrafficForecast = NOTHING
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A request of operators: the ``mode``, in manual its ``rate`` (frames/s), ``burst`` (frames) or None, author and
    reason."""

    mode: Mode
    rate: float | None = None
    burst: float | None = None
    author: str = "controller"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of lag and CPU, their weighted sum, and the measurement for the derivative."""

    lag: float
    cpu: float
    weighted: float
    load: float


def _above_0(limit: float, digits: int) -> float:
    """Round a limit, but not to 0, because followers refuse a record with a limit of 0."""
    return max(round(limit, digits), 10.0**-digits)


@dataclass(frozen=True, slots=True)
class Decision:
    """Set-points of one tick, with all inputs and terms from which they are computed."""

    mode: Mode
    rate: float
    burst: float
    shares: Mapping[int, float]
    hosts: Mapping[str, tuple[float, float]]
    errors: Errors
    terms: Terms
    cut: CutState
    defence: Defence
    inputs: Inputs
    gains: Gains
    request: OperatorRequest

    def record(self) -> dict[str, Any]:
        """The ``global`` record of ``klais_control`` (the writer adds its id, the time and the epoch)."""
        e, t, i = self.errors, self.terms, self.inputs
        return {
            "v": 1,
            "mode": self.mode,
            "rate": _above_0(self.rate, 3),
            "burst": _above_0(self.burst, 3),
            "author": self.request.author,
            "reason": self.why(),
            "cut": self.cut.cut,
            "alert": self.cut.alert,
            "device_rate": None if self.defence.limit is None else _above_0(self.defence.limit, 3),
            "inputs": {
                "lag": round(i.lag, 1),
                "cpu": round(i.cpu, 4),
                "queue_depth": round(i.queue_depth),
                "demand": round(sum(i.demand.values()), 1),
                "fresh": i.fresh,
            },
            "error": {"lag": round(e.lag, 4), "cpu": round(e.cpu, 4), "both": round(e.weighted, 4)},
            "terms": {name: round(value, 5) for name, value in t._asdict().items()},
            "gains": {"kp": self.gains.kp, "ki": self.gains.ki, "kd": self.gains.kd, "filter_s": self.gains.filter_s},
            "forecast": i.forecast.public(),
            "shares": {str(p): share for p, share in self.shares.items()},
            "hosts": {name: {"rate": _above_0(r, 1), "burst": _above_0(b, 1)} for name, (r, b) in self.hosts.items()},
        }

    def why(self) -> str:
        """The reason as text."""
        if self.mode != "auto":
            return self.request.reason
        if not self.inputs.fresh:
            return "no worker reports: the last rate stays in force"
        i = self.inputs
        text = f"lag {i.lag:,.0f} frames, CPU {100 * i.cpu:.0f} %: error {self.errors.weighted:+.2f}"
        if self.cut.cut:
            text += f"; burst {100 * i.forecast.probability:.0f} %: cut by {100 * self.cut.cut:.0f} %"
        if is_herd(i.forecast):
            text += "; devices reconnect: no cut, their frames may wait"
        if self.defence.limit is not None:
            text += f"; attack: at most {self.defence.limit:,.0f} frames/s a device"
        return text


@dataclass(frozen=True, slots=True)
class LoopState:
    """State from one decision to the next. The controller's last record holds it, so a new controller continues from
    it."""

    pid: PidState = field(default_factory=PidState)
    output: float | None = None  # of the PID; None = not started
    cut: CutState = field(default_factory=CutState)
    shares: Mapping[int, float] | None = None
    flow: float | None = None  # frames/s that pass: rises immediately, falls slowly; None = unknown
    defence: Defence = field(default_factory=Defence)


def flow_of(before: float | None, passed: float | None, dt_s: float) -> float | None:
    """Throughput of the lanes (frames/s) without the pauses of checkpoints, from the rate of the last second.

    Examples
    --------
    >>> flow_of(None, 100.0, 0.1), flow_of(100.0, 200.0, 0.1), flow_of(200.0, 100.0, 0.5), flow_of(200.0, None, 0.1)
    (100.0, 200.0, 190.0, None)
    """
    if before is None or passed is None or passed >= before:
        return passed
    return before + (passed - before) * min(1.0, dt_s / FLOW_TIME_CONSTANT_S)


def errors_of(lag: float, cpu: float, targets: Targets) -> Errors:
    """``0.7 x lag error + 0.3 x CPU error``, each (set-point - measured) / set-point, the measured up to twice the
    set-point.

    Examples
    --------
    >>> at = Targets(20_000, 0.8, 1, 1e6, 1e4, 5e4, 1e6)
    >>> errors_of(0, 0, at).weighted, errors_of(20_000, 0.8, at).weighted
    (1.0, 0.0)
    """
    lag_error = 1.0 - min(lag / targets.lag, MAX_ERROR_RATIO)
    cpu_error = 1.0 - min(cpu / targets.cpu, MAX_ERROR_RATIO)
    weighted = LAG_WEIGHT * lag_error + CPU_WEIGHT * cpu_error
    return Errors(lag_error, cpu_error, weighted, 1.0 - weighted)


def rate_of(output: float, targets: Targets) -> float:
    """Rate (frames/s) for a PID output from 0 to 1."""
    rate: float = targets.rate_min * (targets.rate_max / targets.rate_min) ** output
    return min(max(rate, targets.rate_min), targets.rate_max)


def output_of(rate: float, targets: Targets) -> float:
    """PID output for a rate, within 0 to 1; the inverse of :func:`rate_of`."""
    if targets.rate_max <= targets.rate_min:
        return 1.0
    at = math.log(max(rate, 1e-9) / targets.rate_min) / math.log(targets.rate_max / targets.rate_min)
    return min(max(at, 0.0), 1.0)


def decide(
    state: LoopState,
    inputs: Inputs,
    targets: Targets,
    gains: Gains,
    request: OperatorRequest,
    partitions: int,
    now_s: float,
    dt_s: float,
) -> tuple[LoopState, Decision]:
    """Run one tick.

    Parameters
    ----------
    state : LoopState
        From the previous tick, or recovered.
    inputs, targets, gains, request
        Measurements, set-points and bounds, PID gains, request of operators.
    partitions : int
        Number of lanes.
    now_s, dt_s : float
        Monotonic time, and seconds since the previous tick.

    Returns
    -------
    state, decision : LoopState, Decision
    """
    errors = errors_of(inputs.lag, inputs.cpu, targets)
    last = state.output if state.output is not None else output_of(targets.rate_start, targets)
    forecast = inputs.forecast
    cut = next_cut(state.cut, 0.0 if is_herd(forecast) else forecast.probability, now_s)
    defence = next_defence(state.defence, forecast, targets.device_rate, now_s)
    pid_state, flow = state.pid, flow_of(state.flow, inputs.passed, dt_s)
    if request.mode == "auto" and inputs.fresh and state.output is not None:
        minimum = _lowest_rate(flow, inputs.queue_depth, targets)
        pid_state, terms = step(pid_state, gains, errors.weighted, errors.load, dt_s, output_of(minimum, targets), 1.0)
        expected = min(expected_rate(forecast), targets.rate_max) if errors.weighted > 0.0 else 0.0
        rate = max(max(rate_of(terms.output, targets), expected) * (1.0 - cut.cut), minimum)
    elif request.mode == "auto":  # the first tick, or no measurement: continue from the present rate
        pid_state, terms = track(pid_state, gains, errors.weighted, errors.load, dt_s, last)
        rate = max(rate_of(last, targets) * (1.0 - cut.cut), targets.rate_min)
    else:
        rate = request.rate if request.rate is not None else targets.rate_start
        pid_state, terms = track(pid_state, gains, errors.weighted, errors.load, dt_s, output_of(rate, targets))
    burst = request.burst if request.burst is not None else targets.burst
    lane_shares = _shares(state.shares, inputs.demand, rate, partitions)
    hosts = _host_limits(inputs, flow, rate, burst, targets)
    decision = Decision(
        request.mode, rate, burst, lane_shares, hosts, errors, terms, cut, defence, inputs, gains, request
    )
    return LoopState(pid_state, terms.output, cut, lane_shares, flow, defence), decision


def is_change(before: Decision | None, now: Decision) -> bool:
    """Whether a decision changes something for its followers."""
    if before is None:
        return True
    if (before.mode, before.burst, before.cut.cut, before.gains) != (now.mode, now.burst, now.cut.cut, now.gains):
        return True
    if (before.request, before.shares, before.defence.limit) != (now.request, now.shares, now.defence.limit):
        return True
    if before.hosts.keys() != now.hosts.keys():
        return True
    if now.rate != before.rate and now.terms.output in (0.0, 1.0):  # reached a bound
        return True
    i = now.inputs
    if _moved(before.rate, now.rate, RATE_DEADBAND, max(i.passed or 0.0, sum(i.demand.values()))):
        return True
    hosts = ((before.hosts[name][0], rate, i.hosts.get(name, 0.0)) for name, (rate, _) in now.hosts.items())
    return any(_moved(was, rate, HOST_RATE_DEADBAND, received) for was, rate, received in hosts)


def _moved(before: float, now: float, deadband: float, incoming_per_s: float) -> bool:
    spare = min(before, now) > 2.0 * incoming_per_s
    return abs(now - before) > (SPARE_RATE_DEADBAND if spare else deadband) * before


def _shares(
    last: Mapping[int, float] | None, demand: Mapping[int, float], rate: float, partitions: int
) -> Mapping[int, float]:
    """Shares in force. They change only if a lane needs more and the new shares differ: noise at low traffic has no
    effect."""
    held = last if last is not None and len(last) == partitions else shares.share_out({}, partitions, rate)
    if not any(want > RESHARE_THRESHOLD * rate * held.get(p, 0.0) for p, want in demand.items()):
        return held
    new = shares.share_out(demand, partitions, rate, held)
    return new if shares.moved(held, new) else held


def _lowest_rate(flow: float | None, queue_depth: float, targets: Targets) -> float:
    """The lowest rate for PID and cuts (frames/s): they reduce the headroom, not the throughput.

    A lower rate would move frames from klais_raw, where they are safe, into the bounded queue, which then drops them.
    """
    if flow is None:
        return targets.rate_min
    minimum = HEADROOM * flow + queue_depth / ADMIT_HORIZON_S
    return min(max(minimum, targets.rate_min), targets.rate_max)


def _host_limits(
    inputs: Inputs, flow: float | None, rate: float, burst: float, targets: Targets
) -> dict[str, tuple[float, float]]:
    """Rate and burst of each host's edges, so that they shed only frames that the dam could not hold.

    The total is the rate that the dam passes, plus the room of its queue within the horizon. The hosts share it max-min
    fair by their received frames. The backlog is the queue and the unread records. While it is small, the dam passes
    its rate. If it is large, the lanes' measured throughput (``flow``) counts: a saturated worker passes less than its
    rate.
    """
    capacity, backlog = max(targets.queue_limit, targets.lag), inputs.queue_depth + inputs.lag
    room = max(0.0, targets.queue_limit - backlog)
    total_rate, total_burst = rate + room / ADMIT_HORIZON_S, burst + room / ADMIT_HORIZON_S
    if backlog > BACKLOG_HIGH_RATIO * capacity and flow is not None:
        passes = min(rate, max(flow, targets.rate_min))
        total_rate = max(
            MIN_ADMIT_RATIO * passes, passes + (BACKLOG_TARGET_RATIO * capacity - backlog) / BACKLOG_RETURN_S
        )
        total_burst = min(total_burst, room)
    total_burst = max(total_burst, MIN_BURST_S * total_rate)
    names = sorted(inputs.hosts)
    if not names:
        return {}
    parts = shares.share_out(dict(enumerate(inputs.hosts[name] for name in names)), len(names), total_rate)
    return {name: (total_rate * parts[at], max(1.0, total_burst * parts[at])) for at, name in enumerate(names)}
