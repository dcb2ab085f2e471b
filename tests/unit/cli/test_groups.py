"""Mistyped commands, and one check of everything."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from klais.cli import validate as validate_module
from klais.cli import views
from klais.cli.doctor.checks import Finding
from klais.cli.groups import SuggestingGroup
from klais.cli.main import COMMANDS, main
from tests.support.http import served
from tests.support.ports import free_port

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
    monkeypatch.setattr("klais.kafka.probe.listens", lambda _settings: False)
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
    assert (
        found.exit_code == 1
        and "topics: not checked: no Kafka answers at 127.0.0.1:1 (KLAIS_KAFKA_BOOTSTRAP)" in found.stdout
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Run, shell: str) -> None:
    found = run("completion", shell)
    assert found.exit_code == 0 and "_KLAIS_COMPLETE" in found.stdout and f"{shell}_complete" in found.stdout


def test_bash_completes_commands(run: Run, tmp_path: Path) -> None:
    script = run("completion", "bash").stdout
    ask = "COMP_WORDS=(klais devices l); COMP_CWORD=2; _klais_completion klais"
    whole = f'{script}\n{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environ |= {"KLAIS_STATE_DIR": str(tmp_path), "LANG": "C.UTF-8"}
    ran = subprocess.run(["bash", "-c", whole], env=environ, capture_output=True, text=True, check=True)
    assert (ran.stdout.split(), ran.stderr) == (["limit", "list"], "")


def test_only_plain_device_ids_are_completed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell pastes them as they are, and devices choose them."""
    ids = ["dev-1", "dev-2", "dev $(reboot)", "dev;ls", "dev`ls`", "adev-3"]

    async def devices(_request: web.Request) -> web.Response:
        return web.json_response({"items": [{"device_id": name} for name in ids]})

    app = web.Application()
    app.router.add_get("/devices/", devices)
    monkeypatch.setattr(views, "COMPLETE_S", 60.0)
    environ = {"_KLAIS_COMPLETE": "bash_complete", "COMP_WORDS": "klais devices why dev", "COMP_CWORD": "3"}
    away = CliRunner().invoke(main, env=environ | {"KLAIS_WEB_PORT": str(free_port())}, prog_name="klais")
    assert away.stdout.strip() == ""
    with served(app) as (url, _):
        there = environ | {"KLAIS_WEB_PORT": url.rpartition(":")[2]}
        found = CliRunner().invoke(main, env=there, prog_name="klais")
    assert found.stdout.splitlines() == ["plain,dev-1", "plain,dev-2"]
