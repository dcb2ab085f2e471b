"""A PID controller as a pure step: state and one measurement in, state and terms out. No clock, no I/O.

The form is that of Åström and Hägglund, *Advanced PID Control* (2006), chapters 3 and 13: parallel gains, the
derivative on the filtered measurement (a step of the set-point gives no kick), conditional integration against windup
(section 3.5), and an integral in units of the output, so that a change of gains or between manual and automatic is
bumpless.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Gains:
    """``kp`` (output a unit of error), ``ki`` (1/s), ``kd`` (s), ``filter_s`` time constant of the derivative's filter
    (s)."""

    kp: float
    ki: float
    kd: float
    filter_s: float


class Terms(NamedTuple):
    """The terms of an output: ``raw`` is ``p + i + d`` before clamping, ``output`` after it."""

    p: float
    i: float
    d: float
    raw: float
    output: float


@dataclass(frozen=True, slots=True)
class PidState:
    """``integral`` in units of the output, ``filtered`` measurement (None before the first), ``error`` and ``slope`` of
    the newest step, and its ``gains``."""

    integral: float = 0.0
    filtered: float | None = None
    error: float = 0.0
    slope: float = 0.0
    gains: Gains | None = None


def step(
    state: PidState, gains: Gains, error: float, measurement: float, dt_s: float, low: float, high: float
) -> tuple[PidState, Terms]:
    """One decision.

    Parameters
    ----------
    state : PidState
        From the previous step.
    gains : Gains
        Gains in force; a change is bumpless.
    error : float
        Set-point - measurement, in units of the caller's choice.
    measurement : float
        For the derivative only.
    dt_s : float
        Time since the previous step, above 0.
    low, high : float
        Limits of the output.

    Returns
    -------
    state, terms : PidState, Terms

    Examples
    --------
    >>> _, terms = step(PidState(), Gains(0.5, 0.2, 0.0, 0.5), 1.0, 0.0, 0.1, 0.0, 1.0)
    >>> terms.p, round(terms.i, 3), round(terms.output, 3)
    (0.5, 0.02, 0.52)
    """
    state = _same_output(state, gains)
    filtered, slope = _derivative(state, measurement, dt_s, gains.filter_s)
    p, d = gains.kp * error, -gains.kd * slope
    growth = gains.ki * error * dt_s
    # Integrate only up to the limit: growth beyond it is left out, growth back from it counts in full.
    upper, lower = max(state.integral, high - p - d), min(state.integral, low - p - d)
    integral = min(max(state.integral + growth, lower), upper)
    raw = p + integral + d
    terms = Terms(p, integral, d, raw, min(max(raw, low), high))
    return PidState(integral, filtered, error, slope, gains), terms


def track(
    state: PidState, gains: Gains, error: float, measurement: float, dt_s: float, output: float
) -> tuple[PidState, Terms]:
    """A step in manual mode: an operator chose ``output``. The state follows, so that automatic continues there."""
    filtered, slope = _derivative(state, measurement, dt_s, gains.filter_s)
    p, d = gains.kp * error, -gains.kd * slope
    integral = output - p - d
    return PidState(integral, filtered, error, slope, gains), Terms(p, integral, d, output, output)


def _derivative(state: PidState, measurement: float, dt_s: float, filter_s: float) -> tuple[float, float]:
    """Measurement after a first-order filter, and its slope per second (0 at the first measurement)."""
    if dt_s <= 0.0:
        raise ValueError(f"dt_s is {dt_s}, must be above 0")
    if state.filtered is None:
        return measurement, 0.0
    filtered = state.filtered + (measurement - state.filtered) * dt_s / (filter_s + dt_s)
    return filtered, (filtered - state.filtered) / dt_s


def _same_output(state: PidState, gains: Gains) -> PidState:
    """The state with an adjusted integral, so that new gains would have given the same output in the newest step."""
    old = state.gains
    if old is None or old == gains:
        return state
    moved = state.integral + (old.kp - gains.kp) * state.error - (old.kd - gains.kd) * state.slope
    return replace(state, integral=moved, gains=gains)
