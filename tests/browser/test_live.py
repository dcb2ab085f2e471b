"""The page of real workers on a real broker: changes by keyboard, who may change, lost workers, open tabs at a stop."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from tests.support.browser import Watched
from tests.support.edge import EdgeProcess, edge_process
from tests.support.fault_harness import Worker
from tests.support.process import HTTP_S, wait_for

TOKEN = "token-of-the-operators"
DEVICES = 40
Tab = Callable[..., Watched]


class Pair(NamedTuple):
    """Two workers that need a token for changes, and an edge before them."""

    settings: Settings
    edge: EdgeProcess
    workers: list[Worker]
    folder: Path
    deaf: list[socket.socket]

    def start(self, k: int, port: int = 0) -> Worker:
        """Worker ``k``."""
        log = self.folder / f"w{k}.log"
        return Worker(self.settings, log, port, worker_id=f"w{k}", api_token=TOKEN, api_connections=1000)


@pytest.fixture(scope="module")
def pair(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("live")
    prefix = f"live-{time.time_ns():x}-"
    settings = Settings(topic_prefix=prefix, kafka_bootstrap=kafka, partitions=2, state_dir=folder)
    ensure_topics(settings)
    with edge_process(settings, folder / "edge.log") as edge:
        pair = Pair(settings, edge, [], folder, [])
        pair.workers.extend(pair.start(k) for k in range(2))
        try:
            edge.wait_status(200)
            edge.send([encode_frame(f"dev-{d}", n, b'{"t":%d.5}' % n) for n in range(5) for d in range(DEVICES)])
            for worker in pair.workers:
                worker.wait_ready()
            wait_for(lambda: known(pair) == DEVICES, 30, "all devices known")
            pair.deaf.append(stream(pair.workers[1])[1])
            yield pair
        finally:
            for worker in pair.workers:
                worker.kill()
            for sock in pair.deaf:
                sock.close()


def known(pair: Pair) -> int:
    """Devices that all workers together know."""
    return int(ask(pair.workers[0], "/devices/?scope=all&size=1")[1].get("total", 0))


def ask(worker: Worker, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON body."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    url = f"http://127.0.0.1:{worker.port}{path}"
    try:
        request = urllib.request.Request(url, data, given, method=method)
        with urllib.request.urlopen(request, timeout=HTTP_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def opened(tab: Watched, worker: Worker, path: str) -> Watched:
    tab.page.goto(f"http://127.0.0.1:{worker.port}/ui/#/{path}")
    tab.page.wait_for_selector("main h1")
    return tab


def press(tab: Watched, text: str) -> None:
    """Move the focus by Tab to the control of that text, and press Enter."""
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.textContent.trim()") == text:
            tab.page.keyboard.press("Enter")
            return
    raise AssertionError(f"Tab never reaches {text!r}")


def fill(tab: Watched, **fields: str) -> None:
    """Move the focus by Tab to each input, type its text; Enter in the last one sends the form."""
    for name, text in fields.items():
        for _ in range(60):
            if tab.page.evaluate("document.activeElement.name") == name:
                break
            tab.page.keyboard.press("Tab")
        else:
            raise AssertionError(f"Tab never reaches the input {name!r}")
        tab.page.keyboard.type(text)
    tab.page.keyboard.press("Enter")


def overrides(pair: Pair) -> list[dict[str, Any]]:
    """What the command line says is in force."""
    done = CliRunner().invoke(main, ["control", "status", "--json"], env=environ_of(pair.settings))
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.output)["overrides"]
    return found


def test_every_page_of_both_workers_shows_the_whole_system(pair: Pair, tab: Tab) -> None:
    for worker in pair.workers:
        shown = opened(tab(), worker, "devices?size=50")
        shown.page.get_by_text(f"{DEVICES} devices", exact=True).wait_for()
        opened(shown, worker, "topics")
        for partition in ("0", "1"):
            row = shown.page.get_by_role("region", name="Lag of each partition of klais_raw").locator("tbody th")
            row.get_by_text(partition, exact=True).wait_for()
        opened(shown, worker, "device/nobody")
        shown.page.get_by_text("No worker knows the device").wait_for()
        assert shown.hosts() == {f"http://127.0.0.1:{worker.port}"}
        assert [error for error in shown.errors if "404" not in error] == []


def test_a_change_needs_the_token_its_own_origin_and_a_known_host(pair: Pair) -> None:
    path, body = "/api/v1/devices/dev-1/block", {"reason": "x", "author": "Eve"}
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for worker in pair.workers:
        assert ask(worker, path, "PUT", body)[0] == 401
        assert ask(worker, path, "PUT", body, Authorization="Bearer wrong")[0] == 401
        assert ask(worker, path, "PUT", body, **bearer, Origin="http://evil.example")[0] == 403
        assert ask(worker, path, "PUT", body, **bearer, Host="evil.example")[0] == 421
        assert ask(worker, "/ui/", Host="evil.example")[0] == 421
    assert overrides(pair) == []


def test_a_block_by_keyboard_is_seen_everywhere_and_undone(pair: Pair, tab: Tab) -> None:
    one, two = (opened(tab(), worker, "device/dev-3") for worker in pair.workers)
    one.page.get_by_text("to change something").wait_for()
    assert one.page.get_by_role("button", name="Block…").is_disabled()
    press(one, "Log in")
    one.page.locator("h1:focus", has_text="Log in").wait_for()  # a new page moves the focus to its heading
    fill(one, name="Ada", token=TOKEN)
    one.page.locator("h1:focus", has_text="Device dev-3").wait_for()
    press(one, "Block…")
    fill(one, reason="floods")
    one.page.get_by_role("button", name="Unblock…").wait_for()
    two.page.get_by_role("button", name="Unblock…").wait_for()
    (block,) = overrides(pair)
    assert (block["scope"], block["block"], block["author"], block["reason"]) == ("device/dev-3", True, "Ada", "floods")
    wait_for(lambda: newest_change(pair) == ("device/dev-3", "Ada", "floods"), 30, "the block in the audit")
    press(one, "Unblock…")
    fill(one, reason="calm again")
    for page in (one.page, two.page):
        page.get_by_role("button", name="Block…").wait_for()
    assert overrides(pair) == []
    wait_for(lambda: newest_change(pair) == ("device/dev-3", "Ada", "calm again"), 30, "its end in the audit")
    assert one.errors == two.errors == []


def test_frames_of_a_device_are_shown_by_every_worker_with_the_token_only(pair: Pair) -> None:
    path, numbers = "/api/v1/frames?device_id=dev-5", iter(range(1000, 1_000_000))
    for worker in pair.workers:  # one of them has to ask the other

        def frames(worker: Worker = worker) -> list[dict[str, Any]]:
            pair.edge.send([encode_frame("dev-5", next(numbers), b'{"t":1.5}')])
            status, body = ask(worker, path, Authorization=f"Bearer {TOKEN}")
            assert status == 200, body
            found: list[dict[str, Any]] = body["frames"]
            return found

        assert ask(worker, path)[0] == 401
        shown = wait_for(frames, 60, "frames of the device")
        assert {(frame["device_id"], frame["payload"]) for frame in shown} == {("dev-5", '{"t":1.5}')}


def newest_change(pair: Pair) -> tuple[str, str, str]:
    """Scope, author and reason of the newest change that the other worker knows; an answer holds for a second."""
    newest = ask(pair.workers[1], "/api/v1/audit")[1]["changes"][0]
    return newest["scope"], newest["author"], newest["reason"]


def test_a_killed_worker_is_said_and_its_page_goes_on_without_a_hole(pair: Pair, tab: Tab) -> None:
    first = pair.workers[0]
    shown = opened(tab(), first, "overview")
    wait_for(lambda: len(times(shown)) > 2, 30, "a history")
    before = times(shown)
    first.kill()
    banner = shown.page.get_by_text("No connection to the worker")
    banner.wait_for()
    silent_ms = time.time() * 1000
    wait_for(lambda: history(pair.workers[1])[-1] > silent_ms, 30, "figures of the time in between")
    banner.wait_for()  # a page that got no CPU for a while shows it too, until it has read what had come
    back_ms = time.time() * 1000
    pair.workers[0] = pair.start(0, first.port)
    pair.workers[0].wait_ready()
    banner.wait_for(state="detached")
    kept = wait_for(lambda: set(history(pair.workers[0])), 30, "the history of the new process")
    missing = {at_ms for at_ms in kept if at_ms > before[-1]}
    assert any(before[-1] < at_ms < back_ms for at_ms in missing)
    wait_for(lambda: missing <= set(times(shown)), 30, "what the page missed")
    after = times(shown)
    assert after == sorted(set(after)) and set(before) <= set(after)


def times(tab: Watched) -> list[int]:
    """Times of the samples that the page draws."""
    found: list[int] = tab.page.evaluate("import('/ui/store.js').then(({store}) => store.history.at_ms)")
    return found


def history(worker: Worker) -> list[int]:
    """Times of the samples that the worker has."""
    found: list[int] = ask(worker, "/api/v1/history")[1]["at_ms"]
    return found


def stream(worker: Worker) -> tuple[bytes, socket.socket]:
    """The head of the answer to who asks for the stream and reads nothing more, and its connection."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(HTTP_S)
    sock.connect(("127.0.0.1", worker.port))
    sock.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(256)
        assert data, head
        head += data
    return head, sock


def resident_kib(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def received(worker: Worker) -> int:
    """Frames of the device that its lane has taken; 0 while no worker says so."""
    return int(ask(worker, "/devices/dev-1/")[1].get("counters", {}).get("received", 0))


def test_two_hundred_streams_that_nobody_reads_hold_up_nothing(pair: Pair) -> None:
    worker = pair.workers[1]
    taken = wait_for(lambda: received(worker), 60, "the lane after the worker before it was killed")
    held_kib = resident_kib(worker)
    answers = []
    while len(answers) < 200:
        head, sock = stream(worker)
        pair.deaf.append(sock)
        if b" 429 " in head:
            time.sleep(0.1)  # more than 100 requests a second
        else:
            answers.append(head)
    good = [head for head in answers if head.startswith(b"HTTP/1.1 200 ")]
    refused = [head for head in answers if head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in head]
    assert 16 <= len(good) <= 32 and len(good) + len(refused) == 200
    pair.edge.send([encode_frame("dev-1", 100 + n, b"{}") for n in range(50)])
    wait_for(lambda: received(worker) == taken + 50, 60, "the lane to go on")
    assert resident_kib(worker) - held_kib < 128 << 10


def is_kept(worker: Worker, sock: socket.socket) -> bool:
    """Whether the worker's end of the connection is open. Who does not read does not see its end."""
    wanted = [f"{worker.port:04X}", f"{sock.getsockname()[1]:04X}", "01"]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any([line[1][-4:], line[2][-4:], line[3]] == wanted for line in lines)


def test_workers_with_five_open_tabs_stop_in_the_usual_time(pair: Pair, tab: Tab) -> None:
    for worker in pair.workers:
        context = tab().page.context  # tabs of one browser share six connections to a server
        for name in ("overview", "devices", "topics", "device/dev-1", "control"):
            opened(Watched(context.new_page()), worker, name).page.wait_for_selector("main table, main dl")
        # A viewer that has read nothing since the tests began is closed meanwhile; later ones are still there.
        wait_for(lambda at=worker: at is not pair.workers[1] or not is_kept(at, pair.deaf[0]), 300, "its end")
        assert worker.stop() == 0
        assert "exit_forced" not in worker.log.read_text()
