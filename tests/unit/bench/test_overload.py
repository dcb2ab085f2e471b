"""What the benchmark of overload makes of looks and probes: series, when it settled, when all is normal, which try
counts.
"""

import itertools
from collections.abc import Callable
from dataclasses import astuple, fields

import numpy as np
import pytest

from bench.cases.overload import Step, figures_of, load_ends, normal_after, regulated_after, swing_of, tell, until_still
from bench.cases.overload.capacity import FIRST_RATE, LONG_S, MAX_RATE, Around, chosen, search
from bench.cases.overload.watch import NAMES, CpuTimes, Floats, Sample, column, landed_per_s, series, waiting
from bench.harness import BenchFailed
from bench.harness.report import Result


def looks(landed_per_s: list[float], waits: list[float] | None = None, begin_s: float = 100.0) -> Floats:
    """Four looks a second while so much lands in each second; ``waits`` frames of lag in each."""
    waits = waits or [0.0] * len(landed_per_s)
    out, landed = [], 0.0
    for second, per_s in enumerate(landed_per_s):
        for quarter in range(4):
            named = {"at_s": begin_s + second + quarter / 4, "landed": landed, "received": 2 * landed, "shed": landed}
            named |= {"checkpoints": second // 2, "lag": waits[second], "intake": np.inf}
            look = Sample(**dict.fromkeys(NAMES, 0.0) | named)
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
    assert (
        normal_after(rows, 103.0, -10.0) == 1.0
    )  # counted from the first look of all, not from the first after the load
    assert normal_after(rows, 101.0, 100.0) == 0.0
    assert normal_after(rows[:16], 101.0, -10.0) is None


def test_the_load_ends_with_its_last_frame_not_with_its_sender() -> None:
    rows = looks([0.0] * 4)
    rows[:, NAMES.index("received")] = [0, 10, 20, 30, 40, 50, 50, 50, 50, 50, 50, 60, 70, 80, 90, 99]
    assert load_ends(rows, 102.5) == 101.25


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [(100.0, 100.0, False), (100.0, 114.9, False), (114.9, 100.0, False), (100.0, 115.1, True), (115.1, 100.0, True)],
)
def test_the_machine_moved_when_two_probes_differ_by_more_than_15_percent_up_or_down(
    before: float, after: float, moved: bool
) -> None:
    around = Around(before, after)
    assert around.moved is moved
    assert around.drift == after / before and around.mean == (before + after) / 2


@pytest.mark.parametrize(
    ("probes", "counts"),
    [
        ([100.0, 101.0], 0),
        ([100.0, 200.0, 190.0], 1),
        ([100.0, 110.0, 110.0, 110.0], 0),  # the first that held still, not the stillest
        ([100.0, 200.0, 100.0, 130.0], 2),  # none did: the least drift
        ([100.0, 80.0, 160.0, 400.0], 0),  # down by a fifth is less than up by a half
        ([100.0, 50.0, 80.0, 130.0], 1),
    ],
)
def test_the_try_that_counts_is_the_first_that_held_still_else_the_stillest(probes: list[float], counts: int) -> None:
    assert chosen([Around(before, after) for before, after in itertools.pairwise(probes)]) == counts


def worker_of(capacities: list[float]) -> tuple[Callable[[float, float], tuple[float, float]], list[float]]:
    """A worker that carries so much in each probe in turn, then what it did last; and what it was offered (long:
    negative).
    """
    offered: list[float] = []

    def probe(rate: float, lasts_s: float) -> tuple[float, float]:
        offered.append(-rate if lasts_s == LONG_S else rate)
        return min(rate, capacities[min(len(offered), len(capacities)) - 1]), rate

    return probe, offered


def test_a_search_climbs_until_a_probe_overloads_and_takes_what_lands_in_a_long_one() -> None:
    probe, offered = worker_of([134_000.0, 134_000.0, 131_000.0, 127_000.0])
    assert search(probe, FIRST_RATE) == 127_000.0
    assert offered == pytest.approx([100_000, 150_000, 225_000, -1.3 * 131_000])


def test_a_search_from_a_capacity_that_still_holds_takes_two_probes_near_it() -> None:
    probe, offered = worker_of([90_000.0, 95_000.0])
    assert search(probe, 1.3 * 92_000) == 95_000.0
    assert offered == pytest.approx([119_600, -117_000])


def test_a_slow_moment_in_a_search_is_no_smaller_worker() -> None:
    probe, offered = worker_of([40_000.0, 100_000.0])
    assert search(probe, FIRST_RATE) == 100_000.0
    assert offered == pytest.approx([100_000, -52_000, 78_000, 117_000, 175_500, -130_000])


def test_a_search_gives_up_when_nothing_overloads_the_worker() -> None:
    probe, offered = worker_of([1e9])
    with pytest.raises(BenchFailed, match="give it less CPU"):
        search(probe, FIRST_RATE)
    assert max(offered) == MAX_RATE and min(offered) > 0


WORKED = {-1: 0.05, 1: 0.1, 2: 0.2, 9: 0.19, 10: 0.07}  # second -> CPUs of the worker
CALM = {"cpu_others": 0.1, "waiting": 0.0, "cpu_sender": 0.3, "received_per_s": 140.0}
SERIES = [{"at_s": at, "cpu_worker": cpu, **CALM} for at, cpu in WORKED.items()]


def step_of(goodput: float) -> Step:
    """10 s of an overload, from second 6 on, in which so much lands; calm before and after."""
    rows = looks([30.0] * 6 + [goodput] * 10 + [30.0] * 16)
    return Step(rows, (100.0, 106.0, 116.0, 128.0), (180, 1400, 360), {"unaccounted": 0}, SERIES)


def test_a_step_is_compared_with_the_mean_of_the_probes_around_it() -> None:
    row = figures_of(step_of(99.0), Around(100.0, 120.0), 1.4, 10.0, 0.2)
    assert (row["capacity_before_per_s"], row["capacity_after_per_s"], row["drift"]) == (100, 120, 1.2)
    assert row["worker_cpus_min"] == 0.19, "of the seconds of the step, without its first two"
    assert row["goodput_per_s"] == 99 and row["goodput_share"] == 0.9 and row["moved"] is True
    assert row["offered_share"] == round(140 / 110, 3)


@pytest.mark.parametrize(
    ("second", "gained", "after"),
    [
        (1, {"cpu_worker": 0.1}, 2.0),
        (3, {"cpu_worker": 0.16}, 4.0),
        (3, {"cpu_worker": 0.171}, 0.0),
        (4, {"waiting": 241.0}, 5.0),
        (4, {"waiting": 240.0}, 0.0),
    ],
)
def test_regulated_is_a_worker_that_is_never_idle_and_little_that_waits(
    second: int, gained: dict[str, float], after: float
) -> None:
    rows = [{"at_s": float(at), "cpu_worker": 0.2, "waiting": 100.0} for at in range(-3, 20)]
    rows[1]["cpu_worker"] = rows[20]["cpu_worker"] = 0.05  # before the step, and in its last seconds
    rows[3 + second] |= gained
    assert regulated_after(rows, 19.0, 0.2, 240.0) == after


def test_a_row_says_how_much_waited_before_the_step() -> None:
    step = step_of(90.0)
    at = column(step.samples, "at_s")
    step.samples[:, NAMES.index("received")] = (
        column(step.samples, "landed") + column(step.samples, "shed") + 60.0 * (at == 103.0)
    )
    step.samples[:, NAMES.index("received")] += 240.0 * ((at > 107.0) & (at < 118.0))
    row = figures_of(step, Around(120.0, 120.0), 1.4, 10.0, 0.2)
    assert (row["waited_before_s"], row["waited_max_s"]) == (0.5, 2.0)
    assert row["normal_s"] is not None


@pytest.mark.parametrize(
    ("probes", "stepped_from"),
    [
        ([100.0, 105.0], [100.0]),
        ([100.0, 150.0, 150.0], [100.0, 150.0]),
        ([100.0, 150.0, 220.0, 270.0, 999.0], [100.0, 150.0, 220.0]),
    ],
)
def test_a_step_is_made_again_from_the_newest_probe_until_the_machine_holds_still_three_times_at_most(
    probes: list[float], stepped_from: list[float]
) -> None:
    found = iter(probes[1:])
    capacities: list[float] = []

    def step(capacity: float) -> Step:
        capacities.append(capacity)
        return step_of(90.0)

    tries = until_still(probes[0], 10.0, step, lambda _: next(found))
    assert capacities == stepped_from
    assert [(around.before, around.after) for around, _ in tries] == list(itertools.pairwise(probes))[: len(tries)]


def test_the_senders_cpu_time_a_frame_tells_the_machines_speed_within_a_step() -> None:
    def series(slow: range, share: float) -> list[dict[str, float]]:
        return [
            {"at_s": at, "received_per_s": 100.0, "cpu_sender": share if at in slow else 0.2} for at in range(-3, 25)
        ]

    assert swing_of(series(range(0), 0.0), 20.0) == 1.0
    assert swing_of(series(range(8, 14), 0.3), 20.0) == pytest.approx(1.5)
    assert swing_of(series(range(8, 10), 0.3), 20.0) == pytest.approx(1.2), "two of five seconds"
    assert swing_of(series(range(-3, 2), 0.9), 20.0) == 1.0, "the sender begins"
    assert swing_of(series(range(18, 25), 0.9), 20.0) == 1.0, "it ends"
    assert Around(100.0, 101.0, 1.2).moved and not Around(100.0, 101.0, 1.1).moved


def tries_of(probes: list[float]) -> list[tuple[Around, Step]]:
    """One try between each two probes."""
    return [(Around(*pair), step_of(90.0)) for pair in itertools.pairwise(probes)]


def test_all_tries_stay_in_the_rows_and_the_one_that_counts_gives_the_figures() -> None:
    result = Result("overload")
    tell(result, 2.0, 10.0, 0.2, tries_of([100.0, 150.0, 150.0]))
    assert [(row["try"], row["moved"], row["counts"]) for row in result.rows] == [(1, True, False), (2, False, True)]
    assert [row["goodput_share"] for row in result.rows] == [0.72, 0.6]
    assert result.figures["goodput_share_2x"] == 0.6 and result.figures["unaccounted_2x"] == 0
    assert result.figures["moved_2x"] == 0 and result.figures["tries_2x"] == 2
    assert set(result.series) == {"2x", "2x_try_1"} and not result.notes


def test_a_machine_that_never_held_still_is_told_loudly() -> None:
    result = Result("overload")
    tell(result, 2.0, 10.0, 0.2, tries_of([100.0, 150.0, 180.0, 90.0]))
    assert result.figures["moved_2x"] == 1 and result.figures["drift_2x"] == 1.2 and len(result.rows) == 3
    assert [note for note in result.notes if "THE MACHINE MOVED" in note and "2x" in note]
