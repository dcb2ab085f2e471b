"""Who becomes the leader, and when: a world of listeners with a clock of its own."""

from typing import Any

import pytest

from klais.control.election import Election, heartbeat_s, leader_of, turn_of
from klais.telemetry.schema import Gauges

SESSION_S = 10.0
STEP_S = 0.1


def said(**gauges: Any) -> Gauges:
    return Gauges(**gauges)


def workers(*names: str, owner: str | None = None) -> dict[str, tuple[float, Gauges]]:
    return {name: (0.5, said(lag_records={"0": 0} if name == owner else {"3": 0})) for name in names}


class World:
    """Workers that hear each other; a leader is heard until it is paused or ends."""

    def __init__(self, *names: str, owner: str | None = None) -> None:
        self.names, self.owner = list(names), owner
        self.now_s, self.epoch = 100.0, 0
        self.listeners = {name: Election(name, SESSION_S) for name in names}
        self.heard: dict[str, tuple[float, Gauges]] = {}  # controller -> (when, what)
        self.speaking: set[str] = set()
        self.kafka = True
        self.took: list[tuple[float, str]] = []

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            if self.kafka:
                for who in (f"controller-{name}" for name in self.speaking):
                    self.heard[who] = (self.now_s, self.heard[who][1])
            there = workers(*self.names, owner=self.owner) if self.kafka else {}
            for name in self.names:
                controllers = {who: (self.now_s - at_s, record) for who, (at_s, record) in self.heard.items()}
                if name in self.speaking:
                    continue
                if self.listeners[name].may_lead(self.now_s, there, controllers):
                    self.epoch += 1
                    self.took.append((self.now_s, name))
                    self.speaking = {name}  # the others are fenced, and listen from now on
                    self.heard[f"controller-{name}"] = (self.now_s, said(epoch=self.epoch))
                    for other in self.names:
                        self.listeners[other].begin(self.now_s)

    def end(self, name: str) -> None:
        self.speaking.discard(name)
        self.names.remove(name)


def test_the_owner_of_partition_0_begins_and_a_silent_one_is_replaced_within_a_session() -> None:
    world = World("a", "b", "c", owner="b")
    world.run(60)
    assert [name for _, name in world.took] == ["b"] and world.took[0][0] - 100 < 4
    died_s = world.now_s
    world.end("b")
    world.owner = None
    world.run(60)
    assert [name for _, name in world.took] == ["b", "a"]
    assert SESSION_S / 2 <= world.took[1][0] - died_s < SESSION_S
    world.owner = "c"  # a rebalance moves nothing
    world.run(60)
    assert len(world.took) == 2


def test_when_the_next_one_cannot_the_one_behind_it_does_within_the_session() -> None:
    world = World("a", "b", "c", "d", owner="d")
    world.run(20)
    died_s = world.now_s
    world.end("d")
    listener = world.listeners.pop("a")  # it is there, and never succeeds
    world.listeners["a"] = type("Mute", (), {"may_lead": lambda *_: False, "begin": lambda *_: None})()
    world.run(SESSION_S)
    assert listener and [name for _, name in world.took] == ["d", "b"] and world.took[1][0] - died_s < SESSION_S


def test_a_leader_that_resigned_is_replaced_at_once() -> None:
    world = World("a", "b", owner="a")
    world.run(20)
    world.end("a")
    world.heard["controller-a"] = (world.now_s, said(epoch=1, resigned=True))
    world.run(1.0)
    assert [name for _, name in world.took] == ["a", "b"]


def test_a_worker_that_hears_a_candidate_waits_for_it() -> None:
    world = World("a", "b")
    world.run(2.0)
    world.heard["controller-x"] = (world.now_s, said(candidate=True))
    world.run(4.9)
    assert not world.took
    world.run(1.0)
    assert [name for _, name in world.took] == ["a"]


def test_without_kafka_no_silence_counts() -> None:
    world = World("a", "b", owner="a")
    world.run(20)
    world.kafka = False
    world.run(100)
    world.kafka = True
    world.run(30)
    assert [name for _, name in world.took] == ["a"]


def test_a_paused_predecessor_that_speaks_again_is_not_taken_for_the_leader() -> None:
    heard = {"controller-a": (0.1, said(epoch=4)), "controller-b": (0.2, said(epoch=5)), "controller-c": (0.0, said())}
    assert leader_of(heard) == "controller-b" and leader_of({}) is None
    world = World("b", "c", owner="b")
    world.run(20)
    world.heard["controller-a"] = (world.now_s, said(epoch=0))
    world.end("b")
    world.run(SESSION_S)
    assert [name for _, name in world.took] == ["b", "c"]


def test_turns() -> None:
    there = workers("a", "b", "c", owner="c")
    assert [turn_of(name, there, None) for name in "abc"] == [1, 2, 0]
    assert [turn_of(name, there, "controller-c") for name in "ab"] == [0, 1]
    assert turn_of("z", there, "controller-a") == 2


@pytest.mark.parametrize(("session_s", "expected_s"), [(2.0, 0.25), (10.0, 1.0), (300.0, 1.0)])
def test_several_heartbeats_come_within_the_silence(session_s: float, expected_s: float) -> None:
    assert heartbeat_s(session_s) == expected_s and 0.5 * session_s / expected_s >= 4
