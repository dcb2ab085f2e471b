"""How a fleet ends: every process that has received frames drains, whatever ends the supervisor."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from klais.config.load import Settings
from klais.edge.supervisor.fleet import Fleet
from klais.edge.supervisor.upgrade import RollingUpgrade
from klais.system import supervised
from klais.system.supervised import Service
from tests.support.ports import free_port
from tests.support.udp import held_sockets

NOBODY = 1 << 30  # above every pid: the signals of these tests reach no process


class Child:
    """A process that drains and exits when it gets SIGTERM; ``killed`` if it got no time for that."""

    def __init__(self, name: str) -> None:
        self.name, self.pid, self.killed = name, NOBODY + len(name), False
        self.returncode: int | None = None

    def stop(self, grace_s: float) -> bool:
        if self.returncode is None:
            self.killed, self.returncode = True, -signal.SIGKILL
        return not self.killed


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Child], list[str]]]:
    """The processes that react to a signal, and the names of those that got SIGTERM."""
    children, ended = list[Child](), list[str]()

    def kill(pid: int, number: int) -> None:
        for child in children:
            if child.pid == pid:
                ended.append(child.name)
                child.returncode = 0

    monkeypatch.setattr(supervised, "os", type("os", (), {"kill": staticmethod(kill)}))
    yield children, ended


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with held_sockets(1) as held:
        yield Fleet(Settings(edge_workers=1, state_dir=tmp_path, api_bind=f"127.0.0.1:{free_port()}"), held)


def started(fleet: Fleet, children: list[Child], *names: str) -> None:
    """The fleet has a process, and during an upgrade its predecessor, which drains, and its successor."""
    member, by_name = fleet.members[0], {name: Child(name) for name in names}
    children += by_name.values()
    member.service.start = lambda: None
    member.service._child = by_name["present"]
    member._successor = by_name.get("successor's")
    if before := by_name.get("before"):
        member.service._leaving.append((before, float("inf")))


def test_a_fleet_that_stops_during_an_upgrade_lets_each_process_drain(fleet: Fleet, signals: Any) -> None:
    """The successor has received frames, too. It gets the spool when the present process has released it."""
    children, ended = signals
    started(fleet, children, "present", "successor's")
    fleet._on_stop()
    assert fleet.run() == 0
    assert ended == ["present", "successor's"] and not any(child.killed for child in children)


def test_a_fleet_that_stops_after_an_upgrade_waits_for_what_was_replaced(fleet: Fleet, signals: Any) -> None:
    children, ended = signals
    started(fleet, children, "present", "before")
    before = children[1]

    def drained() -> None:
        before.returncode = 0

    _after(fleet, 3, drained)
    fleet._on_stop()
    assert fleet.run() == 0
    assert ended == ["present"], "a second signal would end the wait for Kafka"
    assert not before.killed


def _after(fleet: Fleet, calls: int, do: Callable[[], None]) -> None:
    """Do something when the fleet has asked so often whether its processes run."""
    seen, running = [], Service.running.fget

    class Counting(Service):
        @property
        def running(self) -> bool:
            seen.append(1)
            if len(seen) == calls:
                do()
            return bool(running(self))

    fleet.members[0].service.__class__ = Counting


def test_an_error_of_the_supervisor_does_not_kill_the_processes(
    fleet: Fleet, signals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    children, ended = signals
    started(fleet, children, "present")

    def fails(self: Fleet) -> bool:
        raise MemoryError

    monkeypatch.setattr(Fleet, "_watch", fails)
    with pytest.raises(MemoryError):
        fleet.run()
    assert ended == ["present"] and not children[0].killed


def test_a_successor_that_cannot_be_started_ends_the_upgrade_alone(fleet: Fleet) -> None:
    def fails() -> None:
        raise OSError(11, os.strerror(11))

    fleet.members[0].start_successor = fails
    upgrade = RollingUpgrade(fleet.members)
    upgrade.begin()
    upgrade.step(0.0)
    assert not upgrade.running


def test_a_successor_that_never_answers_may_drain_and_is_killed_if_it_does_not(tmp_path: Path, signals: Any) -> None:
    children, ended = signals
    now_s = 0.0
    service, good, hangs = Service("edge", [], {}, None, clock=lambda: now_s), Child("good"), Child("hangs")
    children.append(good)
    for child in (good, hangs):
        service.let_go(child, 10.0)
    assert ended == ["good"] and service.running
    now_s = 9.0
    service.poll()
    assert not hangs.killed
    now_s = 11.0
    service.poll()
    assert hangs.killed and not good.killed and not service.running


def test_a_member_that_refuses_connections_does_not_end_the_fleet(fleet: Fleet, signals: Any) -> None:
    """Anybody on this machine may have opened so many."""
    children, _ = signals
    started(fleet, children, "present")
    member = fleet.members[0]
    member.ask = lambda path: orjson.dumps({"error": {"code": "too_many_connections"}})
    member.sample()
    assert member.problems() == ["edge 1: does not answer"] and not member.receives
