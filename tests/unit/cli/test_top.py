"""``klais top``: keys, rows and picture as functions, and the whole command in a terminal of its own."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from klais.cli.main import main
from klais.cli.top.command import _once
from klais.cli.top.feed import Feed
from klais.cli.top.keys import KeyReader, keys_of
from klais.cli.top.picture import picture
from klais.cli.top.screen import Screen, Sorting
from klais.cli.top.tabs import DEVICES, TABS, drops, pipeline, processes
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.errors import WorkerUnavailable
from klais.http.access import Access
from klais.http.errors import reply
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.http.response_cache import ResponseCache
from klais.ui.changes import Changes
from klais.ui.demo import demo_app
from klais.ui.recording import load_demo
from klais.ui.routes import Page, install
from klais.worker.web.queries import DevicesQuery
from tests.support.http import served
from tests.support.ports import free_port
from tests.support.process import PATIENCE, wait_for

HOSTILE = "\x1b]0;pwned\x07\r\n\u202eevil\u2028\x9b"
PATIENCE_S = 60.0

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name in [name for name in os.environ if name.startswith("KLAIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    return lambda *args, **environ: CliRunner().invoke(main, args, env=environ)


@pytest.fixture(scope="module")
def recorded() -> Iterator[str]:
    with served(demo_app(load_demo())) as (url, _):
        yield url


@pytest.fixture(scope="module")
def event() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(load_demo().event()[1])
    return found


def press(screen: Screen, *keys: str, rows: list[dict[str, Any]] | None = None) -> list[tuple[str, str]]:
    """Press keys; what was blocked."""
    blocked: list[tuple[str, str]] = []

    def block(device_id: str, reason: str) -> str:
        blocked.append((device_id, reason))
        return "done"

    for key in keys:
        screen.press(key, rows or [], block)
    return blocked


def test_once_is_for_scripts(run: Run, recorded: str) -> None:
    found = run("top", "--once", "-o", "json", "--url", recorded)
    body = json.loads(found.stdout)
    assert found.exit_code == 0 and body["status"] == "ok" and body["sentence"].startswith("All is well")
    assert {"pipeline", "processes", "devices", "drops"} <= set(body)
    first = load_demo().pages["/devices/"]["items"][0]["device_id"]
    assert body["devices"][0]["device_id"] == first and body["drops"][0]["frames"] > 0
    text = run("top", "--once", "--url", recorded).stdout
    assert all(f"-- {tab.name}" in text for tab in TABS) and first in text


def test_without_a_terminal_or_a_worker(run: Run, recorded: str) -> None:
    found = run("top", "--url", recorded)
    assert found.exit_code == 2 and "--once -o json" in found.stderr
    assert run("top", "-o", "json", "--url", recorded).exit_code == 2
    away = run("top", "--once", KLAIS_WEB_PORT=str(free_port()))
    assert away.exit_code == 1 and away.stderr.startswith("klais: no worker answers at") and away.stdout == ""


def test_rows_of_the_tabs(event: dict[str, Any]) -> None:
    figures = {row["figure"]: row["value"] for row in pipeline(event)}
    assert figures["arriving at the edges"] == event["sample"]["edge_received"]
    kinds = [(row["process"], row["kind"]) for row in processes(event)]
    assert kinds == [("edge-1", "edge"), (event["workers"][0]["id"], "worker")]
    assert {row["reason"] for row in drops(event) if not row["process"].startswith("kernel")} == {
        drop["reason"] for one in (*event["edges"], *event["workers"]) for drop in one["dropped"]
    }


def test_a_figure_that_no_process_reports_is_unknown(event: dict[str, Any]) -> None:
    silent = event | {"sample": dict.fromkeys(event["sample"]), "edges": [], "workers": []}
    rows = pipeline(silent)
    assert {row["value"] for row in rows if row["figure"] != "sources blocked"} == {None}
    lines = picture(Screen(), silent, rows, None, 80, 30).plain.splitlines()
    assert next(line for line in lines if line.startswith("arriving at the edges")).split()[-2:] == ["-", "frames/s"]
    edge = {**event["edges"][0], "rates": {}}  # its first record has no rates
    row = processes(event | {"edges": [edge]})[0]
    assert (row["received"], row["passed"], row["dropped"]) == (None, None, None)


def test_what_a_kernel_filter_dropped_is_listed_once_for_its_host(event: dict[str, Any]) -> None:
    edge = event["edges"][0] | {"dropped": [], "host": "h:/sys/fs/bpf/klais"}
    edge["kernel_dropped"] = [{"reason": "ring_full", "frames": 5, "intended": False}]
    older = {name: part for name, part in edge.items() if name not in ("kernel_dropped", "host")}
    without_rights = edge | {"id": "edge-3", "kernel_dropped": []}
    edges = [edge, edge | {"id": "edge-2"}, older | {"id": "of-an-older-version"}, without_rights]
    assert drops({"edges": edges, "workers": []}) == [
        {"reason": "ring_full", "frames": 5, "intended": False, "process": "kernel of h"}
    ]


def test_how_full_a_spool_is_and_how_far_lanes_are_stands_in_the_processes(event: dict[str, Any]) -> None:
    edge, worker = event["edges"][0], event["workers"][0]
    spool = {"spooled": 9, "spool_bytes": 410.0, "spool_max_bytes": 1000.0, "spool_full_s": 90.0}
    lanes = [{"partition": 2, "text": "61 % of the journal replayed"}, {"partition": 7, "text": HOSTILE}]
    some = event | {
        "edges": [edge | {"gauges": edge["gauges"] | spool}, edge | {"gauges": {"spool_max_bytes": 0}}],
        "workers": [worker | {"restoring": lanes}, worker],
    }
    rows = processes(some)
    assert [(row["spool_percent"], row["spool_full_s"]) for row in rows[:2]] == [(41.0, 90.0), (None, None)]
    assert rows[2]["restoring"].startswith("lane 2: 61 % of the journal replayed; lane 7: ")
    assert rows[3]["restoring"] is None
    drawn = picture(Screen(tab=1), some, rows, None, 400, 20).plain
    assert "SPOOL %" in drawn and "FULL IN S" in drawn and "41" in drawn and "61 % of the journal" in drawn
    assert all(line.isprintable() for line in drawn.splitlines())


def test_every_column_of_devices_can_be_sorted_by() -> None:
    for column in range(len(TABS[DEVICES].columns)):
        screen = Screen(tab=DEVICES)
        screen.sorting[DEVICES] = Sorting(column, True)
        question = screen.question()
        assert question is not None
        DevicesQuery.model_validate({name: value for name, value in question.items() if value is not None})


def test_sort_turn_and_filter(event: dict[str, Any]) -> None:
    screen = Screen(tab=3)
    by_frames = [row["frames"] for row in screen.rows(event, [])]
    assert by_frames == sorted(by_frames, reverse=True) and len(set(by_frames)) > 1
    press(screen, "r")
    assert [row["frames"] for row in screen.rows(event, [])] == by_frames[::-1]
    press(screen, "<")
    reasons = [row["reason"] for row in screen.rows(event, [])]
    assert reasons == sorted(reasons)
    press(screen, "/", *"BAD_J", "enter")
    assert [row["reason"] for row in screen.rows(event, [])] == ["bad_json"]
    press(screen, "/", *["backspace"] * 5, "enter")
    assert len(screen.rows(event, [])) == len(reasons)
    press(screen, "/", "x", "escape")
    assert screen.filters[3] == "" and not screen.ended


def test_sorting_puts_what_is_not_known_last(event: dict[str, Any]) -> None:
    screen = Screen(tab=1)
    screen.sorting[1] = Sorting([column.key for column in TABS[1].columns].index("lanes"), True)
    assert [row["lanes"] for row in screen.rows(event, [])] == [4, None]


def test_sorting_goes_round_all_columns() -> None:
    for key in "<>":
        screen = Screen(tab=DEVICES)
        seen = set()
        for _ in TABS[DEVICES].columns:
            press(screen, key)
            sorting = screen.sorting[DEVICES]
            assert sorting is not None
            seen.add(sorting.column)
        assert seen == set(range(len(TABS[DEVICES].columns)))


def test_block_asks_for_a_reason() -> None:
    rows = [{"device_id": "a"}, {"device_id": "b"}]
    screen = Screen(tab=DEVICES)
    assert press(screen, "down", "down", "b", "enter", rows=rows) == []
    assert screen.prompt is not None and screen.prompt.device_id == "b"
    assert press(screen, *"q 1", "enter", rows=rows) == [("b", "q 1")] and screen.message == "done"
    assert press(screen, "b", "x", "escape", "1", "b", "x", "enter", rows=rows) == []
    assert press(Screen(tab=DEVICES), "b", "x", "enter") == []


def test_keys() -> None:
    assert keys_of("aé\x1b[A\x1bOB\x1b[6~\t\r\x7f") == [
        "a",
        "é",
        "up",
        "down",
        "page-down",
        "tab",
        "enter",
        "backspace",
    ]
    assert keys_of("\x1b[200~\x00\x1b") == ["escape"]


@pytest.mark.parametrize(
    "parts", [["a\x1b", "[A"], ["a\x1b[", "A"], ["a\x1b[1;", "5A"], ["a\x1bO", "A"], ["a", "\x1b", "[", "A"]]
)
def test_a_key_that_arrives_in_parts_is_one_key(monkeypatch: pytest.MonkeyPatch, parts: list[str]) -> None:
    left = [part.encode() for part in parts]
    monkeypatch.setattr("os.read", lambda _fd, _size: left.pop(0))
    monkeypatch.setattr("select.select", lambda *_: (left, [], []))
    keys = KeyReader(0)
    found: list[str] = []
    while left:
        found += keys.read(0.25)
    assert "escape" not in found and found[0] == "a" and found[1:] in (["up"], [])


def test_escape_alone_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [b"\x1b"]
    monkeypatch.setattr("os.read", lambda _fd, _size: left.pop(0))
    monkeypatch.setattr("select.select", lambda *_: (left, [], []))
    assert KeyReader(0).read(0.25) == ["escape"]


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 4, 12, 50])
def test_the_picture_fits(event: dict[str, Any], width: int, height: int) -> None:
    devices = [{"device_id": f"dev-{i}é名", "state": HOSTILE, "received": i} for i in range(100)]
    for tab in range(len(TABS)):
        screen = Screen(tab=tab, row=50)
        screen.filters[tab] = HOSTILE if tab == DEVICES else ""
        rows = screen.rows(event, devices)
        lines = picture(screen, event, rows, HOSTILE, width, height).split("\n", allow_blank=True)
        assert len(lines) <= height and all(line.cell_len <= width for line in lines)
        assert all(line.plain.isprintable() for line in lines)
        if tab == DEVICES and height >= 12 and width >= 20:
            marked = [line.plain for line in lines[2:] if any(span.style == "reverse" for span in line.spans)]
            assert [line.split()[0] for line in marked] == ["dev-50é名"]


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *args: str, width: int = 100, height: int = 24, **environ: str) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._before = termios.tcgetattr(self._theirs)
        self.text = ""
        command = [sys.executable, "-m", "klais", *args]
        whole = os.environ | {"TERM": "xterm-256color"} | environ
        whole = {name: value for name, value in whole.items() if name not in ("COLUMNS", "LINES")}
        tty = {"stdin": self._theirs, "stdout": self._theirs, "stderr": self._theirs}
        self.process = subprocess.Popen(command, env=whole, start_new_session=True, **tty)

    def until(self, text: str) -> None:
        """Read until the picture has held ``text``; later only what comes after it counts."""
        deadline_s = time.monotonic() + PATIENCE_S
        while text not in self.text:
            assert time.monotonic() < deadline_s, f"{text!r} did not appear in {self.text[-2000:]!r}"
            self._read(0.2)
        self.text = self.text.partition(text)[2]

    def _read(self, timeout_s: float) -> None:
        if select.select([self._ours], [], [], timeout_s)[0]:
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._ours, 65536).decode(errors="replace"))

    def send(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Exit code; the terminal is as it was."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.text[-2000:]
            self._read(0.1)
        assert termios.tcgetattr(self._theirs) == self._before
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*args: str, **environ: Any) -> Terminal:
        opened.append(Terminal(*args, **{"KLAIS_STATE_DIR": str(tmp_path), **environ}))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


class Written:
    """Keeps changes in place of Kafka."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> None:
        self.records.append((scope, dict(record)))


def test_in_a_terminal(terminal: Callable[..., Terminal]) -> None:
    written, recording = Written(), load_demo()
    second = recording.pages["/devices/"]["items"][1]["device_id"]
    guard = Guard(AllowedHosts("127.0.0.1"), Access())
    changes = Changes(ControlFollower(Settings()), lambda: written, 1000.0)
    app = web.Application()
    guard.install(app)
    install(app, Page(guard=guard, feed=recording, changes=changes, audit=recording.audit, answers=ResponseCache()))

    async def devices(_request: web.Request) -> web.StreamResponse:
        return reply(recording.pages["/devices/"])

    app.router.add_get("/devices/", devices)
    with served(app) as (url, _):
        seen = terminal("top", "--url", url)
        seen.until("arriving at the edges")
        seen.send("2")
        seen.until("edge-1")
        seen.send("3")
        seen.until(second)
        seen.send("\x1b[Bb")
        seen.until(f"block {second}, reason: _")
        seen.send("floods\r")
        seen.until(f"blocked {second}")
        seen.send(" ")
        seen.until("PAUSED")
        seen.send("q")
        assert seen.end() == 0
    ((scope, record),) = written.records
    assert scope == f"device/{second}" and record["block"] is True and record["reason"] == "floods"


def test_a_worker_that_goes_away_is_named(terminal: Callable[..., Terminal]) -> None:
    with served(demo_app(load_demo())) as (url, _):
        seen = terminal("top", "--url", url, "--tab", "drops")
        seen.until("bad_json")
    seen.until("worker ended its stream")
    seen.until("no worker answers at")
    seen.process.terminate()
    assert seen.end() == 1


def test_a_wrong_address_is_one_line_before_the_screen_changes(terminal: Callable[..., Terminal]) -> None:
    seen = terminal("top", "--url", f"http://127.0.0.1:{free_port()}", NO_COLOR="1", width=200)
    assert seen.end() == 1
    assert seen.text.startswith("klais: no worker answers at") and seen.text.count("\n") == 1


class Partial:
    """A worker that knows of another one, which does not respond."""

    url = "http://w:6066"

    def __init__(self, event: dict[str, Any]) -> None:
        self.event = event

    def events(self) -> Iterator[dict[str, Any]]:
        yield self.event

    def get(self, _path: str, **_params: object) -> dict[str, Any]:
        return {"items": [], "workers_missing": ["http://gone:6066"]}


def test_devices_of_a_worker_that_does_not_respond_are_named(event: dict[str, Any]) -> None:
    views: Any = Partial(event)
    with pytest.raises(WorkerUnavailable, match=r"lacks the devices .*http://gone:6066"):
        _once(views, "json")
    feed = Feed(views)
    feed.want({"sort": "device_id"})
    asked = threading.Thread(target=feed._ask, daemon=True)
    asked.start()
    wait_for(lambda: feed.newest()[2] is not None, 60 * PATIENCE, "the answer")
    feed.stop()
    assert "http://gone:6066" in str(feed.newest()[2])
