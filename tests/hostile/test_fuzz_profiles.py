"""Profiles that somebody else wrote to the table of profiles: passed over, or numbers that kernels can go on with.

``make test-bounds`` runs this with bounds checks, where a place outside of an array is an error.
"""

import numpy as np
import pytest

from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.channel import BLOCKS, FULL, HOURS, HOURS_LIGHT, LIGHT
from klais.core.anomaly.gate import BANDS, GATE
from klais.core.anomaly.saved import dump_profile, read_profile
from klais.core.anomaly.two_tier import TwoTier
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from tests.hostile.cases import CASES, mutated, rng, shown
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000
HEAD = 8


class Lane:
    """A lane of one device with the default detector."""

    def __init__(self) -> None:
        self.detector = TwoTier(1 << 20, 0.1, CpuBudget(1.0, lambda: 0))
        self.state = LaneState(detector=self.detector)

    def send(self, payload: bytes) -> None:
        n = self.state.next_raw
        at_ns = T0_NS + n * 60 * S
        take_raw(self.state, n, batch(frames(("a", n, payload)), n, at_ns), limits(), bounds(), at_ns)


@pytest.fixture(scope="module")
def values() -> list[bytes]:
    """Saved profiles: of a new device, and of one with channels of both tiers."""
    lane, found, random = Lane(), [], np.random.default_rng(4)
    for k in range(300):
        lane.send(b'{"t":%.2f,"h":%d}' % (20 + random.normal(), random.integers(50, 54)))
        if k in (1, 5, 100):
            found.append(dump_profile(lane.detector.store, 0))
    lane.send(b'{"t":95.2,"h":51}')  # t has a full channel now
    return [*found, dump_profile(lane.detector.store, 0)]


def with_field(value: bytes, part: str, name: str, number: float) -> bytes:
    """A profile in which a number of its gate, first light or first full channel is another."""
    out = bytearray(value)
    light = value[5]
    dtype, at = {
        "gate": (GATE, HEAD),
        "light": (LIGHT, HEAD + GATE.itemsize),
        "full": (FULL, HEAD + GATE.itemsize + light * LIGHT.itemsize),
    }[part]
    record = np.frombuffer(bytes(out[at : at + dtype.itemsize]), dtype).copy()
    record[name] = number
    out[at : at + dtype.itemsize] = record.tobytes()
    return bytes(out)


ODD = [
    *((part, "hour", hours) for part, hours in (("light", HOURS_LIGHT), ("full", HOURS), ("full", 254))),
    ("full", "place", BLOCKS),
    *((part, "feature", BANDS) for part in ("light", "full")),
    *((part, name, bad) for part in ("light", "full") for name in ("t", "spacing") for bad in (np.nan, np.inf)),
    *(("full", name, np.nan) for name in ("usual_by_hour", "ring", "slow", "low", "high")),
    *((part, "low", 3e38) for part in ("light", "full")),
    *(("gate", name, number) for name, number in (("slots", 9), ("slots", 255), ("gap4", np.nan), ("low", np.nan))),
]


@pytest.mark.parametrize(("part", "name", "number"), ODD)
def test_a_number_that_no_detector_writes_is_refused(values: list[bytes], part: str, name: str, number: float) -> None:
    """Kernels wrote to the memory behind a channel for such an hour or place."""
    good = values[-1]
    assert good[5] and good[6], "there are channels of both tiers"
    assert read_profile(good) is not None
    assert read_profile(with_field(good, part, name, number)) is None
    lane = Lane()
    lane.send(b'{"t":20.5,"h":51}')
    before = lane.detector.dump(0)
    assert not lane.detector.load(0, with_field(good, part, name, number)) and lane.detector.dump(0) == before


def test_a_profile_is_taken_over_or_passed_over_and_the_lane_goes_on(values: list[bytes]) -> None:
    random, read = rng("profiles"), 0
    lane = Lane()
    lane.send(b'{"t":20.5,"h":51}')
    for turn in range(max(50, CASES // 100)):
        value = mutated(random, values[turn % len(values)], values, 3)
        if turn % 2 and len(value) != len(values[turn % len(values)]):
            continue
        try:
            read += lane.detector.load(0, value)
            if turn % 4 == 0:
                lane.send(b'{"t":%d.5,"h":51}' % (turn % 90))
                assert len(list(lane.detector.features(0))) <= 1 + BANDS
        except Exception as error:
            raise AssertionError(shown(value)) from error
    assert read > 0
