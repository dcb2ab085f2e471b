"""``klais control`` against a real topic: what it writes, what it shows, what it leaves alone."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from click.testing import CliRunner, Result

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.control.overrides import apply, following
from klais.kafka.stats import ControlProducer

Run = Callable[..., Result]


@pytest.fixture
def run(settings_for, topics_of) -> tuple[Settings, Run]:
    settings = settings_for(partitions=1)
    topics_of(settings)

    def call(*words: str, ok: bool = True) -> Result:
        done = CliRunner().invoke(main, ["control", *words], env=environ_of(settings))
        assert (done.exit_code == 0) == ok, done.output
        return done

    return settings, call


def test_overrides_are_written_shown_and_taken_back(run: tuple[Settings, Run]) -> None:
    settings, call = run
    assert json.loads(call("status", "--json").output)["mode"] == "auto"
    call("set", "--rate", "5000", "--for", "10m", "--reason", "database is slow")
    call("set", "--kp", "0.4", "--lag", "70000", "--for", "10m")  # leaves the rate
    record = json.loads(call("block", "dev-7", "--for", "1h", "--reason", "floods", "--json").output)
    assert (record["scope"], record["block"], record["reason"]) == ("device/dev-7", True, "floods")
    assert 0 < record["until_ms"] - record["at"] <= 3_600_000  # the end is set first, then the record is stamped
    call("device", "dev-7", "--rate", "5", "--burst", "20")  # leaves the block
    now = json.loads(call("status", "--json").output)
    assert (now["mode"], now["rate"]) == ("manual", 5000.0)
    override, device = now["overrides"]
    assert (override["gains"], override["setpoints"]) == ({"kp": 0.4}, {"lag": 70000.0})
    assert (device["block"], device["rate"], device["burst"]) == (True, 5.0, 20.0)
    assert "database is slow" not in override["reason"]  # the newest change says why
    text = call("status").output
    assert "mode manual, rate 5,000/s" in text
    assert "override device/dev-7" in text
    call("block", "dev-7", "dev-8", "--reason", "both")
    assert [row["reason"] for row in json.loads(call("status", "--json").output)["overrides"][1:]] == ["both", "both"]
    call("auto")
    call("unblock", "dev-7", "dev-8")
    call("device", "dev-7", "--clear")
    now = json.loads(call("status", "--json").output)
    assert (now["mode"], [o["scope"] for o in now["overrides"]]) == ("auto", ["override"])  # the tuned gains stay
    call("auto", "--forget")
    with following(settings) as follower:
        assert set(follower.override() or {}) == {"scope", "mode", "author", "reason", "at"}
    assert call("watch", "--for", "1s").output == ""


@pytest.mark.parametrize(
    "words",
    [
        ("set",),
        ("set", "--rate", "0"),
        ("set", "--rate", "nan"),
        ("block", ""),
        ("block", "more-than-sixteen"),
        ("device", "dev-1"),
        ("device", "dev-1", "--rate", "5", "--clear"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    run: tuple[Settings, Run], words: tuple[str, ...]
) -> None:
    _, call = run
    assert "Error" in call(*words, ok=False).output


def test_changes_of_one_device_by_two_processes_at_once_are_all_in_force(run: tuple[Settings, Run]) -> None:
    settings, call = run
    rounds, together = 5, threading.Barrier(2)
    wanted: tuple[list[dict[str, Any]], ...] = (
        [{"block": True, "unblock": None, "until_ms": None}] * rounds,
        [{"rate": float(n + 1), "burst": None, "limits_until_ms": None} for n in range(rounds)],
    )
    problems: list[Exception] = []

    def work(who: str, changes: list[dict[str, Any]]) -> None:
        with ExitStack() as stack:
            follower = stack.enter_context(following(settings))
            producer = ControlProducer(settings, who)
            stack.callback(producer.close)
            for n, change in enumerate(changes):
                together.wait(300)
                apply(follower, producer, f"device/dev-{n}", change, who, "at once")

    def guarded(who: str, changes: list[dict[str, Any]]) -> None:
        try:
            work(who, changes)
        except Exception as error:
            problems.append(error)
            together.abort()

    threads = [threading.Thread(target=guarded, args=(f"w{k}", changes)) for k, changes in enumerate(wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = {row["scope"]: row for row in json.loads(call("status", "--json").output)["overrides"]}
    assert {scope: (row.get("block"), row.get("rate")) for scope, row in found.items()} == {
        f"device/dev-{n}": (True, float(n + 1)) for n in range(rounds)
    }
