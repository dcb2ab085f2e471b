"""A clock that was set back: what came from the future must not blind the scorer until that time is reached."""

import numpy as np
import pytest

from klais.core.anomaly.channel import FULL, LIGHT
from klais.core.anomaly.rhythm import BEHIND_FRAMES, FLEET, advance_clock
from klais.core.anomaly.series import score_series

YEAR_S = 365 * 86_400.0
T0 = 1.7e9
DEVICES = 50


def fleet_after(t: np.ndarray) -> list[float]:
    """The fleet's clock (s) after each frame of a lane that receives frames at times ``t``."""
    fleet = np.zeros(FLEET)
    return [advance_clock(fleet, at, DEVICES) for at in t.tolist()]


def test_one_frame_from_the_future_does_not_stop_the_clock_of_the_fleet() -> None:
    seconds = T0 + np.arange(4000.0)
    clock = fleet_after(np.insert(seconds, 1000, T0 + YEAR_S))
    assert clock[1000] - clock[999] <= 21.0, "nor does it jump"
    assert clock[-1] - clock[1000] == pytest.approx(3000 - BEHIND_FRAMES, abs=2)


def test_late_batches_neither_stop_nor_hasten_the_clock_of_the_fleet() -> None:
    live, late = T0 + np.arange(4000.0), T0 - 3600.0 + np.arange(4000.0)
    batches = [part for begin in range(0, 4000, 100) for part in (live[begin:][:100], late[begin:][:100])]
    clock = fleet_after(np.concatenate(batches))
    assert clock[-1] == pytest.approx(live[-1] - live[0], abs=2)


@pytest.mark.parametrize(("tier", "kind"), [("light", LIGHT), ("full", FULL)])
def test_a_series_that_began_in_the_future_grows_old_all_the_same(tier: str, kind: np.dtype) -> None:
    rng = np.random.default_rng(8)
    t = T0 + np.arange(10 * 1440) * 60.0
    t[:5] += YEAR_S
    x = np.round(20 + 0.3 * rng.normal(size=len(t)), 2)
    x[-1] += 3.0  # enough for a flag after two days, see YOUNG
    state = np.zeros(1, kind)
    found = score_series(t, x, tier, state)  # type: ignore[arg-type]
    assert T0 < int(state["began_s"][0]) <= T0 + 600
    assert 5.0 <= found["score"][-1] < 10.0 and found["cause"][-1]
