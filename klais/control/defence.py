"""Effects of the traffic class: a herd is admitted and queued, an attack lowers the limit per device (pure).

A cut of the rate ahead of a burst buys headroom for a noisy system. For devices that reconnect, the opposite is right:
their frames are wanted, so the rate stays and follows the forecast, and the queue takes the rest. In an attack the
limit of each device falls to twice the usual rate of the busiest device. A device that behaves as usual loses no frames
by that, even if the class is wrong.
"""

from dataclasses import dataclass

from klais.control.forecast import TrafficForecast

MIN_CONFIDENCE = 0.7  # confidence from which a class counts
ATTACK_S = 2.0  # an attack lasts this long before limits tighten ...
RELEASE_S = 10.0  # ... and is over for this long before they widen
USUAL_FACTOR = 2.0  # times the usual frames/s of the busiest device
MIN_SHARE = 0.05  # of KLAIS_DAM_DEVICE_RATE: no limit is lower


@dataclass(frozen=True, slots=True)
class Defence:
    """``limit`` of a device while tightened (frames/s, None = that of the settings), the start of the attack, and the
    time since which it is over (monotonic s)."""

    limit: float | None = None
    attack_since_s: float | None = None
    calm_since_s: float | None = None


def is_herd(forecast: TrafficForecast) -> bool:
    """Whether devices reconnect, with high confidence."""
    return forecast.kind == "thundering_herd" and forecast.confidence >= MIN_CONFIDENCE


def is_attack(forecast: TrafficForecast) -> bool:
    """Whether much of the traffic is hostile, with high confidence."""
    return forecast.kind == "attack" and forecast.confidence >= MIN_CONFIDENCE


def expected_rate(forecast: TrafficForecast) -> float:
    """The rate to prepare for (frames/s): the upper decile of the forecast for wanted traffic, else 0."""
    wanted = forecast.kind in ("elevated", "burst", "thundering_herd") and forecast.confidence >= MIN_CONFIDENCE
    return forecast.quantiles[2] if wanted else 0.0


def next_defence(state: Defence, forecast: TrafficForecast, device_rate: float, now_s: float) -> Defence:
    """The limit after one more forecast. It is set once per attack, from the traffic before it, and then kept.

    Examples
    --------
    >>> attack = TrafficForecast(0, 0, 0, "", kind="attack", confidence=0.9, busiest=40)
    >>> state = next_defence(Defence(), attack, 1000.0, 0.0)
    >>> state.limit, next_defence(state, attack, 1000.0, 2.0).limit
    (None, 80.0)
    """
    if is_attack(forecast):
        since_s = now_s if state.attack_since_s is None else state.attack_since_s
        limit = state.limit
        if limit is None and now_s - since_s >= ATTACK_S:
            limit = min(device_rate, max(MIN_SHARE * device_rate, USUAL_FACTOR * forecast.busiest))
        return Defence(limit, since_s, None)
    if state.limit is None:
        return Defence()
    if state.calm_since_s is None:
        return Defence(state.limit, state.attack_since_s, now_s)
    return state if now_s - state.calm_since_s < RELEASE_S else Defence()
