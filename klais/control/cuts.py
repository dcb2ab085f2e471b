"""The cut of the rate ahead of a forecast burst: two steps, applied immediately and reverted slowly (pure)."""

from dataclasses import dataclass

CUT_AT, CUT = 0.5, 0.25
ALERT_AT, ALERT_CUT = 0.8, 0.5
BACK_OFF = 0.1  # a step is reverted when the probability is this much below its threshold ...
HOLD_S = 5.0  # ... for this time without interruption


@dataclass(frozen=True, slots=True)
class CutState:
    """The present ``cut`` (share of the rate), and since when the probability allows a smaller one (None = it does
    not)."""

    cut: float = 0.0
    calm_since_s: float | None = None

    @property
    def alert(self) -> bool:
        """Whether operators should check the system."""
        return self.cut >= ALERT_CUT


def wanted(probability: float, slack: float = 0.0) -> float:
    """The cut for a burst probability, with the thresholds lowered by ``slack``.

    Examples
    --------
    >>> wanted(0.49), wanted(0.5), wanted(0.8), wanted(0.81)
    (0.0, 0.25, 0.25, 0.5)
    """
    if probability > ALERT_AT - slack:
        return ALERT_CUT
    return CUT if probability >= CUT_AT - slack else 0.0


def next_cut(state: CutState, probability: float, now_s: float) -> CutState:
    """The cut after one more forecast. It increases immediately, and decreases by one step after 5 s well below the
    threshold.
    """
    if wanted(probability) > state.cut:
        return CutState(wanted(probability))
    if wanted(probability, BACK_OFF) >= state.cut:
        return CutState(state.cut)
    if state.calm_since_s is None:
        return CutState(state.cut, now_s)
    if now_s - state.calm_since_s < HOLD_S:
        return state
    return CutState(CUT if state.cut > CUT else 0.0, now_s)
