"""What the scenarios say of a fleet is what an edge would see of it; labels follow their rule; figures are computed."""

import numpy as np
import pytest

from klais.control.forecast import CLASSES, FEATURES, HORIZON_S, SMALL_RATE
from klais.control.measure import activity_of
from klais.edge.activity import Activity
from klais.telemetry.view import SystemView
from klais.traffic.bases import Base, shipped
from klais.traffic.features import COLUMN, NAMES, features, features_of
from klais.traffic.fleet import Fleet, Group
from klais.traffic.judging import Days, false_alarms, largest_false
from klais.traffic.predictor import OUTPUTS, RulesPredictor, cautious, interpret
from klais.traffic.scenarios import KINDS, episode, labels_of, truth
from klais.traffic.training import f1, samples


def seen_by_an_edge(of_devices: np.ndarray, size: int) -> dict[str, float]:
    """The activity of a second in which device i sends ``of_devices[i]`` frames."""
    activity = Activity(key=0x9E3779B97F4A7C15)
    ids = np.repeat(np.arange(len(of_devices), dtype=np.uint64), of_devices)
    columns = np.stack([ids, np.zeros_like(ids)], axis=1)
    activity.add(np.full(len(ids), size), np.zeros(len(ids), np.uint8), columns)
    second = {"gauges": {"traffic": activity.second(activity.began_s + 1.0)}, "counters": {}, "rates": {}}
    return activity_of(SystemView.of({"worker": {}, "edge": {"e": second}, "controller": {}}.__getitem__))


@pytest.mark.parametrize(("devices", "frames", "mixed"), [(500, 2000, True), (20_000, 1600, True), (400, 2000, False)])
def test_a_modelled_fleet_is_what_the_sketch_of_an_edge_shows(devices: int, frames: int, mixed: bool) -> None:
    rng = np.random.default_rng(1)
    each = rng.poisson(frames / devices, devices) if mixed else np.full(devices, frames // devices)
    seen = seen_by_an_edge(each, 80)
    group = Group(np.full(5, float(each.sum())), np.full(5, float(devices)), mixed, size=80, size_sd=0)
    rows = Fleet(devices, 1e9, 0.0, [group]).rows(rng)
    assert rows[:, COLUMN["active"]].mean() == pytest.approx(seen["active"], rel=0.05)
    assert rows[:, COLUMN["entropy"]].mean() == pytest.approx(seen["entropy"], abs=0.1)
    assert rows[:, COLUMN["top_share"]].mean() == pytest.approx(seen["top_share"], abs=0.01)
    assert rows[:, COLUMN["size_cv"]].max() == pytest.approx(seen["size_cv"], abs=1e-6)


def test_labels_follow_their_rule() -> None:
    calm, seconds = np.full(120, 1000.0), np.arange(120)

    def labels(**more: float) -> np.ndarray:
        groups = [Group(calm, np.full(120, 1e4))]
        for cause, share in more.items():
            groups.append(Group(np.where(seconds >= 80, 1000.0 * share, 0.0), np.full(120, 1e4), cause=cause))
        return labels_of(Fleet(1e4, 1e9, 0.0, groups))

    at = {name: CLASSES.index(name) for name in CLASSES}
    assert set(labels().tolist()) == {at["normal"]}
    assert labels(attack=2.0)[85] == at["attack"] and labels(attack=2.0)[79] == at["normal"]
    assert labels(herd=2.0)[85] == at["thundering_herd"]
    assert labels(herd=2.0, attack=2.0)[85] == at["attack"]
    assert labels(normal=2.0)[85] == at["burst"]
    assert labels(normal=0.6)[95] == at["elevated"]
    assert labels(attack=0.2)[85] == -1, "too little to say"


def test_a_burst_is_what_the_forecast_says_it_is() -> None:
    rate = np.concatenate((np.full(100, 1000.0), np.full(20, 5000.0), np.full(60, 1000.0)))
    bursts, nexts = truth(rate)
    for second in range(70, 170):
        ahead = rate[second + 1 : second + 1 + HORIZON_S].mean()
        assert nexts[second] == pytest.approx(ahead)
        assert bursts[second] == (ahead > 2 * max(float(np.median(rate[second - 59 : second + 1])), SMALL_RATE))


def test_the_same_seed_gives_the_same_windows_and_the_test_has_others() -> None:
    bases = [base.part("train") for base in shipped()]
    a, b = samples(bases, 3, 1), samples(bases, 3, 1)
    assert np.array_equal(a.x, b.x) and np.array_equal(a.labels, b.labels)
    assert not np.array_equal(samples(bases, 3, 2).x[:50], a.x[:50])
    assert np.isfinite(a.x).all() and a.x.shape[1] == len(NAMES)


def test_a_trace_is_split_by_time() -> None:
    base = Base("b", np.arange(100.0), 1.0)
    assert base.part("train").counts.tolist() == list(range(60))
    assert base.part("test").counts.tolist() == list(range(60, 100))


def test_every_kind_can_be_drawn() -> None:
    rng, base = np.random.default_rng(3), shipped()[0]
    kinds = {episode(base, rng).kind for _ in range(120)}
    assert {"calm", "herd", "outage", "burst", "elevated"} <= kinds and len(kinds) > len(KINDS)


def test_a_short_window_counts_as_one_that_was_so_before() -> None:
    rows = np.abs(np.random.default_rng(1).normal(500.0, 100.0, (20, len(FEATURES))))
    whole = np.concatenate((np.repeat(rows[:1], 40, axis=0), rows))
    assert np.array_equal(features_of(rows), features(whole[None]))


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("normal", None),
        ("attack", Group(np.full(60, 5000.0), np.full(60, 1.0), False, limited=4000.0)),
        ("attack", Group(np.full(60, 5000.0), np.full(60, 9.0), malformed=5000.0, unseen=True)),
        ("attack", Group(np.full(60, 5000.0), np.full(60, 1e4), duplicates=4800.0)),
    ],
)
def test_rules_know_the_obvious(kind: str, group: Group | None) -> None:
    groups = [Group(np.full(60, 1000.0), np.full(60, 3000.0))]
    if group is not None:
        for name in ("frames", "limited", "malformed", "duplicates"):
            setattr(group, name, np.where(np.arange(60) >= 54, getattr(group, name), 0.0))
        groups.append(group)
    window = Fleet(3000, 1e9, 0.0, groups).rows(np.random.default_rng(1))
    assert RulesPredictor().predict(window).kind == kind


def test_alarms_are_counted_once_and_false_where_nothing_follows() -> None:
    said, came = np.zeros(400), np.zeros(400, bool)
    said[[50, 55, 200, 350]] = 0.9
    came[204:208] = True
    assert false_alarms(said, came) == (3, 2)
    assert false_alarms(np.full(10, 0.5), came[:10]) == (0, 0)
    said[350] = 0.95
    seen = Days(said, said, came, np.zeros(400, np.int64), np.linspace(0.0, 2.0, 400), 1.0)
    assert [(alarm["at_s"], alarm["seconds"], alarm["probability"]) for alarm in largest_false(seen)] == [
        (350, 1, 0.95),
        (50, 6, 0.9),
    ]


def test_f1_is_the_mean_over_the_classes_that_occur() -> None:
    labels, said = np.array([0, 0, 4, 4]), np.array([0, 4, 4, 4])
    assert f1(labels, said) == {"normal": 0.6667, "attack": 0.8, "macro_f1": 0.7333}


def test_a_cautious_probability_keeps_its_order() -> None:
    said = cautious(np.linspace(0, 1, 101))
    assert (np.diff(said) > 0).all() and said[0] == 0.0 and said[-1] == 1.0


def test_onset_features_measure_a_rise_in_units_of_the_windows_own_noise() -> None:
    """The same ratio to the median is a surprise in steady traffic, and none in noisy traffic."""
    rng = np.random.default_rng(4)
    rise = np.array([40.0, 160.0, 360.0])  # arrivals that grow with the square of the time

    def of(noise: float, more: np.ndarray) -> dict[str, float]:
        rate = np.maximum(0.0, rng.normal(1000.0, noise, 60))
        rate[-len(more) :] += more
        window = np.zeros((60, len(FEATURES)))
        window[:, COLUMN["rate"]], window[:, COLUMN["active"]] = rate, rate / 2
        return dict(zip(NAMES, features_of(window)[0].tolist(), strict=True))

    calm, steady, noisy, step = of(30.0, 0 * rise), of(30.0, rise), of(600.0, rise), of(30.0, np.full(3, 360.0))
    assert abs(calm["surprise_1s"]) < 4 and calm["rate_sum"] < 10
    assert steady["surprise_1s"] > 8 and steady["rate_sum"] > 10 and steady["active_surprise_1s"] > 4
    assert abs(noisy["surprise_1s"]) < 4
    assert steady["growth_1s"] > 0.4 > abs(step["growth_1s"]), "a herd grows from second to second, a step does not"


def test_a_gap_in_the_traffic_announces_no_burst() -> None:
    """The devices may return together, but nothing shows when; a rise from a low level is another thing."""
    outputs = np.zeros((3, OUTPUTS))
    outputs[:, len(CLASSES)] = 8.0  # the trees are sure of a burst
    windows = np.full((3, 60, len(FEATURES)), 1.0)
    windows[:, :, COLUMN["rate"]] = 1000.0
    windows[0, -10:, COLUMN["rate"]] = 0.0  # a gap
    windows[1, -10:, COLUMN["rate"]] = (*[100.0] * 7, 150.0, 300.0, 600.0)  # devices return
    windows[2, -10:, COLUMN["rate"]] = 4000.0  # a burst that goes on
    said = interpret(outputs, features(windows))[1]
    assert said[0] < 0.4 and (said[1:] > 0.9).all()
