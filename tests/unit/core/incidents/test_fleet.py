"""A pause and a surge of the whole fleet are found; ordinary traffic is neither."""

import math

import numpy as np

from klais.core.incidents.fleet import WARM_S, FleetWatch, Reading

EDGE = frozenset({"edge-1"})


def run(
    watch: FleetWatch, rates: list[float], edges: frozenset[str] = EDGE, begin: float = 0.0
) -> list[Reading | None]:
    out, is_open = [], False
    for i, rate in enumerate(rates):
        found = watch.observe(begin + i, rate, edges, is_open)
        if found is not None:
            is_open = not found.over if is_open else found.deviates
        out.append(found)
    return out


def opened(found: list[Reading | None]) -> list[int]:
    return [i for i, reading in enumerate(found) if reading is not None and reading.deviates]


def test_a_pause_is_found_and_is_over_when_the_fleet_is_back():
    found = run(FleetWatch(), [500.0] * 200 + [0.0] * 60 + [500.0] * 60)
    at = opened(found)
    assert 209 <= at[0] <= 225 and at[-1] < 262
    reading = found[at[0]]
    assert reading is not None and reading.cause == "pause" and 450 < reading.usual < 510
    assert next(i for i, one in enumerate(found) if one is not None and one.over) < 290


def test_a_surge_is_found():
    found = run(FleetWatch(), [500.0] * 200 + [5000.0] * 60)
    reading = found[opened(found)[0]]
    assert reading is not None and reading.cause == "surge" and 5 < reading.times < 11


def test_ordinary_traffic_is_neither():
    rng = np.random.default_rng(1)
    day = [400 * (1.2 + math.sin(i / 600)) * rng.gamma(4, 0.25) for i in range(7200)]
    assert opened(run(FleetWatch(), day)) == []


def test_nothing_is_judged_before_it_is_learned_and_after_an_edge_left():
    assert opened(run(FleetWatch(), [500.0] * int(WARM_S - 20) + [0.0] * 15)) == []
    watch = FleetWatch()
    run(watch, [500.0] * 200)
    assert opened(run(watch, [0.0] * 9, frozenset({"edge-2"}), 200)) == []
    assert watch.observe(300.0, 0.0, frozenset(), False) is None


def test_a_new_leader_goes_on_with_the_usual_rate_of_the_incident():
    watch = FleetWatch(500.0)
    readings = [watch.observe(float(i), 490.0, EDGE, True) for i in range(20)]
    assert any(reading is not None and reading.over for reading in readings)


def test_a_new_rate_becomes_the_usual_one():
    found = run(FleetWatch(), [500.0] * 200 + [20.0] * 2400)
    over = [i for i, one in enumerate(found) if one is not None and one.over]
    assert len(over) == 1 and 1900 < over[0] < 2100
