"""``klais devices`` and ``klais lag`` against a worker's real pages, and against recorded figures."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from klais.cli import blocked
from klais.cli import views as cli_views
from klais.cli.devices import KEYS, SHOWN, SORTS, STATES
from klais.cli.main import main
from klais.cli.output import CsvWriter
from klais.control import overrides
from klais.http.access import Access, digest
from klais.http.addresses import RateLimit
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.ui.demo import demo_app
from klais.ui.recording import load_demo
from klais.worker.web import queries
from klais.worker.web.device import COUNTERS
from klais.worker.web.pages import install
from tests.support.http import served
from tests.support.lane import frames
from tests.support.ports import free_port
from tests.support.views import PARTITIONS, fake_lane, feed, make_views

S = 1_000_000_000
DEVICES = 20
TOKEN = "hunter2-hunter2-hunter2"
HOSTILE = "\x1b]0;pwned\x07\r\n\u202eevil\u2028\x9b"

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name in [name for name in os.environ if name.startswith("KLAIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    return lambda *args, **environ: CliRunner().invoke(main, args, env=environ)


def worker_app(
    access: Access | None = None, missing: bool = False, limiter: RateLimit | None = None
) -> web.Application:
    """A worker's pages over 20 devices, ten of them with two frames."""
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views: Any = make_views(lanes)
    now_ns = time.time_ns()
    feed(lanes, frames(*((f"dev-{i}", 1) for i in range(DEVICES))), now_ns - S, 0)
    feed(lanes, frames(*((f"dev-{i}", 2) for i in range(10))), now_ns, 1)
    views.peers.bodies = {"http://gone:6066": None} if missing else {}
    app = web.Application()
    guard = Guard(AllowedHosts("127.0.0.1"), access or Access(), limiter=limiter or RateLimit())
    install(app, views, guard)
    return app


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    with served(worker_app()) as (url, _):
        yield url


@pytest.fixture(scope="module")
def recorded() -> Iterator[str]:
    with served(demo_app(load_demo())) as (url, _):
        yield url


def test_options_are_those_of_the_page() -> None:
    assert get_args(queries.Sort) == SORTS
    assert get_args(queries.State) == STATES
    assert cli_views.MAX_ROWS == queries.MAX_ROWS


def test_list_for_people(run: Run, worker: str) -> None:
    found = run("devices", "list", "--url", worker, "-n", "3", "--sort", "received")
    lines = found.stdout.splitlines()
    assert found.exit_code == 0 and found.stderr == "3 of 20 devices\n"
    assert lines[0].split() == [name.upper() for name in SHOWN]
    assert len(lines) == 4 and all(line.split()[4] == "2" for line in lines[1:])


@pytest.mark.parametrize("size", [3, 500])
def test_all_pages_hold_each_device_once(run: Run, worker: str, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(cli_views, "MAX_ROWS", size)
    found = run("devices", "list", "--url", worker, "-n", "0", "-o", "jsonl")
    names = [json.loads(line)["device_id"] for line in found.stdout.splitlines()]
    assert sorted(names) == sorted(f"dev-{i}" for i in range(DEVICES))
    whole = json.loads(run("devices", "list", "--url", worker, "-n", "7", "-o", "json").stdout)
    assert len(whole["items"]) == 7 and whole["total"] == DEVICES
    assert names == sorted(names), "a list of all devices is in an order that does not change while it is read"
    rest = run("devices", "list", "--url", worker, "-n", "0", "-o", "jsonl", "--after", whole["next"])
    others = [json.loads(line)["device_id"] for line in rest.stdout.splitlines()]
    assert sorted([*others, *(item["device_id"] for item in whole["items"])]) == names
    by_id = json.loads(run("devices", "list", "--url", worker, "-n", "7", "--sort", "device_id", "-o", "json").stdout)
    rest = run("devices", "list", "--url", worker, "-n", "0", "--sort", "device_id", "-o", "jsonl",
               "--after", by_id["next"])  # fmt: skip
    assert [json.loads(line)["device_id"] for line in rest.stdout.splitlines()] == names[7:]


def test_csv_has_every_column_once(run: Run, worker: str) -> None:
    found = run("devices", "list", "--url", worker, "-o", "csv", "--match", "-1", "--sort", "device_id")
    rows = list(csv.DictReader(found.stdout.splitlines()))
    assert [row["device_id"] for row in rows] == ["dev-1", *(f"dev-{i}" for i in range(10, 20))]
    assert set(SORTS) <= set(rows[0]) and rows[0]["flagged_at"] == "" and rows[0]["received"] == "2"


def test_csv_of_a_device_that_calls_itself_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """A spreadsheet would run it; numbers stay numbers."""
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/C x'!A0", "a=1", "\t=1+1", '=1"', "1,2"]
    CsvWriter(["device_id", "n"]).write({"device_id": name, "n": -5} for name in names)
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))[1:]
    texts = [row[0] for row in rows]
    assert texts == [f"'{name}" for name in names[:5]] + ["a=1", "\\t=1+1", "'=1\"", "1,2"]
    assert {row[1] for row in rows} == {"-5"}


def test_filters_reach_the_worker(run: Run, worker: str) -> None:
    for options, count in (
        (["--dropped"], 0),
        (["--state", "normal"], 20),
        (["--silent", "1h"], 0),
        (["--match", "v-3"], 1),
    ):
        found = run("devices", "list", "--url", worker, *options, "-o", "jsonl")
        assert found.exit_code == 0 and len(found.stdout.splitlines()) == count, options


def test_a_device_and_why(run: Run, worker: str) -> None:
    shown = run("devices", "show", "dev-3", "--url", worker).stdout
    assert "state: normal" in shown and "received=2" in shown
    assert json.loads(run("devices", "show", "dev-3", "--url", worker, "--json").stdout)["counters"]["received"] == 2
    why = run("devices", "why", "dev-3", "--url", worker)
    assert why.stdout.startswith("dev-3: passed. No rule limits this device") and "  blocked " in why.stdout
    gone = run("devices", "why", "nobody", "--url", worker)
    assert gone.exit_code == 1 and "responds with 404" in gone.stderr and gone.stdout == ""
    assert run("devices", "show", "x" * 17, "--url", worker).exit_code == 2


def test_lists_that_lack_a_worker_fail_loudly(run: Run) -> None:
    with served(worker_app(missing=True)) as (url, _):
        found = run("devices", "list", "--url", url, "-o", "jsonl")
    assert found.exit_code == 1 and len(found.stdout.splitlines()) == DEVICES
    assert "http://gone:6066" in found.stderr


def test_tokens(run: Run) -> None:
    access = Access(change=(digest(TOKEN),), read=(digest(TOKEN),), changes_need=True, reads_need=True)
    with served(worker_app(access)) as (url, _):
        refused = run("devices", "list", "--url", url)
        assert refused.exit_code == 1 and "401" in refused.stderr and "KLAIS_API_READ_TOKEN" in refused.stderr
        assert run("devices", "list", "--url", url, KLAIS_API_TOKEN=TOKEN).exit_code == 0


@pytest.mark.parametrize("args", [("devices", "list"), ("devices", "why", "dev-1"), ("devices", "show", "d"), ("lag",)])
def test_no_worker_is_one_line(run: Run, args: tuple[str, ...]) -> None:
    found = run(*args, KLAIS_WEB_PORT=str(free_port()))
    assert found.exit_code == 1 and found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("klais: no worker answers at http://127.0.0.1:") and "klais worker" in line


def test_a_server_that_is_none_of_ours(run: Run) -> None:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/{path:.*}", hello)
    with served(app) as (url, _):
        found = run("devices", "list", "--url", url)
    assert found.exit_code == 1 and "not a KLAIS worker" in found.stderr


def test_too_many_requests_are_asked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_views, "WAIT_S", 0.01)
    monkeypatch.setattr(cli_views, "MAX_WAITS", 1000)
    monkeypatch.setattr(cli_views, "MAX_ROWS", 1)
    with served(worker_app(limiter=RateLimit(5))) as (url, _):
        found = run("devices", "list", "-n", "0", "-o", "jsonl", "--url", url)
    assert found.exit_code == 0 and len(found.stdout.splitlines()) == DEVICES


def test_hostile_texts_stay_printable(run: Run) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/why/"):
            rule = {"rule": HOSTILE, "active": True, "explanation": HOSTILE}
            return web.json_response(
                {"device_id": HOSTILE, "verdict": HOSTILE, "explanation": HOSTILE, "rules": [rule]}
            )
        if request.path == "/topics/":
            group = {"lag": 1, "out_per_s": 1.0}
            topic = {"in_per_s": 5.0, "groups": {HOSTILE: group}}
            return web.json_response({"topics": {HOSTILE: topic}, "lanes": {"lag_records": {}, "lag": 0}})
        item = {"device_id": HOSTILE, "state": HOSTILE}
        return web.json_response(
            {"items": [item], "total": 1, "next": None, "profile": [], HOSTILE: {HOSTILE: HOSTILE}}
        )

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    with served(app) as (url, _):
        for args in (
            *(("devices", "list", "-o", form) for form in ("table", "csv", "json", "jsonl")),
            *(("lag", "-o", form) for form in ("table", "csv", "json", "jsonl")),
            ("devices", "show", "d"),
            ("devices", "why", "d"),
        ):
            found = run(*args, "--url", url)
            assert found.exit_code == 0, found.output
            assert [line for line in found.output.split("\n") if not line.isprintable()] == []


Written = list[tuple[str, dict[str, Any], str]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """The changes that commands would write."""
    taken: Written = []

    def write(_settings: Any, scope: str, changes: dict[str, Any], author: str, reason: str, *_: Any) -> dict[str, Any]:
        taken.append((scope, changes, reason))
        return {**changes, "author": author}

    def write_all(_settings: Any, scopes: Iterable[str], *words: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((scope, write(_settings, scope, *words)) for scope in scopes)

    monkeypatch.setattr(overrides, "write", write)
    monkeypatch.setattr(overrides, "write_all", write_all)
    return taken


def test_changes_are_those_of_control(run: Run, written: Written) -> None:
    for by_devices, by_control in (
        (("block", "d", "--reason", "r"), ("block", "d", "--reason", "r")),
        (("unblock", "d"), ("unblock", "d")),
        (("limit", "d", "--rate", "5"), ("device", "d", "--rate", "5")),
    ):
        assert run("devices", *by_devices).exit_code == 0
        assert run("control", *by_control).exit_code == 0
        assert written[-1] == written[-2]
    assert written[0] == ("device/d", {"block": True, "unblock": None, "until_ms": None}, "r")


def test_a_closed_pipe_is_quiet(recorded: str, tmp_path: Path) -> None:
    """The list is longer than what a pipe holds, and its reader takes one line."""
    command = [sys.executable, "-m", "klais", "devices", "list", "-n", "0", "-o", "jsonl", "--url", recorded]
    environ = os.environ | {"KLAIS_STATE_DIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["device_id"]
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()
    process.stderr.close()


def test_lag_of_a_recorded_worker(run: Run, recorded: str) -> None:
    raw = load_demo().pages["/topics/"]["topics"]["klais_raw"]
    lag = raw["groups"]["klais"]["lag"]
    found = run("lag", "--url", recorded, "--interval", "1ms")
    assert found.exit_code == 0
    head, lanes, group = found.stdout.splitlines()
    assert head.split()[:2] == ["TOPIC", "GROUP"] and lanes.startswith("(staging)  (lanes) ")
    assert group.split()[:3] == ["klais_raw", "klais", str(lag)]
    whole = json.loads(run("lag", "--url", recorded, "--interval", "1ms", "-o", "json").stdout)
    assert whole["lanes"]["lag_s"].keys() == whole["lanes"]["lag_records"].keys() == {"0", "1", "2", "3"}
    (_, row) = whole["groups"]
    assert (row["lag"], row["in_per_s"]) == (lag, raw["in_per_s"])
    assert row["out_per_s"] == raw["groups"]["klais"]["out_per_s"]


def test_counts_of_blocks_that_a_worker_did_not_send_are_unknown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [{"items": [], "workers_missing": ["http://gone:6066"]}]
    monkeypatch.setattr(cli_views.WorkerViews, "devices", lambda *_, **__: iter(pages))
    monkeypatch.setattr(cli_views.WorkerViews, "get", lambda *_, **__: {"overrides": []})
    monkeypatch.setattr(cli_views.WorkerViews, "events", lambda _: iter(()))
    found = run("devices", "blocked")
    assert found.exit_code == 0 and "some LANE_DROPPED are unknown" in found.stderr and "gone" in found.stderr


def test_csv_has_every_counter_of_a_device() -> None:
    """JSON lines print what the worker sends; a counter that is new there must not be missing from CSV."""
    assert set(COUNTERS) <= set(KEYS) and len(KEYS) == len(set(KEYS))


def test_blocks_are_listed_with_author_reason_times_and_both_counts() -> None:
    def record(device_id: str, **more: Any) -> dict[str, Any]:
        return {"scope": f"device/{device_id}", "block": True, "author": "ada", "reason": "floods", "at": 0} | more

    local = [{"device_id": "dev-9", "left_s": 5.0, "dropped": 3}]
    filtered = {"block_drops": {"dev-1": 7}, "local_blocks": local}
    edges = [{"id": name, "host": "box", "gauges": {"xdp": filtered}} for name in ("edge-0", "edge-1")]
    event = {"at_ms": 10_000, "edges": [*edges, {"id": "edge-2", "gauges": {}}]}
    others = [record("past", until_ms=9_000), record("free", unblock=True), {"scope": "global", "block": True}]
    limited = {"scope": "device/slow", "rate": 5.0}
    found = blocked.rows_of(
        [record("dev-2", until_ms=11_000), record("dev-1"), *others, limited],
        event, [{"device_id": "dev-1", "blocked": 4}],
    )  # fmt: skip
    began = "1970-01-01T00:00:00.000Z"
    assert [tuple(row.values()) for row in found] == [
        ("dev-1", began, None, "ada", "floods", "everywhere", 4, 7),
        ("dev-2", began, "1970-01-01T00:00:11.000Z", "ada", "floods", "everywhere", None, 0),
        ("dev-9", None, "1970-01-01T00:00:15.000Z", "klais xdp block", "", "the filter of box", None, 3),
    ]
    assert blocked.rows_of([record("dev-1")], {}, [])[0]["kernel_dropped"] is None, "no filter counts"


def test_blocks_of_a_recorded_worker(run: Run, recorded: str) -> None:
    head, row = run("devices", "blocked", "--url", recorded).stdout.splitlines()
    assert head.split() == [name.upper() for name in blocked.KEYS]
    assert row.startswith("chatty-000007") and "ada@ops  floods after a firmware update  everywhere" in row
    (found,) = json.loads(run("devices", "blocked", "--url", recorded, "-o", "json").stdout)["blocked"]
    assert (found["device_id"], found["by"]) == ("chatty-000007", "ada@ops")


def test_an_empty_list_says_why_and_a_match_that_no_id_has_is_refused(run: Run, worker: str) -> None:
    found = run("devices", "list", "--url", worker, "--silent", "1h", "--state", "normal")
    assert found.exit_code == 0 and found.stderr == "no device matches all of these options\n"
    assert found.stdout.startswith("DEVICE_ID")
    for match in ("", "x" * 17, "a\0"):
        refused = run("devices", "list", "--url", worker, "--match", match)
        assert refused.exit_code == 2 and "--match: part of a device_id has 1 to 16 bytes" in refused.stderr


@pytest.mark.parametrize("words", [("block", "d"), ("limit", "d", "--rate", "5")])
def test_what_ends_at_once_is_refused(run: Run, words: tuple[str, ...]) -> None:
    found = run("devices", *words, "--for", "0s")
    assert found.exit_code == 2 and "'0s' ends at once: give from 1ms to 366d" in found.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--verdict", "passed", "--reason", "duplicate"), "a frame with verdict passed has no reason"),
        (("--device", "dev-1", "--prefix", "meter-"), "device dev-1 does not begin with meter-"),
    ],
)
def test_a_tap_that_can_show_nothing_is_refused(run: Run, words: tuple[str, ...], says: str) -> None:
    found = run("tap", *words)
    assert found.exit_code == 2 and says in found.stderr
