"""Ctrl-C: what commands say that were interrupted before they had a result."""

from collections.abc import Iterator
from types import SimpleNamespace

from click.testing import CliRunner
from pytest import MonkeyPatch

from klais.cli import tap
from klais.cli.main import main
from klais.errors import WorkerUnavailable
from klais.redrive import run
from klais.redrive.dead_letters import DeadLetter


def interrupt(*_: object, **__: object) -> Iterator[object]:
    raise KeyboardInterrupt


def test_a_redrive_says_that_it_can_be_run_again(monkeypatch: MonkeyPatch) -> None:
    def find(*_: object) -> Iterator[list[DeadLetter]]:
        yield [DeadLetter((0, 0, 0), b"", "not_strict", 1)]

    work = SimpleNamespace(finish=lambda: (0, 0), ledger=None, send=interrupt)
    monkeypatch.setattr("klais.kafka.probe.need_kafka", lambda _: None)
    monkeypatch.setattr(run, "Redrive", lambda *_: work)
    monkeypatch.setattr(run, "find_dead_letters", find)
    ran = CliRunner().invoke(main, ["redrive", "--yes"])
    assert ran.exit_code == 1
    assert ran.output == "klais: interrupted: run this again to send the rest, no frame is sent twice\n"


def test_a_tap_without_a_sample_yet_is_no_error(monkeypatch: MonkeyPatch) -> None:
    worker = SimpleNamespace(kind="worker", url="http://w:6066")
    monkeypatch.setattr(tap, "_servers", lambda *_: [worker])
    monkeypatch.setattr(tap.Followers, "samples", interrupt)
    ran = CliRunner().invoke(main, ["tap"])
    assert ran.exit_code == 0 and "0 of 0 frames that matched were shown" in ran.output


def test_a_worker_that_sends_samples_again_is_named(monkeypatch: MonkeyPatch) -> None:
    turns = iter([[(1, {"matched": 0, "frames": []})], None, [(1, {"matched": 0, "frames": []})]])

    def samples(_params: object) -> Iterator[tuple[int, dict[str, object]]]:
        found = next(turns, [])
        if found is None:
            raise WorkerUnavailable("no worker answers")
        yield from found

    monkeypatch.setattr(tap, "RETRY_S", 0.01)
    worker = SimpleNamespace(url="http://w:6066", kind="worker", tap=samples)
    notices: list[str] = []
    followers = tap.Followers([worker], {})  # type: ignore[list-item]
    for shown, _ in enumerate(followers.samples(600.0, notices.append), 1):
        if shown == 2:
            break
    assert notices[-1] == "http://w:6066 sends samples again" and "no worker answers" in notices
