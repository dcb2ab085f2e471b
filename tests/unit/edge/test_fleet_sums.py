"""Sums of a fleet over processes that end, are killed, and are replaced: each frame of each of them counts once."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from klais.config.load import Settings
from klais.edge.supervisor.fleet import Fleet
from klais.edge.supervisor.member import Member
from klais.telemetry.counters import add
from klais.telemetry.metrics import EdgeMetrics
from klais.telemetry.snapshots import EdgeSnapshot
from tests.support.ports import free_port
from tests.support.udp import held_sockets


class Process:
    """An edge process: its figures, and the child that a service holds."""

    def __init__(self, pid: int, received: int, passed: int, spooled: int = 0, recovered: int = 0) -> None:
        self.pid, self.returncode = pid, None
        self.counters: dict[str, Any] = {
            "received": received, "spool_recovered": recovered, "passed": passed, "dropped": {}
        }  # fmt: skip
        self.spooled = spooled

    @property
    def depth(self) -> int:
        return int(self.counters["received"] + self.counters["spool_recovered"] - self.counters["passed"])

    def report(self) -> dict[str, Any]:
        snapshot = EdgeSnapshot(received=self.counters["received"], queue_depth=self.depth)
        text = EdgeMetrics(lambda: snapshot).render()[0].decode()
        gauges = {"queue_depth": self.depth, "spooled": self.spooled, "breaker": "closed"}
        return {"counters": dict(self.counters), "gauges": gauges, "metrics": text}

    def end(self, folder: Path | None) -> None:
        self.returncode = 0 if folder else -signal.SIGKILL
        if folder:
            (folder / str(self.pid)).write_bytes(orjson.dumps(self.report()))

    def stop(self, grace_s: float) -> bool:
        return True


class Place:
    """A member whose processes answer from memory."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.member: Member = fleet.members[0]
        self.fleet, self.folder, self.by_api = fleet, folder / str(self.member.edge_id), dict[str, Process]()
        self.member._ask = self.answer  # type: ignore[method-assign]
        self.signals: list[tuple[int, int]] = []

    def answer(self, api: str, path: str, *_: Any) -> bytes:
        process = self.by_api.get(api)
        if process is None or process.returncode is not None:
            raise ConnectionRefusedError
        report = process.report()
        if path == "/metrics":
            return report["metrics"].encode()
        edge = {"counters": report["counters"], "gauges": report["gauges"]}
        return orjson.dumps(
            {"/stats": {"edge": edge}, "/livez": {"live": True}, "/readyz": {"ready": True}}.get(path, {"problems": []})
        )

    def start(self, process: Process) -> None:
        self.member.service._child = self.by_api[self.member.api] = process

    def check(self) -> dict[str, Any]:
        """The sums add up at this moment, in `/stats` and in `/metrics`."""
        edge = self.fleet.stats()["edge"]
        counters, depth = edge["counters"], edge["gauges"].get("queue_depth", 0)
        came = counters["received"] + counters["spool_recovered"]
        assert came == counters["passed"] + sum(counters["dropped"].values()) + depth + counters["left_at_end"]
        families = {f.name: f for f in text_string_to_metric_families(self.fleet.metrics()[0].decode())}
        (received,) = [s.value for s in families["klais_packets_received"].samples]
        assert received == counters["received"]
        if place_runs := self.member.seen[1]:
            (shown,) = [s.value for s in families["klais_queue_depth"].samples if s.labels["stage"] == "edge"]
            assert shown == depth == sum(report["gauges"]["queue_depth"] for report in place_runs.values())
        return add({}, counters)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    reports = tmp_path / "reports"
    reports.mkdir(mode=0o700)
    with held_sockets(1) as held:
        settings = Settings(edge_workers=1, state_dir=tmp_path, api_bind=f"127.0.0.1:{free_port()}")
        yield Place(Fleet(settings, held, reports=reports), reports)


def test_a_process_that_ends_and_starts_again_takes_nothing_from_the_sums(place: Place) -> None:
    """Metrics that fall look like a restart from 0 to Prometheus: it would count all frames of all processes again."""
    first = Process(101, 100, 90)
    place.start(first)
    place.member.sample()
    assert place.check()["received"] == 100
    first.counters |= {"received": 130, "passed": 130}  # after the last sample, while it drained
    first.end(place.folder)
    place.check()
    place.member.sample()
    counters = place.check()
    assert (counters["received"], counters["passed"], counters["left_at_end"]) == (130, 130, 0)
    place.start(Process(102, 7, 5))
    place.member.sample()
    counters = place.check()
    assert (counters["received"], counters["passed"]) == (137, 135)
    assert not list(place.folder.iterdir())


def test_what_a_killed_process_held_is_named(place: Place) -> None:
    first = Process(101, 100, 60, spooled=30)
    place.start(first)
    place.member.sample()
    first.end(None)
    second = Process(102, 20, 50, recovered=30)
    place.start(second)
    place.check()
    place.member.sample()
    counters = place.check()
    assert counters["left_at_end"] == 40 and counters["spool_recovered"] == 30


def test_frames_of_both_processes_count_during_an_upgrade_and_after_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Process(101, 100, 60), Process(102, 0, 0)
    place.start(old)
    place.member.sample()
    monkeypatch.setattr(place.member.held, "spawn", lambda *_, **__: new)
    monkeypatch.setattr("klais.system.supervised._send", lambda *_: None)
    place.member.start_successor()
    place.by_api[place.member._successor_api] = new
    for pid, step in ((101, 5), (102, 9), (101, 3), (102, 4)):
        process = old if pid == 101 else new
        process.counters["received"] += step
        place.member.sample()
        assert place.check()["received"] == old.counters["received"] + new.counters["received"]
    place.member.promote_successor()
    place.check()
    new.counters |= {"received": 50, "passed": 40}
    old.counters["passed"] = 90
    place.member.sample()
    assert place.check()["passed"] == 130
    old.counters["passed"] = 108  # it has drained
    old.end(place.folder)
    place.member.sample()
    counters = place.check()
    assert (counters["received"], counters["passed"], counters["left_at_end"]) == (158, 148, 0)


def test_a_successor_that_is_given_up_counts_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Process(101, 100, 100), Process(102, 11, 11)
    place.start(old)
    monkeypatch.setattr(place.member.held, "spawn", lambda *_, **__: new)
    monkeypatch.setattr("klais.system.supervised._send", lambda *_: None)
    place.member.start_successor()  # it receives, but is not sampled before it ends
    place.member.drop_successor()
    new.end(place.folder)
    place.member.sample()
    assert place.check()["received"] == 111


def test_what_is_no_report_is_passed_over(place: Place) -> None:
    place.start(Process(101, 100, 90))
    place.member.sample()
    (place.folder / "4711").write_bytes(b"\xff{")
    (place.folder / "notes").write_bytes(b"not ours")
    place.member.sample()
    assert place.check()["received"] == 100
    assert [path.name for path in place.folder.iterdir()] == ["notes"]


def test_a_reload_waits_for_a_process_that_starts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has handlers, SIGHUP would end it."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    starting = Process(101, 0, 0)
    place.start(starting)
    place.by_api.clear()
    place.member.reload()
    place.member.sample()
    place.member.pass_reload()
    assert sent == []
    place.start(starting)
    place.member.sample()
    place.member.pass_reload()
    place.member.pass_reload()
    assert sent == [(101, signal.SIGHUP)]
    place.start(Process(102, 0, 0))  # it was started again: what was known is of the one before
    place.member.reload()
    assert len(sent) == 1
    place.member.sample()
    place.member.pass_reload()
    assert sent[1:] == [(102, signal.SIGHUP)]
