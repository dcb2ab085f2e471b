"""Whatever devices, operators, brokers and other hosts put into their texts: no command prints an unprintable
character.
"""

import ast
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import klais.cli
from klais.broker import daemon
from klais.cli import replay, stats, tail, version
from klais.cli.decode import Record, decode
from klais.cli.doctor import command as doctor
from klais.cli.doctor.checks import Finding
from klais.cli.main import COMMANDS, main
from klais.cli.printing import say, say_text
from klais.cli.up.reporter import JsonReporter, PlainReporter, Summary
from klais.cli.up.screen import ScreenReporter
from klais.cli.xdp import show as xdp_show
from klais.config.load import Settings
from klais.control import overrides
from klais.control.setpoints import ControlFollower
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.errors import ConfigError, KafkaUnavailable
from klais.kafka import admin
from klais.sim import herd_run, manifest
from klais.verify import audit, check
from klais.xdp.rules import Rule
from tests.support.http import FakeState, make_guard, served
from tests.unit.cli.test_up_shown import ADDRESSES, SNAPSHOT, TOTALS

# A terminal title, invisible text, a line of its own, a change of direction, Unicode's line separator, half a
# character.
HOSTILE = "\x1b]0;pwned\x07\x1b[8m\r\n\u202eevil\u2028\u2066\x9b\x00\x7f\ud800"
ID = "\x1b]0;x\x07\n\u202e\x9b"  # what fits into a device_id

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command as a user starts it; its output is held to be printable, line by line."""
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("USER", "op\x1b[8m\u202e")
    monkeypatch.setenv("LOGNAME", "op\x1b[8m\u202e")

    def invoke(*args: str, **environ: str) -> Result:
        for more in ((), ("--json",)) if "--json" not in args else ((),):
            result = CliRunner().invoke(main, [*args, *more], env=environ)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            if more and "No such option" in result.output:
                continue
            assert_printable(result.output)
            assert result.output.strip()
        return result

    return invoke


def assert_printable(text: str) -> None:
    bad = [line for line in text.split("\n") if not line.isprintable()]
    assert bad == []
    assert "pwned" not in [line[:5] for line in text.split("\n")]


def follower() -> ControlFollower:
    """What hostile operators, and a controller that blocks hostile devices, have written."""
    found = ControlFollower(Settings())
    text = HOSTILE[:-1]  # without the half character: JSON that has one is refused
    who = {"author": text, "reason": text, "at": 1_700_000_000_000}

    def take(scope: str, record: dict[str, Any]) -> None:
        found.consume(scope, json.dumps(record).encode())

    take("global", who | {"mode": "auto", "rate": 5.0, "by": text, "cut": 0.5})
    take("override", who | {"mode": "manual", "rate": 7.0, "gains": {text: 1}, "until_ms": 4_000_000_000_000})
    take(f"device/{ID}", who | {"block": True})
    return found


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def following(_settings: Settings) -> Iterator[ControlFollower]:
        yield follower()

    monkeypatch.setattr(overrides, "following", following)
    monkeypatch.setattr(
        overrides, "ControlProducer", lambda *_: SimpleNamespace(change=lambda *_: None, close=lambda: None)
    )


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("watch", "--for", "0s"),
        ("set", "--rate", "5", "--reason", HOSTILE[:-1]),
        ("auto", "--reason", HOSTILE[:-1]),
        ("block", ID, "--reason", HOSTILE[:-1]),
        ("unblock", ID),
        ("device", ID, "--rate", "5"),
    ],
    ids=lambda args: args[0],
)
def test_control(run: Run, control: None, args: tuple[str, ...]) -> None:
    run("control", *args)


def test_stats(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE], "n": 1}}
    monkeypatch.setattr(
        stats,
        "from_topic",
        lambda _settings: {HOSTILE: {"age_s": 1.0, "stats": body}, "x": {"age_s": 1, "stats": HOSTILE}},
    )
    run("stats")

    class Hostile(FakeState):
        def stats(self) -> dict[str, Any]:
            return {HOSTILE: HOSTILE, "overrides": {"list": [{"author": HOSTILE, HOSTILE: 1}]}}

    from klais.edge.api.server import make_app

    with served(make_app(Hostile(), make_guard(), 1)) as (url, _):
        run("stats", "--url", url)
    run("stats", "--url", f"http://127.0.0.1:1/{ID}")


RECORDS = {
    "raw": encode_batch([encode_frame("\x1b]0;x\x07", 1, b'{"a":"\x1b[8m"}')], 1, 1, 1, 1),
    "telemetry": json.dumps({"device_id": HOSTILE, "data": {HOSTILE: HOSTILE}}).encode(),
    "anomalies": json.dumps({HOSTILE: HOSTILE}).encode(),
    "dead_letter": b"\x1b]0;x\x07\xff\n\xe2\x80\xae",
    "stats": json.dumps({"stage": HOSTILE}).encode(),
    "control": json.dumps({"author": HOSTILE}).encode(),
    "journal": b"KLJ1" + HOSTILE.encode("utf-8", "surrogatepass"),
    "iot": HOSTILE.encode("utf-8", "surrogatepass"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_tail(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    key = HOSTILE.encode("utf-8", "surrogatepass")
    headers = (("reason", key), ("x", None))

    class Reader:
        def __init__(self, *_: Any) -> None: ...

        def rows(self, *_: Any) -> Iterator[dict[str, Any]]:
            for value in (RECORDS[kind], None):
                yield decode(kind, Record(0, 1, 1_700_000_000_000, key, value, headers))

        def close(self) -> None: ...

    monkeypatch.setattr(tail, "TopicReader", Reader)
    run("tail", kind)


def test_topics(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    state = admin.TopicState(HOSTILE, 1, 1, {"retention.ms": HOSTILE, "cleanup.policy": HOSTILE}, 5)
    wrong = admin.Mismatch(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)

    def wait(_settings: Settings, _wait_s: float | None, tell: Callable[[str], None] = print) -> None:
        if tell is not print:
            tell(HOSTILE)

    monkeypatch.setattr(admin, "wait_for_broker", wait)
    monkeypatch.setattr(admin, "list_topics", lambda *_: [state])
    monkeypatch.setattr(admin, "ensure_topics", lambda *_, **__: [HOSTILE])
    run("topics", "list", "--all")
    run("topics", "rights", "--principal", HOSTILE[:-1])
    run("topics", "create")
    for found in ([], [wrong]):
        monkeypatch.setattr(admin, "check_topics", lambda *_, found=found: found)
        run("topics", "check")


def test_kafka(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status = daemon.Status(True, True, HOSTILE, HOSTILE, 1, HOSTILE, 1, 5, 5, HOSTILE, HOSTILE)

    def start(_settings: Settings, tell: Callable[[str], None]) -> daemon.Status:
        tell(HOSTILE)
        return status

    monkeypatch.setattr(daemon, "status", lambda *_: status)
    monkeypatch.setattr(daemon, "start", start)
    run("kafka", "status")
    run("kafka", "start")


def test_simulate_and_send(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m\x1b[8m.bin"
    path.touch()
    header = {"seed": 1, HOSTILE: HOSTILE}
    monkeypatch.setattr(
        manifest,
        "read_manifest",
        lambda _: SimpleNamespace(header=header, count=1, by_kind=lambda: {HOSTILE: 1}, totals=None),
    )
    run("simulate", "show", "--manifest", str(path))
    counts = {field.name: 1 for field in fields(check.ManifestVerdict) if field.type in (int, "int")}
    verdict = check.ManifestVerdict(**counts, examples={"doubled": [HOSTILE, "b"]})
    monkeypatch.setattr(check, "check_manifest", lambda *_: verdict)
    run("simulate", "check", "--manifest", str(path))
    monkeypatch.setattr(herd_run, "run", lambda *_: {"slowest": HOSTILE, HOSTILE: {HOSTILE: 1}})
    run("simulate", "herd", "--to", "127.0.0.1:9")
    run("send", "--device", ID, "--to", "127.0.0.1:9", '{"t":1}')


def test_replay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def audit_lane(_settings: Settings, number: int, **_: object) -> audit.LaneAudit:
        found = audit.LaneAudit(number)
        found.problem(HOSTILE)
        found.verdicts[HOSTILE], found.written = 1, 5
        return found

    monkeypatch.setattr(audit, "audit_lane", audit_lane)
    assert replay.replay
    run("replay", "--partition", "0")


def test_config_doctor_version_worker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "/nowhere/\x1b[8m\u202e\n"
    run("config", "show", KLAIS_STATE_DIR=place)
    run("config", "check", KLAIS_WEB_BIND="\x1b", KLAIS_UNKNOWN_NAME="\x1b")
    run("config", "check")
    run("worker", "--dry-run", KLAIS_STATE_DIR=place)
    run("worker", KLAIS_STATE_DIR="/proc/\x1b[8m")
    findings = [Finding(HOSTILE, status, HOSTILE, HOSTILE) for status in ("ok", "warn", "fail")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    run("doctor")
    monkeypatch.setattr(version, "versions", lambda: {"klais": HOSTILE, HOSTILE: None})
    run("version")


@pytest.mark.parametrize(
    "error", [ConfigError(f"{HOSTILE}\n{HOSTILE}"), ConfigError(HOSTILE), KafkaUnavailable(HOSTILE)]
)
def test_errors(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    @click.command()
    def broken() -> None:
        raise error

    import sys

    module = type(sys)("klais_test_broken")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "klais_test_broken", module)
    monkeypatch.setitem(COMMANDS, "broken", ("klais_test_broken", "broken", ""))
    assert run("broken").exit_code in (1, 2)


def test_up(capsys: pytest.CaptureFixture[str]) -> None:
    addresses = replace(ADDRESSES, logs=HOSTILE, telemetry=HOSTILE, simulated=HOSTILE)
    totals = replace(TOTALS, edge_dropped={HOSTILE: 3})
    snapshot = replace(SNAPSHOT, rate_by=HOSTILE, totals=totals)
    for reporter in (PlainReporter(), JsonReporter()):
        reporter.progress(HOSTILE)
        reporter.ready(addresses)
        reporter.snapshot(snapshot)
        reporter.summary(Summary(1.0, totals, True, [HOSTILE], HOSTILE))
    assert_printable(capsys.readouterr().out)
    out = io.StringIO()
    screen = ScreenReporter(Console(file=out, width=300, color_system=None, force_terminal=False))
    screen.progress(HOSTILE)
    screen.ready(addresses)
    screen.snapshot(snapshot)
    screen.close()
    screen.summary(Summary(1.0, totals, True, [HOSTILE], HOSTILE))
    assert_printable(out.getvalue())


def test_xdp(capsys: pytest.CaptureFixture[str]) -> None:
    rule = Rule(ID, float("inf"), 5.0, 5.0, 10.0)
    for as_json in (False, True):
        xdp_show.echo(
            [xdp_show.rule_line(rule), f"{ID}: unblocked", HOSTILE], {"device_id": HOSTILE, HOSTILE: 1}, as_json
        )
    assert_printable(capsys.readouterr().out)


def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, "b")
    assert capsys.readouterr().out.count("\n") == 2
    say_text("a\nb\x1b")
    assert capsys.readouterr().out == "a\nb\\x1b\n"


def test_commands_print_through_one_module() -> None:
    """What a command prints is escaped there, but for what clears the screen."""
    found = []
    for path in sorted(Path(klais.cli.__file__).parent.rglob("*.py")):
        if path.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "click.echo",
                "click.secho",
                "print",
                "sys.stdout.write",
            ):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []
