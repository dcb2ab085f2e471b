"""Requests of operators, from ``klais_control`` and the settings, as inputs of the controller."""

from typing import Any

from klais.config.load import Settings
from klais.control.cuts import CutState
from klais.control.decide import LoopState, Mode, OperatorRequest, Targets
from klais.control.pid import Gains, PidState
from klais.control.setpoints import ControlFollower

GAINS = ("kp", "ki", "kd", "filter_s")
TARGETS = ("lag", "cpu")


def _positive(values: dict[str, Any], name: str, default: float, minimum: float = 0.0) -> float:
    value = values.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and minimum <= value < 1e12
    return float(value) if good and value is not None else default


def operator_request(settings: Settings, follower: ControlFollower) -> OperatorRequest:
    """The mode in force, and in manual mode the rate with its author."""
    override = follower.override() or {}
    found = follower.mode()
    mode: Mode = "manual" if found == "manual" else "auto" if found == "auto" else "fixed"
    burst = override.get("burst")
    if mode == "fixed":
        reason = "KLAIS_DAM_MAX_RATE fixes the rate" if settings.control_auto is None else "KLAIS_CONTROL_AUTO is false"
        return OperatorRequest(mode, follower.rate(settings.dam_max_rate), burst, "settings", reason)
    if mode == "auto":
        return OperatorRequest(mode, None, burst)
    author, reason = str(override.get("author", "?")), str(override.get("reason", ""))
    return OperatorRequest(mode, follower.rate(settings.dam_max_rate), burst, author, reason)


def gains_of(settings: Settings, follower: ControlFollower) -> Gains:
    """Gains in force: those of the settings, each replaced by an override if there is one."""
    tuned = (follower.override() or {}).get("gains") or {}
    s = settings
    given = (s.pid_kp, s.pid_ki, s.pid_kd, s.pid_filter_s)
    return Gains(*(_positive(tuned, name, default) for name, default in zip(GAINS, given, strict=True)))


def targets_of(settings: Settings, follower: ControlFollower) -> Targets:
    """Set-points and bounds in force."""
    tuned = (follower.override() or {}).get("setpoints") or {}
    s = settings
    return Targets(
        lag=_positive(tuned, "lag", s.pid_lag_setpoint, 1.0),
        cpu=_positive(tuned, "cpu", s.pid_cpu_setpoint, 0.01),
        rate_min=min(s.pid_rate_min, s.pid_rate_max),
        rate_max=s.pid_rate_max,
        rate_start=s.dam_max_rate,
        burst=s.dam_burst_size,
        queue_limit=float(s.dam_queue_limit),
        device_rate=s.dam_device_rate,
    )


def recovered(record: dict[str, Any] | None, partitions: int) -> LoopState:
    """The loop's state from the last ``global`` record of a controller; a new state if that record is missing or
    unusable."""
    if not record or record.get("mode") not in ("auto", "manual"):
        return LoopState()
    try:
        terms, error, gains = record["terms"], record["error"], record["gains"]
        pid = PidState(
            float(terms["i"]), None, float(error["both"]), 0.0, Gains(*(float(gains[name]) for name in GAINS))
        )
        shares = {int(p): float(share) for p, share in record["shares"].items()}
        kept = shares if sorted(shares) == list(range(partitions)) else None
        output, cut = (min(max(float(value), 0.0), 1.0) for value in (terms["output"], record["cut"]))
        return LoopState(pid, output, CutState(cut), kept)
    except (KeyError, TypeError, ValueError, AttributeError):
        return LoopState()
