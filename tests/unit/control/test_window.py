"""The rows of the forecast's window: steady traffic stays steady whatever happens to the reports about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from klais.config.load import Settings
from klais.control.cuts import CUT_AT
from klais.control.defence import MIN_CONFIDENCE
from klais.control.forecast import FEATURES, TrafficForecast
from klais.control.window import TrafficWindow
from klais.models.store import ModelStore
from klais.telemetry.view import SystemView
from klais.traffic.chain import trees_of
from klais.traffic.predictor import KIND, LearnedPredictor, RulesPredictor
from klais.traffic.trees import Trees, evaluate

RATE, DEVICES, DUPLICATES, SIZE = 1000.0, 500, 0.01, 100.0
AT = {name: at for at, name in enumerate(FEATURES)}


class Exactly:
    """No noise."""

    def poisson(self, mean: float) -> float:
        return mean


@dataclass
class Edge:
    """An edge in steady traffic, with the noise of independent devices; ``run`` advances it by a second."""

    share: float = 1.0
    instance: str = "a"
    uptime_s: float = 0.5
    received: float = 0.0
    rate: float = RATE
    random: np.random.Generator | Exactly = field(default_factory=lambda: np.random.default_rng(1))
    second: float = 0.0

    def run(self, seconds: float = 1.0) -> None:
        self.uptime_s += seconds
        self.second = float(self.random.poisson(self.rate * self.share * seconds)) / seconds
        self.received += self.second * seconds

    def restart(self) -> None:
        self.instance, self.uptime_s, self.received = self.instance + "+", 0.0, 0.0

    def record(self) -> dict:
        n = self.second
        traffic = {"seconds": 1.0, "frames": int(n), "devices": n / 2, "log_sum": n * np.log(2.0), "top": 3}
        traffic |= {"bytes": int(n * SIZE), "bytes_squared": n * SIZE**2 * 1.1}
        counters = {"received": self.received, "received_bytes": self.received * SIZE, "dropped": {}}
        about = {"counters": counters, "gauges": {"traffic": traffic}, "rates": {}}
        return about | {"uptime_s": self.uptime_s, "instance": self.instance}


@dataclass
class Worker:
    """A worker with live ``lanes`` of four; each holds a quarter of the devices and of the frames so far."""

    lanes: set[int] = field(default_factory=lambda: set(range(4)))
    frames: dict[int, float] = field(default_factory=lambda: dict.fromkeys(range(4), 5e6))
    instance: str = "w"
    uptime_s: float = 0.3
    restarts: int = 0
    resets: float = 0.0

    def run(self, seconds: float = 1.0, rate: float = RATE) -> None:
        self.uptime_s += seconds
        for lane in self.lanes:
            self.frames[lane] += rate * seconds / 4

    def record(self) -> dict:
        frames = sum(self.frames[lane] for lane in self.lanes)
        dropped = {"duplicate": DUPLICATES * frames, "device_rate": 0.001 * frames, "bad_json": 0.002 * frames}
        counters = {"received": frames, "dropped": dropped, "resets": self.resets, "devices_forgotten": 0}
        lag = {str(lane): 0.0 for lane in self.lanes}
        gauges = {"devices": len(self.lanes) * DEVICES // 4, "lag_records": lag, "lane_restarts": self.restarts}
        about = {"counters": counters, "gauges": gauges, "rates": {}}
        return about | {"uptime_s": self.uptime_s, "instance": self.instance}


def view(edges: dict[str, Edge], workers: dict[str, Worker]) -> SystemView:
    records = {
        "edge": {name: edge.record() for name, edge in edges.items()},
        "worker": {name: worker.record() for name, worker in workers.items()},
        "controller": {},
    }
    return SystemView.of(records.__getitem__)


NOBODY = SystemView({}, {}, {})
Story = Iterator[SystemView | None]  # what the controller sees in each second; None: it does not run


def steady(edges: dict[str, Edge], workers: dict[str, Worker], seconds: int) -> Story:
    for _ in range(seconds):
        for each in (*edges.values(), *workers.values()):
            each.run()
        yield view(edges, workers)


def an_outage_of_kafka(seconds: int, restarts: bool) -> Story:
    """Nobody is heard, edges spool. Then lanes come back one by one, and process the spool ten times as fast."""
    edges, workers = {"e": Edge()}, {"w": Worker()}
    yield from steady(edges, workers, 70)
    stale = view(edges, workers)
    for second in range(seconds):
        edges["e"].run()
        yield stale if second < 3 else NOBODY
    if restarts:
        workers["w"] = Worker(lanes=set(), frames=workers["w"].frames, instance="w2", uptime_s=0.0)
    else:
        workers["w"].restarts += 4
    workers["w"].uptime_s += seconds
    workers["w"].lanes = set()
    for lane in (None, 0, 1, 2, None, 3):
        workers["w"].lanes |= {lane} - {None}
        edges["e"].run()
        workers["w"].run(rate=10 * RATE)
        yield view(edges, workers)
    for _ in range(seconds // 10 + 1):
        edges["e"].run()
        workers["w"].run(rate=11 * RATE)
        yield view(edges, workers)
    yield from steady(edges, workers, 20)


def reports_come_late_and_in_bulk() -> Story:
    """Each report is read up to five seconds after it was written; some are lost."""
    edges, workers, shown = {"e": Edge(), "f": Edge(0.5)}, {"w": Worker()}, NOBODY
    random = np.random.default_rng(1)
    for second in range(150):
        for each in (*edges.values(), *workers.values()):
            each.run()
        if random.random() < 0.5 and not 90 < second < 95:
            now = view(edges, workers)
            late = [name for name in edges if random.random() < 0.3]
            known = {name: edge for name, edge in now.edges.items() if name not in late or name not in shown.edges}
            shown = SystemView(dict(shown.edges) | known, now.workers, {})
        yield shown


def a_worker_restarts() -> Story:
    edges, workers = {"e": Edge()}, {"w": Worker()}
    yield from steady(edges, workers, 70)
    for _ in range(8):
        edges["e"].run()
        yield view(edges, {})
    workers["w"] = Worker(set(), workers["w"].frames, "w2", 0.0)
    for lane in (0, 2, 1, 3):
        workers["w"].lanes.add(lane)
        yield from steady(edges, workers, 1)
    yield from steady(edges, workers, 30)


def lanes_move() -> Story:
    """A second worker takes half of the lanes, and stops again."""
    edges, one = {"e": Edge()}, Worker()
    yield from steady(edges, {"w": one}, 70)
    two = Worker(set(), one.frames, "v", 0.0)
    for moves in (
        (set(), set()),
        (set(), {2}),
        ({0, 1}, {2, 3}),
        ({0, 1}, set()),
        (set(), set()),
        ({0, 1, 2, 3}, set()),
    ):
        one.lanes, two.lanes = set(moves[0]), set(moves[1])
        yield from steady(edges, {"w": one, "v": two}, 6)
    yield from steady(edges, {"w": one}, 20)


def an_edge_is_not_heard() -> Story:
    """One of two edges sends no reports for 20 s, and again for three minutes, although it receives."""
    edges, workers = {"e": Edge(0.5), "f": Edge(0.5)}, {"w": Worker()}
    yield from steady(edges, workers, 70)
    for seconds in (20, 180):
        for _ in range(seconds):
            edges["e"].run(), edges["f"].run(), workers["w"].run()
            yield view({"e": edges["e"]}, workers)
        yield from steady(edges, workers, 40)


def an_edge_restarts() -> Story:
    """The only edge is away for 10 s; and one of two, while the other one has its devices."""
    edges, workers = {"e": Edge()}, {"w": Worker()}
    yield from steady(edges, workers, 70)
    edges["e"].restart()
    yield from (NOBODY for _ in range(10))
    yield from steady(edges, workers, 40)
    edges["f"] = Edge(0.5, uptime_s=0.0)
    edges["e"].share = 0.5
    yield from steady(edges, workers, 90)
    gone = edges.pop("f")
    edges["e"].share = 1.0
    yield from steady(edges, workers, 90)
    gone.restart()
    edges["e"].share, edges["f"] = 0.5, gone
    yield from steady(edges, workers, 60)


def the_controller_pauses() -> Story:
    """Its process stands still for 20 s."""
    edges, workers = {"e": Edge()}, {"w": Worker()}
    yield from steady(edges, workers, 70)
    yield from (None for _ in steady(edges, workers, 20))
    yield from steady(edges, workers, 20)


def extra_reports() -> Story:
    """Limits change: reports come within a tenth of a second of each other."""
    edges, workers = {"e": Edge()}, {"w": Worker()}
    for second in range(150):
        step_s = 0.1 if second % 4 == 1 else 1.3
        for each in (*edges.values(), *workers.values()):
            each.run(seconds=step_s)
        yield view(edges, workers)


STORIES: dict[str, Callable[[], Story]] = {
    "outage_of_5_s": lambda: an_outage_of_kafka(5, restarts=False),
    "outage_of_40_s": lambda: an_outage_of_kafka(40, restarts=False),
    "outage_with_restart_of_the_worker": lambda: an_outage_of_kafka(40, restarts=True),
    "outage_of_10_minutes": lambda: an_outage_of_kafka(600, restarts=False),
    "late": reports_come_late_and_in_bulk,
    "worker": a_worker_restarts,
    "rebalance": lanes_move,
    "silent_edge": an_edge_is_not_heard,
    "edge": an_edge_restarts,
    "controller": the_controller_pauses,
    "extra": extra_reports,
}


@dataclass
class Plain:
    """The trees without any library."""

    trees: Trees
    name: str = "plain"

    def run(self, x: np.ndarray) -> np.ndarray:
        return evaluate(self.trees, x)


@pytest.fixture(scope="module")
def learned() -> LearnedPredictor:
    model = next(m for m in ModelStore.of(Settings()).models(KIND) if m.active)
    return LearnedPredictor(Plain(trees_of(model)), model.version)


def calm(forecast: TrafficForecast) -> bool:
    hostile = forecast.kind in ("attack", "thundering_herd") and forecast.confidence >= MIN_CONFIDENCE
    return forecast.probability < CUT_AT and not hostile


@pytest.mark.parametrize("name", STORIES)
def test_steady_traffic_is_steady_whatever_happens_to_its_reports(name: str, learned: LearnedPredictor) -> None:
    window, seen, rules = TrafficWindow(), 0, RulesPredictor()
    total = 1.5 * RATE if name == "late" else RATE
    for second, system in enumerate(STORIES[name]()):
        if system is None or not window.add(float(second), system) or second < 5:
            continue
        rows = window.rows()
        assert rows[:, AT["rate"]].min() > 0.4 * total, (second, rows[:, AT["rate"]].round())
        moved = 1.6 if name == "edge" else 1.2  # frames of an edge that stops count twice for some seconds
        assert rows[:, AT["rate"]].max() < moved * total, (second, rows[:, AT["rate"]].round())
        assert rows[:, AT["new_devices"]].max() == 0.0, second
        assert rows[:, AT["duplicates"]].max() <= 1.1 * DUPLICATES * total, second
        assert rows[:, AT["malformed"]].max() <= 0.003 * total and rows[:, AT["limited"]].max() <= 0.0015 * total
        assert calm(rules.predict(rows)), (second, rules.predict(rows).why)
        assert calm(learned.predict(rows)), (second, learned.predict(rows).why)
        seen += 1
    assert seen > 60


def test_a_row_is_the_growth_of_one_second() -> None:
    edge, worker, window = Edge(), Worker(), TrafficWindow()
    edge.random = Exactly()
    assert not window.add(0.0, view({"e": edge}, {"w": worker}))
    edge.run(), worker.run()
    worker.resets = 7.0
    assert not window.add(0.5, view({"e": edge}, {"w": worker}))  # within the same second
    assert window.add(1.0, view({"e": edge}, {"w": worker}))
    assert not window.is_due(1.9) and window.is_due(2.0)
    row = dict(zip(FEATURES, window.rows()[-1].tolist(), strict=True))
    assert row["rate"] == RATE and row["payload_bytes"] == SIZE and row["devices"] == DEVICES
    assert row["duplicates"] == pytest.approx(10.0) and row["malformed"] == pytest.approx(2.0)
    assert row["limited"] == pytest.approx(1.0) and row["resets"] == 7.0 and row["new_devices"] == 0.0
    assert row["dropped"] == pytest.approx(13.0) and row["active"] == 500.0
    assert row["entropy"] == pytest.approx(np.log(500)) and row["top_share"] == 0.003
    assert row["size_cv"] == pytest.approx(0.1**0.5)
    assert len(window.rows()) == 1


def test_batches_that_an_edge_repeats_are_no_traffic() -> None:
    worker, window = Worker(), TrafficWindow()
    edge = Edge()
    for second in range(3):
        edge.run(), worker.run()
        record = worker.record()
        record["counters"]["dropped"]["repeated_batch"] = 5000.0 * second
        record["counters"]["received"] += 5000.0 * second
        records = {"edge": {"e": edge.record()}, "worker": {"w": record}, "controller": {}}
        window.add(float(second), SystemView.of(records.__getitem__))
    assert window.rows()[-1, AT["dropped"]] == pytest.approx(13.0)


def test_the_window_keeps_the_noise_of_the_traffic_over_an_outage() -> None:
    """With 60 times the mean of the outage, the noise of the next second would be a surprise."""
    window, before = TrafficWindow(), 0.0
    for second, system in enumerate(an_outage_of_kafka(600, restarts=False)):
        window.add(float(second), system)
        if second >= 60:
            spread = float(window.rows()[:, AT["rate"]].std())
            before = before or spread
            assert spread > 0.7 * before > 0.0, second
    assert len(window.rows()) == 60


@pytest.mark.parametrize("gap_s", [0, 40])
def test_a_real_burst_is_seen_also_right_after_an_outage(gap_s: int, learned: LearnedPredictor) -> None:
    edges, workers, window = {"e": Edge()}, {"w": Worker()}, TrafficWindow()
    for second, system in enumerate(steady(edges, workers, 70)):
        window.add(float(second), system)
    for _ in range(gap_s):
        edges["e"].run()
    for at in range(6):
        edges["e"].rate = RATE * (1.0 + min(at, 4))
        edges["e"].run(), workers["w"].run()
        window.add(float(70 + gap_s + at), view(edges, workers))
    rate = window.rows()[:, AT["rate"]]
    assert rate[-5:] == pytest.approx([2 * RATE, 3 * RATE, 4 * RATE, 5 * RATE, 5 * RATE], rel=0.1)
    assert np.median(rate) == pytest.approx(RATE, rel=0.05)
    assert learned.predict(window.rows()).probability > CUT_AT


def test_new_devices_and_floods_are_counted_as_before() -> None:
    edges, workers, window = {"e": Edge()}, {"w": Worker()}, TrafficWindow()
    for second, system in enumerate(steady(edges, workers, 70)):
        window.add(float(second), system)
    for second in range(70, 80):
        edges["e"].rate = 4 * RATE
        edges["e"].run(), workers["w"].run(rate=4 * RATE)
        records = {"edge": {"e": edges["e"].record()}, "worker": {"w": workers["w"].record()}, "controller": {}}
        records["worker"]["w"]["counters"]["dropped"]["bad_json"] += (second - 69) * 3 * RATE
        window.add(float(second), SystemView.of(records.__getitem__))
    forecast = RulesPredictor().predict(window.rows())
    assert forecast.kind == "attack", forecast.why


def test_processes_that_are_gone_for_an_hour_are_forgotten() -> None:
    window = TrafficWindow()
    window.add(0.0, view({"e": Edge()}, {"w": Worker()}))
    window.add(1.0, NOBODY)
    assert set(window._edges) == {"e"} and set(window._workers) == {"w"}
    window.add(4000.0, NOBODY)
    assert not window._edges and not window._workers and window.rows().shape == (0, len(FEATURES))
