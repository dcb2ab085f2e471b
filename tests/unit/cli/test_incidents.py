"""``klais incidents`` and ``klais explain ID`` against a worker's real pages."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from klais.cli.main import main
from klais.control import overrides
from klais.http.access import Access
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.worker.web.pages import install
from tests.support.http import served
from tests.support.incidents import follower_with, incident
from tests.support.views import make_views

Run = Callable[..., Result]
INCIDENTS = [incident(i, closed=i < 2) for i in range(5)] + [incident(9, device="\x1b[31mx")]
Written = list[tuple[str, dict[str, Any], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KLAIS_LLM", "none")
    return lambda *args: CliRunner().invoke(main, args)


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    app = web.Application()
    views: Any = make_views({}, follower_with(*INCIDENTS))
    install(app, views, Guard(AllowedHosts("127.0.0.1"), Access()))
    with served(app) as (url, _):
        yield url


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    kept: Written = []

    def write(_settings: Any, scope: str, changes: dict[str, Any], author: str, reason: str, *_: Any) -> dict[str, Any]:
        kept.append((scope, changes, reason))
        return {**changes, "author": author}

    monkeypatch.setattr(overrides, "write", write)
    return kept


def test_a_list_for_people_and_for_programs(run: Run, worker: str) -> None:
    table = run("incidents", "list", "--url", worker)
    assert table.exit_code == 0 and "\x1b" not in table.stdout and "4 open, 6 in all; 0 muted" in table.stderr
    assert table.stdout.count("i-") == 6 and "3 devices together since 2023-11-14" in table.stdout
    body = json.loads(run("incidents", "list", "--url", worker, "-o", "json", "--state", "open").stdout)
    assert [item["id"] for item in body["items"]] == [one.id for one in INCIDENTS[:1:-1]]
    rows = list(csv.DictReader(run("incidents", "list", "--url", worker, "-o", "csv", "-n", "2").stdout.splitlines()))
    assert [row["id"] for row in rows] == [INCIDENTS[5].id, INCIDENTS[4].id] and rows[1]["devices"] == "3"
    lines = run("incidents", "list", "--url", worker, "-o", "jsonl", "--device", "dev-3").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [INCIDENTS[3].id]


def test_the_list_goes_on_behind_a_cursor(run: Run, worker: str) -> None:
    first = json.loads(run("incidents", "list", "--url", worker, "-o", "json", "-n", "2").stdout)
    rest = json.loads(
        run("incidents", "list", "--url", worker, "-o", "json", "-n", "0", "--after", first["next"]).stdout
    )
    assert [one["id"] for one in first["items"] + rest["items"]] == [one.id for one in INCIDENTS[::-1]]


def test_one_incident_and_its_explanation(run: Run, worker: str) -> None:
    name = INCIDENTS[3].id
    shown = run("incidents", "show", name, "--url", worker)
    assert shown.exit_code == 0 and shown.stdout.startswith("3 devices together since") and "worst: " in shown.stdout
    assert json.loads(run("incidents", "show", name, "--url", worker, "--json").stdout)["id"] == name
    explained = run("explain", name, "--url", worker)
    assert explained.exit_code == 0 and "30" in explained.stdout and "2.1" in explained.stdout
    assert run("incidents", "show", "i-0000000000", "--url", worker).exit_code == 1
    assert run("incidents", "show", "../x", "--url", worker).exit_code == 2


def test_acknowledgements_and_mutes_are_records(run: Run, written: Written) -> None:
    name = INCIDENTS[0].id
    for args, scope, changes in (
        (("ack", name), f"ack/{name}", {"ack": True, "until_ms": None}),
        (("unack", name), f"ack/{name}", {"ack": None, "until_ms": None}),
        (("mute", "--prefix", "test-"), "mute/prefix/test-", {"mute": True, "until_ms": None}),
        (("mute", "--device", "dev-1"), "mute/device/dev-1", {"mute": True, "until_ms": None}),
    ):
        assert run("incidents", *args, "--reason", "r").exit_code == 0
        assert written[-1] == (scope, changes, "r")
    assert run("incidents", "unmute", "--feature", "t").exit_code == 0 and written[-1][1]["mute"] is None
    assert run("incidents", "mute", "--feature", "t", "--for", "2h").exit_code == 0 and written[-1][1]["until_ms"] > 0


@pytest.mark.parametrize("args", [("mute",), ("mute", "--device", "a", "--feature", "t"), ("ack", "x"), ("acks",)])
def test_wrong_use_is_said(run: Run, written: Written, args: tuple[str, ...]) -> None:
    assert run("incidents", *args).exit_code == 2 and written == []
