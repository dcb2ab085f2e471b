"""What the benchmark of overload makes of its looks: series by second, when it settled, when all is normal again."""

from dataclasses import astuple, fields

import numpy as np
import pytest

from bench.overload import landed_per_s, load_ends, normal_after
from bench.overload_watch import NAMES, CpuTimes, Floats, Look, column, series, waiting


def looks(landed_per_s: list[float], waits: list[float] | None = None, begin_s: float = 100.0) -> Floats:
    """Four looks a second while so much lands in each second; ``waits`` frames of lag in each."""
    waits = waits or [0.0] * len(landed_per_s)
    out, landed = [], 0.0
    for second, per_s in enumerate(landed_per_s):
        for quarter in range(4):
            named = {"at_s": begin_s + second + quarter / 4, "landed": landed, "received": 2 * landed, "shed": landed}
            named |= {"checkpoints": second // 2, "lag": waits[second], "intake": np.inf}
            look = Look(**dict.fromkeys(NAMES, 0.0) | named)
            out.append(astuple(look))
            landed += per_s / 4
    return np.array(out, np.float64)


def test_series_have_rates_of_what_adds_up_and_the_rest_as_it_was() -> None:
    rows = looks([1000.0, 1000.0, 3000.0, 1000.0, 1000.0, 1000.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    cpu = np.outer(column(rows, "at_s") - 100.0, np.full(len(fields(CpuTimes)), 0.2))
    out = series(rows, cpu, step_s=102.0)
    assert [row["at_s"] for row in out] == [-2, -1, 0, 1, 2]
    assert [row["landed_per_s"] for row in out] == [1000, 1000, 3000, 1000, 1000]
    assert [row["received_per_s"] for row in out] == [2000, 2000, 6000, 2000, 2000]
    assert [row["lag"] for row in out] == [2.0, 3.0, 4.0, 5.0, 6.0]  # at the end of each second
    assert sum(row["checkpoints"] for row in out) == 2 and all(row["cpu_worker"] == 0.2 for row in out)
    assert out[0]["intake"] is None  # nobody limits: infinity is no JSON
    assert series(rows[:3], cpu[:3], 102.0) == []


def test_what_landed_is_taken_between_looks_in_a_straight_line() -> None:
    rows = looks([1000.0, 3000.0, 1000.0])
    assert landed_per_s(rows, 100.5, 101.5) == pytest.approx(2000.0)


def test_waiting_is_what_was_let_in_and_has_not_landed_and_normal_when_little_waits_for_good() -> None:
    rows = looks([0.0] * 6)
    for name, per_second in (("received", [90, 90, 90, 140, 140, 140]), ("shed", [10, 10, 60, 60, 60, 60])):
        rows[:, NAMES.index(name)] = np.repeat(per_second, 4)
    rows[:, NAMES.index("dropped")] = np.repeat([0, 0, 0, 0, 40, 50], 4)
    assert waiting(rows)[::4].tolist() == [0.0, 0.0, -50.0, 0.0, -40.0, -50.0]
    assert normal_after(rows, 101.0, -10.0) == 3.0
    assert normal_after(rows, 103.0, -10.0) == 1.0  # counted from the first look of all, not from the first after the load
    assert normal_after(rows, 101.0, 100.0) == 0.0
    assert normal_after(rows[:16], 101.0, -10.0) is None


def test_the_load_ends_with_its_last_frame_not_with_its_sender() -> None:
    rows = looks([0.0] * 4)
    rows[:, NAMES.index("received")] = [0, 10, 20, 30, 40, 50, 50, 50, 50, 50, 50, 60, 70, 80, 90, 99]
    assert load_ends(rows, 102.5) == 101.25
