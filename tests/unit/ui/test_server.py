"""The server of the page: files, stream, sessions, changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, CookieJar, web
from click.testing import CliRunner
from confluent_kafka import KafkaException

from klais.cli.main import main
from klais.config.load import Settings, describe
from klais.control.setpoints import ControlFollower
from klais.errors import ChangedMeanwhile
from klais.http.access import Access, digest
from klais.http.connections import ConnectionLimits, Listener
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.http.session import COOKIE, sign, verify
from klais.http.stream import Hub
from klais.ui.changes import Changes
from klais.ui.demo import demo_app
from klais.ui.incidents import incidents_body
from klais.ui.recording import Recording, RecordingError, load_demo
from klais.ui.routes import Page, install
from tests.support.incidents import incident

TOKEN = "a token of the operators"
SECRET = "secret-of-the-settings"
WHY = {"reason": "floods", "author": "ops"}


class Written:
    """Keeps changes; ``broken``: what it raises instead."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict, dict, str]] = []
        self.broken: Exception | None = None

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> None:
        if self.broken:
            raise self.broken
        self.records.append((scope, dict(record), dict(before or {}), address))


class Server:
    def __init__(self, access: Access) -> None:
        self.written, self.control = Written(), ControlFollower(Settings(control_auto=True))
        changes = Changes(self.control, lambda: self.written, 1000.0)
        guard = Guard(AllowedHosts("127.0.0.1"), access)
        page = Page(
            guard=guard,
            feed=load_demo(),
            changes=changes,
            audit=load_demo().audit,
            incidents=lambda query: incidents_body(self.control.records(), query),
            settings=lambda: describe(Settings(api_token=SECRET, partitions=9)),
        )
        app = web.Application()
        guard.install(app)
        install(app, page)
        self.listener = Listener(app, "127.0.0.1", 0, ConnectionLimits())
        self.url = ""

    async def start(self) -> None:
        self.url = f"http://127.0.0.1:{await self.listener.start()}"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Access], Any]]:
    servers = []

    async def make(access: Access | None = None) -> Server:
        server = Server(access or Access())
        servers.append(server)
        await server.start()
        return server

    yield make
    for server in servers:
        await server.listener.stop()


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        yield session


NEEDS_TOKEN = Access(change=(digest(TOKEN),), read=(digest(TOKEN),), changes_need=True, reads_need=True)


async def test_files_have_a_policy_an_etag_and_their_type(serve, client) -> None:
    server = await serve(NEEDS_TOKEN)  # they need no token: the login is one of them
    async with client.get(server.url + "/ui/") as answer:
        assert answer.status == 200 and answer.content_type == "text/html"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "require-trusted-types-for 'script'" in answer.headers["Content-Security-Policy"]
        etag = answer.headers["ETag"]
    async with client.get(server.url + "/ui/", headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304
    async with client.get(server.url + "/ui/vendor/preact.js") as answer:
        assert answer.status == 200 and answer.content_type == "text/javascript"
        assert answer.headers["Content-Encoding"] == "gzip"
    for name in ("nothing.js", "%2e%2e%2froutes.py", "vendor/", "__init__.py", "vendor%2f..%2f..%2froutes.py"):
        async with client.get(f"{server.url}/ui/{name}") as answer:
            assert answer.status == 404, name


async def test_nothing_but_files_is_read_without_a_token(serve, client) -> None:
    server = await serve(NEEDS_TOKEN)
    for path in ("/api/v1/stream", "/api/v1/history", "/api/v1/about", "/api/v1/audit"):
        async with client.get(server.url + path) as answer:
            assert answer.status == 401, path


async def test_a_session_reads_and_changes_under_its_name(serve, client) -> None:
    server = await serve(NEEDS_TOKEN)
    async with client.post(server.url + "/ui/login", json={"token": TOKEN, "name": "Ada"}) as answer:
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    async with client.get(server.url + "/api/v1/about") as answer:
        assert (await answer.json())["session"]["name"] == "Ada"
    async with client.put(server.url + "/api/v1/devices/dev-1/block", json={"reason": "x", "author": "Eve"}) as answer:
        assert answer.status == 200
    assert server.written.records[0][1]["author"] == "Ada"
    async with client.put(
        server.url + "/api/v1/devices/dev-1/block", json=WHY, headers={"Origin": "http://evil.example"}
    ) as answer:
        assert answer.status == 403
    async with client.post(server.url + "/ui/logout", json={}) as answer:
        assert answer.status == 200
    async with client.get(server.url + "/api/v1/about") as answer:
        assert answer.status == 401


async def test_the_settings_in_force_are_shown_without_secrets_and_compared(serve, client, monkeypatch) -> None:
    server = await serve()
    async with client.get(server.url + "/api/v1/settings") as answer:
        text = await answer.text()
    rows = {row["name"]: row["value"] for row in orjson.loads(text)["settings"]}
    assert rows["KLAIS_PARTITIONS"] == "9" and rows["KLAIS_API_TOKEN"] and SECRET not in text
    monkeypatch.setenv("KLAIS_PARTITIONS", "8")
    command = ["config", "diff", "--running", "--url", server.url]
    found = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert "KLAIS_PARTITIONS: 9 -> 8  (a restart)" in found.stdout.splitlines(), found.output


async def test_five_failed_logins_close_the_door_for_a_minute(serve, client) -> None:
    server = await serve(NEEDS_TOKEN)
    for _ in range(5):
        async with client.post(server.url + "/ui/login", json={"token": "wrong", "name": "x"}) as answer:
            assert answer.status == 401
    async with client.post(server.url + "/ui/login", json={"token": TOKEN, "name": "x"}) as answer:
        assert answer.status == 429


def test_a_session_is_of_its_token_and_ends() -> None:
    value = sign(digest(TOKEN), "Ada", now_s=1000.0)
    good = verify(value, (digest("other"), digest(TOKEN)), now_s=2000.0)
    assert good is not None and good.name == "Ada"
    assert verify(value, (digest("other"),), now_s=2000.0) is None
    assert verify(value, (digest(TOKEN),), now_s=1000.0 + 9 * 3600) is None
    assert verify(value, (), now_s=2000.0) is None
    body, _, mac = value.partition(".")
    for forged in (None, "", "x", body, f"{body}.", f"{body}.{mac[:-1]}0g", f"x{body}.{mac}", f"{body}.{'é' * 64}"):
        assert verify(forged, (digest(TOKEN),), now_s=2000.0) is None


async def test_changes_become_records_and_start_from_what_is_in_force(serve, client) -> None:
    server = await serve()
    base = server.url + "/api/v1"
    async with client.put(base + "/devices/caf%C3%A9/limits", json=WHY | {"rate": 5, "for_s": 60}) as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json())["after"]["rate"] == 5
    async with client.put(base + "/devices/caf%C3%A9/block", json=WHY) as answer:
        body = await answer.json()
        assert body["before"]["rate"] == 5 and body["after"]["block"] is True and body["after"]["rate"] == 5
    async with client.delete(base + "/devices/caf%C3%A9/block", json=WHY) as answer:
        assert (await answer.json())["after"]["unblock"] is True
    async with client.delete(base + "/devices/caf%C3%A9/limits", json=WHY) as answer:
        assert "rate" not in (await answer.json())["after"]
    async with client.post(base + "/devices:block", json=WHY | {"device_ids": ["a", "b", "a"]}) as answer:
        assert [each["scope"] for each in await answer.json()] == ["device/a", "device/b"]
    async with client.post(base + "/devices:unblock", json=WHY | {"device_ids": ["b", "a"]}) as answer:
        assert [each["after"]["unblock"] for each in await answer.json()] == [True, True]
    async with client.put(base + "/override", json=WHY | {"mode": "manual", "rate": 5000}) as answer:
        assert answer.status == 200
    assert server.control.mode() == "manual" and server.control.rate(1.0) == 5000
    async with client.delete(base + "/override", json=WHY) as answer:
        assert answer.status == 200
    assert server.control.override() is None and server.control.mode() == "auto"
    scopes = [scope for scope, *_ in server.written.records]
    assert scopes == ["device/café"] * 4 + ["device/a", "device/b", "device/b", "device/a", "override", "override"]
    assert all(record["author"] == "ops" and address for _, record, _, address in server.written.records)


async def test_incidents_are_acknowledged_and_muted(serve, client) -> None:
    server, known = await serve(), incident(1)
    server.control.consume(f"incident/{known.id}", orjson.dumps(known.state()))
    ack, mutes = f"{server.url}/api/v1/incidents/{known.id}/ack", f"{server.url}/api/v1/mutes"
    for method, path, more, scope, after in (
        ("PUT", ack, {}, f"ack/{known.id}", {"ack": True}),
        ("DELETE", ack, {}, f"ack/{known.id}", {}),
        ("PUT", mutes, {"what": "prefix", "name": "test-"}, "mute/prefix/test-", {"mute": True}),
        ("DELETE", mutes, {"what": "prefix", "name": "test-"}, "mute/prefix/test-", {}),
    ):
        async with client.request(method, path, json=WHY | more) as answer:
            body = await answer.json()
            assert answer.status == 200, body
        kept = {name: value for name, value in body["after"].items() if name in ("ack", "mute")}
        assert (body["scope"], kept) == (scope, after)
        async with client.get(f"{server.url}/api/v1/incidents?size=1") as answer:
            found = await answer.json()  # at once, though answers are kept for a second
        shown = {f"ack/{each['id']}" for each in found["items"] if each["acknowledged"]}
        assert shown | {each["scope"] for each in found["mutes"]} == ({scope} if after else set())
    assert len(server.written.records) == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", "/incidents/i-0123456789/ack", WHY, 404, "unknown_incident"),
        ("PUT", "/incidents/nothing/ack", WHY, 400, "bad_incident_id"),
        ("PUT", "/mutes", WHY | {"what": "all", "name": "x"}, 422, "invalid"),
        ("PUT", "/mutes", WHY | {"what": "device"}, 422, "missing_field"),
        ("PUT", "/mutes", WHY | {"what": "device", "name": "x", "for_s": 0}, 422, "out_of_range"),
        ("PUT", "/devices/dev-1/block", {}, 422, "missing_field"),
        ("PUT", "/devices/dev-1/block", {"reason": ""}, 422, "invalid"),
        ("PUT", "/devices/dev-1/block", WHY | {"for_s": -1}, 422, "out_of_range"),
        ("PUT", "/devices/dev-1/block", WHY | {"for_s": "1h"}, 422, "not_a_number"),
        ("PUT", "/devices/dev-1/block", WHY | {"x": 1}, 422, "unknown_field"),
        ("PUT", "/devices/12345678901234567/block", WHY, 400, "bad_device_id"),
        ("PUT", "/devices/%FF/block", WHY, 400, "bad_device_id"),
        ("PUT", "/devices/a%00/block", WHY, 400, "bad_device_id"),
        ("PUT", "/devices/dev-1/limits", WHY, 422, "nothing_to_set"),
        ("PUT", "/devices/dev-1/limits", WHY | {"rate": 0}, 422, "out_of_range"),
        ("PUT", "/devices/dev-1/limits", WHY | {"rate": 1e300}, 422, "out_of_range"),
        ("PUT", "/devices/dev-1/limits", WHY | {"burst": 0.5}, 422, "out_of_range"),
        ("POST", "/devices:block", WHY | {"device_ids": []}, 422, "invalid"),
        ("POST", "/devices:block", WHY | {"device_ids": ["x" * 17]}, 422, "invalid"),
        ("POST", "/devices:unblock", WHY | {"device_ids": ["a"], "for_s": 5}, 422, "unknown_field"),
        ("PUT", "/override", WHY | {"mode": "manual"}, 422, "missing_field"),
        ("PUT", "/override", WHY | {"mode": "manual", "rate": 1}, 422, "below_minimum"),
        ("PUT", "/override", WHY | {"mode": "auto", "rate": 5000}, 422, "unknown_field"),
        ("PUT", "/override", WHY | {"mode": "fast"}, 422, "invalid"),
        ("PUT", "/sources/0.0.0.0%2F0/block", WHY, 400, "bad_prefix"),
        ("PUT", "/sources/%3A%3A%2F0/block", WHY, 400, "bad_prefix"),
        ("PUT", "/sources/192.0.2.7%2F24/block", WHY, 400, "bad_prefix"),
        ("DELETE", "/sources/dev-1/block", WHY, 400, "bad_prefix"),
        ("PUT", "/sources/%FF/block", WHY, 400, "bad_prefix"),
        ("PUT", "/sources/192.0.2.7/block", {}, 422, "missing_field"),
        ("PUT", "/sources/192.0.2.7/block", WHY | {"for_s": 0}, 422, "out_of_range"),
    ],
)
async def test_bad_requests_say_what_is_wrong_and_change_nothing(
    serve, client, method, path, body, status, code
) -> None:
    server = await serve()
    async with client.request(method, server.url + "/api/v1" + path, json=body) as answer:
        found = await answer.json()
        assert (answer.status, found["code"]) == (status, code), found
        assert found["error"]
    assert server.written.records == []


@pytest.mark.parametrize(
    ("broken", "status", "code"),
    [
        (KafkaException("no acknowledgement in time"), 503, "kafka_unavailable"),
        (ChangedMeanwhile("ben changes override", "ben"), 409, "changed_meanwhile"),
    ],
)
async def test_a_change_that_is_not_made_is_not_in_force(serve, client, broken, status, code) -> None:
    server = await serve()
    server.written.broken = broken
    async with client.put(server.url + "/api/v1/override", json=WHY | {"mode": "manual", "rate": 5000}) as answer:
        body = await answer.json()
        assert (answer.status, body["code"]) == (status, code)
        assert body["details"] == ({"author": "ben"} if status == 409 else {})
    assert server.control.mode() == "auto"


@pytest.mark.parametrize(("what", "done"), [("block", "blocked"), ("unblock", "unblocked")])
async def test_of_many_devices_an_error_names_those_that_are_done(serve, client, what, done) -> None:
    server = await serve()
    write = server.written.change

    def change(scope: str, *words: Any) -> None:
        if scope == "device/c":
            raise KafkaException("no acknowledgement in time")
        write(scope, *words)

    server.written.change = change
    body = WHY | {"device_ids": ["a", "b", "b", "c", "d"]}
    async with client.post(f"{server.url}/api/v1/devices:{what}", json=body) as answer:
        found = await answer.json()
    assert (answer.status, found["details"]) == (503, {done: ["a", "b"]})
    assert found["error"].endswith(f"; 2 of 4 devices are {done}")
    assert [scope for scope, *_ in server.written.records] == ["device/a", "device/b"]


async def next_event(answer: Any) -> dict:
    while True:
        line = await answer.content.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            found: dict = orjson.loads(line[6:])
            return found


async def test_the_stream_gives_events_to_all_viewers_and_ends_with_the_server(serve, client) -> None:
    server = await serve()
    answers = [await client.get(server.url + "/api/v1/stream") for _ in range(5)]
    for answer in answers:
        assert answer.content_type == "text/event-stream" and answer.headers["Cache-Control"] == "no-store"
        assert (await next_event(answer))["sample"]
    async with asyncio.timeout(3600):
        await server.listener.stop()  # with five pages open
        for answer in answers:
            await answer.content.read()
            answer.close()


async def test_too_many_streams_are_refused(client) -> None:
    hub = Hub(lambda: (1, b"{}"), max_viewers=2)
    app = web.Application()
    guard = Guard(AllowedHosts("127.0.0.1"), Access())
    guard.install(app)
    app.router.add_get("/", hub.serve)
    app.on_shutdown.append(hub.close)
    listener = Listener(app, "127.0.0.1", 0, ConnectionLimits())
    url = f"http://127.0.0.1:{await listener.start()}/"
    two = [await client.get(url), await client.get(url)]
    async with client.get(url) as third:
        assert third.status == 503 and third.headers["Retry-After"] == "1"
    for answer in two:
        answer.close()
    await listener.stop()
    assert len(hub) == 0


async def test_recorded_figures_are_read_only(client) -> None:
    listener = Listener(demo_app(load_demo()), "127.0.0.1", 0, ConnectionLimits())
    url = f"http://127.0.0.1:{await listener.start()}"
    async with client.put(url + "/api/v1/devices/dev-1/block", json=WHY) as answer:
        assert answer.status == 405 and (await answer.json())["code"] == "read_only"
    async with client.get(url + "/devices/") as answer:
        assert (await answer.json())["items"]
    async with client.get(url + "/devices/?size=7") as answer:
        assert len((await answer.json())["items"]) == 7
    async with client.get(url + "/devices/?q=chatty&sort=received&order=asc&size=3") as answer:
        first = await answer.json()
        received = [row["received"] for row in first["items"]]
        assert len(received) == 3 and received == sorted(received) and first["recorded"]["rows"] == 200
        assert all("chatty" in row["device_id"] for row in first["items"])
    path = f"/devices/?q=chatty&sort=received&order=asc&size=3&after={first['next']}"
    async with client.get(url + path) as answer:
        rest = (await answer.json())["items"]
        assert rest and min(row["received"] for row in rest) >= received[-1]
    async with client.get(url + "/devices/nobody/") as answer:
        assert answer.status == 404
    await listener.stop()


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b", orjson.dumps({})])
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    with pytest.raises(RecordingError):
        Recording(data)


def test_the_cookie_has_one_name() -> None:
    assert COOKIE == "klais_session"


async def test_recorded_times_become_those_of_now_also_within_sentences() -> None:
    recording = load_demo()
    recorded = recording.pages["/devices/"]["items"]
    recording.pages["/said/"] = {
        "explanation": "since 2020-01-02T03:04:05.678Z.",
        "at_ms": 5,
        "frames": 5,
        "changes": [1, 2],
    }
    said = recording.page("/said/")
    later = datetime(2020, 1, 2, 3, 4, 5, 678_000, UTC) + timedelta(milliseconds=said["at_ms"] - 5)
    assert said["explanation"] == f"since {later:%Y-%m-%dT%H:%M:%S}.{later.microsecond // 1000:03}Z."
    assert said["frames"] == 5 < said["at_ms"]
    moved = recording.page("/devices/")["items"]
    assert all(now["last_seen"] > then["last_seen"] for now, then in zip(moved, recorded, strict=True))
    assert recording.page("/nothing/") is None
    recording.pages["/api/v1/audit"] = {"changes": [{"at": 1}, {"at": 2}]}
    assert len(await recording.audit(1)) == 1
