"""``klais up`` ends in order, whatever one step of the end raises: a closed terminal must not leave processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from klais.cli.up.launch_options import LaunchOptions
from klais.cli.up.run import Up
from klais.cli.up.supervisor import Supervisor
from klais.config.load import Settings


def fails(steps: list[str], name: str) -> Any:
    def step(*_: object) -> None:
        steps.append(name)
        raise BrokenPipeError

    return step


def options(tmp_path: Path) -> LaunchOptions:
    return LaunchOptions(Settings(state_dir=tmp_path))


def test_all_processes_end_in_order(tmp_path: Path) -> None:
    steps: list[str] = []
    supervisor = Supervisor(options(tmp_path), print)
    supervisor.simulator = SimpleNamespace(stop=fails(steps, "simulator"))
    supervisor.edge = SimpleNamespace(stop=fails(steps, "edge"))
    supervisor.workers = [SimpleNamespace(stop=fails(steps, name)) for name in ("worker-1", "worker-2")]
    supervisor.broker = SimpleNamespace(stop=fails(steps, "Kafka"))
    with pytest.raises(BrokenPipeError):
        supervisor.stop()
    assert steps == ["simulator", "edge", "worker-1", "worker-2", "Kafka"]


def test_the_processes_end_although_the_terminal_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    names = ("progress", "ready", "snapshot", "summary", "close")
    up = Up(options(tmp_path), SimpleNamespace(**{name: fails(steps, name) for name in names}))
    monkeypatch.setattr("klais.cli.up.run.signal.signal", lambda *args: None)
    up.supervisor = SimpleNamespace(check=fails(steps, "check"), stop=lambda: steps.append("stop"))
    with pytest.raises(BrokenPipeError):
        up.run()
    assert steps == ["check", "close", "stop"]


def test_a_second_signal_kills_the_others_when_one_has_just_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    def ended() -> None:
        raise psutil.NoSuchProcess(1)

    children = [SimpleNamespace(kill=ended), SimpleNamespace(kill=lambda: steps.append("killed"))]
    process = SimpleNamespace(children=lambda recursive: children)
    monkeypatch.setattr("klais.cli.up.run.psutil.Process", lambda: process)
    monkeypatch.setattr("klais.cli.up.run.os._exit", steps.append)
    up = Up(options(tmp_path), SimpleNamespace(progress=print))
    up._starting = False
    for _ in range(2):
        up._on_signal(2, None)
    assert steps == ["killed", 130]


@pytest.mark.parametrize("records", [10, 8])
def test_equal_end_offsets_are_no_proof_that_all_landed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """Two control records of a lane's restart may stand where two records are missing."""
    landed = [10]  # by the end offset
    up = Up(options(tmp_path), SimpleNamespace(progress=lambda text: None))
    up.supervisor = SimpleNamespace(stop_simulator=lambda: None, stop_edge=lambda: None, workers=[])
    up.sampler = SimpleNamespace(ends=lambda: {0: 10}, count=lambda starts, ends, timeout_s: records)
    account = SimpleNamespace(observe_landed=lambda end: landed.append(end), totals=lambda: landed[-1], restarted=False)
    snapshot = SimpleNamespace(elapsed_s=1.0)
    up.view = SimpleNamespace(
        account=account, start_ends={0: 0}, others=False, refresh=lambda: None, snapshot=lambda: snapshot
    )
    monkeypatch.setattr("klais.cli.up.run.reconcile", lambda totals, *rest: [] if totals == 10 else [f"{totals} of 10"])
    assert up._settle().differences == ([] if records == 10 else ["8 of 10"])
