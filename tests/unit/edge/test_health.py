"""``/health`` of an edge: each state that somebody must look at is named, with what to do; a healthy one has none."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from klais.config.load import Settings
from klais.control.filter_figures import FilterFigures
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.core.wire.constants import Reason
from klais.edge.api.rate import RateSetter
from klais.edge.api.view import RECENT_S, EdgeView
from klais.edge.batcher import Batcher
from klais.edge.host_checks import ClockCheck
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.breaker import State
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.spine import Spine
from klais.kafka.same_id import SAME_ID_S, SameIdCheck
from klais.kafka.stats import StatsFollower
from klais.kafka.topic_rules import Mismatch
from klais.kafka.topics_watch import TopicsWatch
from klais.telemetry.schema import VERSION
from tests.unit.edge.test_spine import MemorySource
from tests.unit.edge.test_store_and_forward import MIB, Rig


class Edge:
    """The parts of an edge that ``/health`` looks at, on the model of Kafka; ``more``: as ``Edge._problems`` gives."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.rig = rig = Rig(folder, **overrides)
        settings, counts, source = rig.settings, rig.counts, MemorySource([])
        self.control, self.system, self.more = ControlFollower(settings), StatsFollower(settings), list[str]()
        self.spine = Spine(
            source, Batcher(1, 1 << 16, 1, 7), rig.sink, DeadLetters(rig.sink, counts, 1.0, 1e9, 1, 1), counts,
            LingerController(1_000_000, source.buffer_bytes, source.capacity, 1), LoadShedder(1),
        )  # fmt: skip
        none: Any = None
        self.applier = Applier(settings, self.control)  # not started: this test says what it found
        rate = RateSetter(settings, self.control, none)
        self.view = EdgeView(
            settings, self.spine, rig.sink, self.control, self.system, self.applier, rate, none, none, none,
            lambda: self.more, lambda: False, {},
        )  # fmt: skip

    def hears(self, name: str, kind: str, appended_ms: int | None = None, **more: Any) -> None:
        record = {"v": VERSION, "kind": kind, "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}} | more
        self.system.consume(name, orjson.dumps(record), appended_ms)


def outage(edge: Edge) -> None:
    edge.rig.offer()
    edge.rig.until(State.OPEN)


def full_spool(edge: Edge) -> None:
    outage(edge)
    while edge.rig.offer(size=10_000) is Reason.PASSED:
        pass


def full_memory(edge: Edge) -> None:
    edge.rig.disk_fails = True
    full_spool(edge)


def broken_disk(edge: Edge) -> None:
    edge.rig.disk_fails = True
    outage(edge)


def refused(edge: Edge) -> None:
    edge.rig.counts.received += 1
    edge.rig.counts.drop(Reason.BACKPRESSURE, 1)


def miscounted(edge: Edge) -> None:
    edge.rig.counts.received += 4


def full_queue(edge: Edge) -> None:
    edge.hears("w1", "worker", gauges={"queue_depth": edge.rig.settings.dam_queue_limit})


def stale(name: str) -> Callable[[Edge], None]:
    def make(edge: Edge) -> None:
        follower = getattr(edge, name)
        follower._identity.refused, follower._started_s = "Broker: Topic authorization failed", time.monotonic() - 60

    return make


def lost_control(edge: Edge) -> None:
    edge.control.consume("device/d1", b'{"block":true}')
    edge.control.reset()
    edge.control._missing_since_s -= 60


def changed_topic(edge: Edge) -> None:
    watch = TopicsWatch(Settings())
    watch.note([Mismatch("klais_raw", "retention.ms", "1", "86400000", "`klais topics create --fix` sets it")])
    edge.more += watch.problems


def refused_clock(edge: Edge) -> None:
    check = ClockCheck(edge.system, "edge-1")
    check.on_refused()
    edge.more.append(check.problem())


def bypassed(edge: Edge) -> None:
    edge.applier.figures = FilterFigures(packets={"pass": 1}, interfaces=(), bypassed=True)


def same_id(edge: Edge) -> None:
    check = SameIdCheck(edge.system, "edge-1", "ours")
    edge.hears("edge-1", "edge", instance="another", host="there")
    for second in range(round(SAME_ID_S) + 2):
        check.on_tick(float(second))
    edge.more.append(check.problem())


def wrong_clock(edge: Edge) -> None:
    edge.hears("edge-1", "edge", appended_ms=1, at_ms=7_200_000)


def late(edge: Edge) -> None:
    edge.hears("w1", "worker", gauges={"late_share": 0.5, "latency_target_ms": 100.0})


SMALL: dict[str, Any] = {"spool_max_bytes": 2 * MIB, "batch_max_bytes": 65_536}
PROBLEMS: dict[str, list[Any]] = {
    "breaker open": [outage, ("the breaker is open", "wait on disk", "retries automatically")],
    "spool full": [full_spool, ("the breaker", ""), ("the spool is full", "raise KLAIS_SPOOL_MAX_BYTES")],
    "memory full": [
        full_memory, ("the breaker", "in memory"), ("memory is full", "raise KLAIS_PUBLISH_MAX_INFLIGHT_BYTES"),
        ("cannot be written", "fix that disk"), ("were dropped", "`/stats`"),
    ],
    "disk broken": [broken_disk, ("the breaker", ""), ("cannot be written", "fix that disk")],
    "frames refused": [refused, ("were dropped in the last 5 s", "`/stats` has the reasons")],
    "miscounted": [miscounted, ("4 frames are in no counter", "report it")],
    "queue full": [full_queue, ("the dam's queue is full", "raise the rate")],
    "control stale": [stale("control"), ("klais_control has not been followed", "authorization failed")],
    "control lost": [lost_control, ("klais_control was created again", "(device/d1)", "restart it to give them up")],
    "statistics stale": [stale("system"), ("klais_stats has not been followed", "authorization failed")],
    "topic changed": [changed_topic, ("retention.ms is 1", "--fix")],
    "clock refused": [refused_clock, ("clock of this host", "correct it")],
    "id shared": [same_id, ("another edge on there", "its own KLAIS_EDGE_ID")],
}  # fmt: skip
WARNINGS: dict[str, tuple[Callable[[Edge], None], str, str]] = {
    "clock": (wrong_clock, "7200 s ahead of Kafka's", "check its time service"),
    "bypassed": (bypassed, "attached to no interface", "klais xdp load"),
    "late": (late, "50 % of the batches", "KLAIS_LATENCY_MS"),
}


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    it = Edge(tmp_path, **SMALL)
    yield it
    it.rig.sink.backlog.close()


def test_a_healthy_edge_has_nothing_to_say(edge: Edge) -> None:
    edge.rig.offer()
    body = edge.view.health()
    assert (body["status"], body["problems"], body["warnings"]) == ("ok", [], [])


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_state_that_somebody_must_look_at_is_a_problem(edge: Edge, name: str) -> None:
    make, *wanted = PROBLEMS[name]
    make(edge)
    body = edge.view.health()
    problems = list(body["problems"])
    for words in wanted:
        (found,) = [text for text in problems if all(word in text for word in words)][:1] or [None]
        assert found, (words, problems)
        problems.remove(found)
    if name != "spool full":  # a refused frame is a problem of its own there
        assert problems == []
    assert body["status"] == "degraded"


@pytest.mark.parametrize("name", WARNINGS)
def test_what_needs_a_look_and_stops_nothing_is_a_warning(edge: Edge, name: str) -> None:
    make, what, do = WARNINGS[name]
    make(edge)
    body = edge.view.health()
    (text,) = body["warnings"]
    assert body["status"] == "ok" and what in text and do in text


def test_a_round_that_does_not_end_is_named_and_holds_up_no_answer(tmp_path: Path) -> None:
    """For example because the disk of the spool hangs: the API has one thread, which also answers ``/livez``."""
    edge = Edge(tmp_path)
    before = edge.view.stats()
    assert edge.view.health()["status"] == "ok"
    edge.spine.round_began_s -= 2 * RECENT_S
    with edge.spine.lock:
        edge.rig.counts.received += 5  # half of a round: the frames are in no other counter yet
        health = edge.view.health()
        (problem,) = health["problems"]
        assert "has been in one round for" in problem and "disk of the spool" in problem
        assert edge.view.stats()["edge"]["counters"]["received"] == before["edge"]["counters"]["received"]
        assert edge.view.live()["live"] and edge.view.metrics_snapshot().unaccounted == 0
        assert edge.view.ready()["ready"]
        edge.rig.counts.received -= 5
    assert edge.view.health()["problems"] == []
    edge.rig.sink.backlog.close()
