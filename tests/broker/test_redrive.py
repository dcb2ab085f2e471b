"""``klais redrive`` on a real broker: each dead letter goes once, whatever kills the command; none goes in circles."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.core.lane.state import Tally
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.offsets import end_offsets
from klais.kafka.topics import Topics
from tests.support.lane import T0_NS
from tests.support.lanes import caught_up, lanes, records, recreate
from tests.support.process import PATIENCE

Make = Callable[..., Settings]
DEVICES, ROUNDS = 4, 30
TWICE = b'{"t":1,"t":2}'


def redrive(settings: Settings, *args: str, code: int = 0) -> Any:
    """What the command prints as JSON."""
    ran = CliRunner().invoke(main, ["redrive", "-o", "json", *args], env=environ_of(settings))
    assert ran.exit_code == code, ran.output
    return json.loads(ran.stdout) if ran.stdout.startswith("{") else ran.stdout


def killed(settings: Settings, point: str, *args: str) -> None:
    """The command in a process of its own, which ends at a fault point."""
    env = os.environ | environ_of(settings) | {"KLAIS_FAULT_POINT": point}
    command = [sys.executable, "-m", "klais", "redrive", *args]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert ran.returncode == -signal.SIGKILL, ran.stderr


def send(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap, "log_level": 0})
    for number in range(ROUNDS):
        for partition in range(settings.partitions):
            ids = [f"d{d}" for d in range(DEVICES) if partition_of(b"d%d" % d, settings.partitions) == partition]
            some = [encode_frame(name, number, TWICE) for name in ids]
            at_ns = T0_NS + number * 100_000_000
            producer.produce(Topics.of(settings).raw, encode_batch(some, at_ns, 1, 1, number), partition=partition)
    foreign = {"reason": b"\x1b[31mbad", "stage": b"lane", "ts": b"1", "edge": b"x"}
    producer.produce(Topics.of(settings).dead_letter, os.urandom(100_000), headers=foreign, partition=0)
    assert producer.flush(30) == 0


async def taken(settings: Settings) -> Counter[str]:
    """What lanes make of all that lies there."""
    out: Counter[str] = Counter()
    async with lanes(settings, (0, 1)) as found:
        for lane in found.values():
            await caught_up(settings, lane)
            assert lane.session is not None
            tally = lane.session.state.tally
            out.update({name: int(tally[at]) for name, at in (
                ("passed", Reason.PASSED), ("refused", Reason.NOT_STRICT), ("repeated", Tally.REPEATED_FRAMES),
                ("missing", Tally.MISSING_BATCHES), ("duplicate", Reason.DUPLICATE),
            )})  # fmt: skip
    return out


def landed(settings: Settings) -> Counter[tuple[str, int, int]]:
    values = [json.loads(r.value) for p in (0, 1) for r in records(settings, Topics.of(settings).telemetry, p)]
    return Counter((value["device_id"], value["seq"], value["ts"]) for value in values)


class Ended(BaseException):
    """In the place of kill -9, within this process: nobody catches it."""


def end_at(point: str, nth: int) -> Callable[[str], None]:
    left = [nth]

    def at(passed: str) -> None:
        left[0] -= passed == point
        if not left[0]:
            raise Ended

    return at


def test_each_dead_letter_goes_once_whatever_kills_it(
    settings_for: Make, topics_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = settings_for(partitions=2, json_strict=True, checkpoint_interval_s=0.3)
    topics = topics_of(strict)
    send(strict)
    n = DEVICES * ROUNDS
    assert asyncio.run(taken(strict))["refused"] == n
    fixed = strict.model_copy(update={"json_strict": False})

    before = end_offsets(strict, topics.raw)
    assert redrive(strict)["goes"] == 0, "they would come back"
    shown = redrive(fixed)
    assert (shown["frames"], shown["goes"], shown["sent"]) == (n + 1, n, None)
    assert end_offsets(fixed, topics.raw) == before, "it has shown, not sent"

    small = ("--yes", "--rate", "40", "-n", "60")  # of few frames a batch
    killed(fixed, "redrive_sent:4", *small)
    with monkeypatch.context() as patched:
        patched.setattr("klais.fault.arm", lambda _: None)
        patched.setattr("klais.fault.at", end_at("redrive_named", 3))  # as abrupt: nothing is put in order
        with pytest.raises(Ended):
            redrive(fixed, *small)
    last = redrive(fixed, "--yes", "--rate", "5000", "--reason", "not_strict", "--note", "strict is off")
    assert 0 < last["sent"] < n
    counts = asyncio.run(taken(fixed))
    assert counts["passed"] == n and counts["missing"] == counts["duplicate"] == 0
    assert counts["repeated"] > 0, "what was sent and perhaps not acknowledged came again, and was known"
    first_ms = T0_NS // 1_000_000
    assert landed(fixed) == Counter((f"d{d}", k, first_ms + 100 * k) for d in range(DEVICES) for k in range(ROUNDS)), (
        "each once, with the time at which an edge received it"
    )
    assert redrive(fixed, "--yes")["sent"] == 0
    audit = [json.loads(r.value) for r in records(fixed.model_copy(update={"partitions": 1}), Topics.of(fixed).audit)]
    named = Counter(tuple(one[:3]) for r in audit for one in r["after"].get("dead_letters", ()))
    assert len(named) == n and set(named.values()) == {1} and audit[-1]["reason"] == "strict is off"


def test_what_fails_again_is_not_sent_for_ever(settings_for: Make, topics_of: Any) -> None:
    strict = settings_for(partitions=2, json_strict=True, checkpoint_interval_s=0.3)
    topics_of(strict)
    send(strict)
    asyncio.run(taken(strict))
    wrong = strict.model_copy(update={"json_strict": False})  # as if the cause were fixed
    times = []
    for _ in range(2):
        times.append(redrive(wrong, "--yes", "--rate", "50000", "--max-redrives", "1")["sent"])
        asyncio.run(taken(strict))
    n = DEVICES * ROUNDS
    assert times == [n, 0]
    left = redrive(wrong, "--max-redrives", "1")
    assert {row["outcome"]: row["frames"] for row in left["outcomes"]} == {
        "was redriven": n, "was redriven too often": n, "is not a frame": 1,
    }  # fmt: skip
    assert "\x1b" not in redrive(wrong, "--list", "-o", "table")


def test_dead_letters_of_a_topic_that_was_created_again_are_others(settings_for: Make, topics_of: Any) -> None:
    settings = settings_for(partitions=1)
    topic = topics_of(settings).dead_letter

    def refuse(sequence: int) -> None:
        headers = {"reason": b"not_strict", "stage": b"lane", "ts": str(T0_NS // 1_000_000).encode(), "edge": b"1"}
        producer = Producer({"bootstrap.servers": settings.bootstrap, "log_level": 0})
        producer.produce(topic, encode_frame("d0", sequence, b'{"t":1}'), headers=headers, partition=0)
        assert producer.flush(30) == 0

    refuse(1)
    assert redrive(settings, "--yes")["sent"] == 1
    assert redrive(settings)["goes"] == 0
    recreate(settings, topic)
    refuse(2)  # at the same offset
    assert redrive(settings, "--yes")["sent"] == 1
    assert redrive(settings)["goes"] == 0
