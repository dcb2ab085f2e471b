"""Mistyped commands, and one check of everything."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from klais.cli import validate as validate_module
from klais.cli.doctor.checks import Finding
from klais.cli.groups import SuggestingGroup
from klais.cli.main import COMMANDS, main

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    return lambda *args, **environ: CliRunner().invoke(main, args, env=environ)


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (("contrl",), "Did you mean control?"),
        (("devices", "lst"), "Did you mean list?"),
        (("control", "unblok", "x"), "Did you mean unblock or block?"),
        (("xyzzy",), "No such command 'xyzzy'.\n"),
    ],
)
def test_suggestions(run: Run, args: tuple[str, ...], meant: str) -> None:
    found = run(*args)
    assert found.exit_code == 2 and meant in found.stderr


def test_every_group_suggests() -> None:
    context = click.Context(main)
    groups = [main, *(main.get_command(context, name) for name in COMMANDS)]
    for group in groups:
        if isinstance(group, click.Group):
            assert isinstance(group, SuggestingGroup), group.name
            assert all(
                not isinstance(c, click.Group) or isinstance(c, SuggestingGroup) for c in group.commands.values()
            )


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_validate(run: Run, monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    monkeypatch.setattr(validate_module, "examine", lambda: [Finding("disk", status, "found", "a fix")])
    monkeypatch.setattr("klais.kafka.clients.listens", lambda _settings: False)
    found = run("validate", "--json")
    body = json.loads(found.stdout)
    assert found.exit_code == code and body["ok"] is (code == 0)
    assert body["config"]["ok"] and body["topics"]["ok"] and body["doctor"]["findings"][0]["name"] == "disk"
    text = run("validate").stdout
    assert "  disk: found" in text and "not checked: the embedded broker" in text
    assert text.splitlines()[-1].startswith("ok" if code == 0 else "not ok")


def test_validate_a_configuration_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_module, "examine", lambda: [Finding("configuration", "fail", "twice", "")])
    found = run("validate", "--json", KLAIS_PARTITIONS="0")
    body = json.loads(found.stdout)
    assert found.exit_code == 2 and not body["ok"] and "KLAIS_PARTITIONS" in body["config"]["problems"][0]
    assert body["doctor"]["findings"] == []
    assert "  fail: KLAIS_PARTITIONS" in run("validate", KLAIS_PARTITIONS="0").stdout


def test_validate_topics_of_a_cluster_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_module, "examine", list)
    found = run("validate", KLAIS_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert found.exit_code == 1 and "topics: not checked: Kafka at 127.0.0.1:1 does not answer" in found.stdout
