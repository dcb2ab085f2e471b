"""Children of `klais up`: started again after pauses that grow, given up after too many failures; logs kept apart."""

import errno
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from klais.system.child import OwnedChild
from klais.system.supervised import FIRST_PAUSE_S, MAX_FAILURES, STEADY_S, Service, ServiceFailed


class FakeChild:
    def __init__(self) -> None:
        self.pid = 4711
        self.returncode: int | None = None
        self.stopped_with: float | None = None

    def stop(self, grace_s: float) -> bool:
        self.stopped_with = grace_s
        self.returncode = 0
        return True


class World:
    """A clock, and the children that were started."""

    def __init__(self, log: Path) -> None:
        self.now_s = 1000.0
        self.children: list[FakeChild] = []
        self.service = Service("edge", ["/bin/edge"], {}, log, self.spawn, lambda: self.now_s)

    def spawn(self, command: Sequence[str], log: Path, env: dict[str, str]) -> FakeChild:
        self.children.append(FakeChild())
        return self.children[-1]

    def fail(self) -> str | None:
        self.children[-1].returncode = 1
        return self.service.poll()

    def wait(self, seconds: float) -> str | None:
        self.now_s += seconds
        return self.service.poll()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "logs" / "edge.log")
    world.service.start()
    return world


def test_a_child_that_lives_is_left_alone(world: World) -> None:
    assert world.wait(1) is None
    assert (len(world.children), world.service.pid, world.service.restarts) == (1, 4711, 0)


def test_a_child_that_dies_is_started_again_after_its_pause_and_said_so(world: World) -> None:
    said = world.fail()
    assert said is not None and "ended unexpectedly, exit code 1" in said and "edge.log" in said
    assert world.wait(FIRST_PAUSE_S * 0.9) is None
    assert len(world.children) == 1
    assert world.wait(FIRST_PAUSE_S * 0.2) == "edge: started again"
    assert (len(world.children), world.service.restarts) == (2, 1)


def test_pauses_double(world: World) -> None:
    pauses = []
    for _ in range(MAX_FAILURES - 1):
        said = world.fail()
        assert said is not None
        pauses.append(float(said.split("again in ")[1].split(" s")[0]))
        world.wait(pauses[-1])
    assert pauses == [FIRST_PAUSE_S * 2**n for n in range(MAX_FAILURES - 1)]


def test_too_many_failures_in_a_row_end_it_with_the_end_of_the_log(world: World) -> None:
    world.service.log.write_text("".join(f"line {n}\n" for n in range(100)))
    with pytest.raises(ServiceFailed) as failed:
        for _ in range(MAX_FAILURES):
            world.fail()
            world.wait(100)
    text = str(failed.value)
    assert f"{MAX_FAILURES} times in a row" in text and "line 99" in text and "line 84" not in text
    assert len(world.children) == MAX_FAILURES


def test_a_steady_life_between_makes_failures_forgotten(world: World) -> None:
    for _ in range(3 * MAX_FAILURES):
        said = world.fail()
        assert said is not None and f"in {FIRST_PAUSE_S:g} s" in said
        world.wait(FIRST_PAUSE_S)
        world.now_s += STEADY_S


def test_a_stopped_child_is_not_started_again(world: World) -> None:
    world.fail()
    assert world.service.stop(3.0)
    assert world.wait(1000) is None
    assert len(world.children) == 1


def test_the_log_of_the_run_before_is_kept_beside(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    for run in ("first", "second", "third"):
        Service("edge", ["/bin/edge"], {}, log)
        log.write_text(run)
    assert (log.read_text(), (tmp_path / "edge.log.1").read_text()) == ("third", "second")


def test_a_log_that_is_not_there_yet_is_said_so(world: World) -> None:
    assert world.service.last_lines() == "  (nothing)"


def test_a_child_that_cannot_be_started_again_is_tried_after_the_next_pause(world: World) -> None:
    """For example because there is no memory for a moment: the others of a fleet must go on."""
    spawn = world.service._spawn

    def fails(*_: object) -> FakeChild:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    world.service._spawn = fails
    world.fail()
    said = world.wait(FIRST_PAUSE_S * 1.1)
    assert said is not None and "edge cannot be started: Cannot allocate memory" in said and "in 2 s" in said
    assert world.wait(FIRST_PAUSE_S) is None and world.service.restarts == 0
    world.service._spawn = spawn
    assert world.wait(FIRST_PAUSE_S * 1.1) == "edge: started again" and world.service.restarts == 1


def test_a_child_that_can_never_be_started_again_is_given_up(world: World) -> None:
    def fails(*_: object) -> FakeChild:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    world.service._spawn = fails
    world.fail()
    with pytest.raises(ServiceFailed, match="cannot be started: Resource temporarily unavailable, 5 times in a row"):
        for _ in range(MAX_FAILURES):
            world.wait(60.0)


def test_a_system_that_allows_no_more_threads_is_an_error_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(OSError, match="can't start new thread"):
        OwnedChild([sys.executable, "-c", ""], None)


def test_a_child_that_python_cannot_start_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(ValueError, match="null byte"):
        OwnedChild([sys.executable, "-c", "\0"], None)
