"""Our clients ask our servers and nobody else: no proxy, no redirect; the token goes where it belongs."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from klais.cli.main import main
from klais.cli.up.supervisor import edge_ready, worker_ready
from klais.config.load import Settings
from klais.edge.api.server import make_app
from klais.edge.supervisor.fleet import Fleet
from klais.edge.supervisor.member import Member, environment
from klais.http import client
from klais.http.access import Access, digest, with_token
from klais.http.tokens import token_to_read
from klais.worker.web.peers import MAX_BYTES, fetch
from tests.support.http import FakeState, make_guard, served
from tests.support.udp import held_sockets

TOKEN = "s3cret-token-s3cret-token"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What a proxy that the environment names is sent."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            seen.append(sock.recv(4096))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield seen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_no_client_of_ours_asks_a_proxy(proxy: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access((digest(TOKEN),), (digest(TOKEN),), changes_need=True, reads_need=True)
    app = make_app(FakeState(), make_guard(access=access), 1000)
    with ExitStack() as stack, served(app) as (url, _):
        settings = Settings(state_dir=tmp_path, edge_workers=2, api_token=TOKEN)
        (held,) = stack.enter_context(held_sockets(1))
        member = Member(settings, 0, (), held)
        member.api = url.removeprefix("http://")
        assert b'"success":true' in member.ask("/config", b'{"new_rate": 5000}', TOKEN)
        assert member.ask("/metrics") == b"klais_up 1\n"
        assert client.request(f"{url}/stats", 5, token=TOKEN)[0] == 200
        assert edge_ready(url) and worker_ready(url)
        for name in ("KLAIS_API_TOKEN", "KLAIS_STATE_DIR"):
            monkeypatch.delenv(name, raising=False)
        env = {"KLAIS_API_READ_TOKEN": TOKEN, "KLAIS_STATE_DIR": str(tmp_path)}
        ran = CliRunner().invoke(main, ["stats", "--url", url], env=env)
        assert ran.exit_code == 0 and "dam:" in ran.output
    assert proxy == []


async def test_workers_ask_each_other_directly_with_the_token(proxy: list[bytes]) -> None:
    access = Access(read=(digest(TOKEN),), reads_need=True)
    with served(make_app(FakeState(), make_guard(access=access), 1000)) as (url, _):
        async with aiohttp.ClientSession() as session:
            assert (await fetch(session, f"{url}/stats", {}))[0] == 401
            assert (await fetch(session, f"{url}/stats", {"Authorization": f"Bearer {TOKEN}"}))[0] == 200
        async with aiohttp.ClientSession(trust_env=True) as session:
            with pytest.raises(aiohttp.ClientError, match="proxy"):
                await fetch(session, f"{url}/stats", {"Authorization": f"Bearer {TOKEN}"})
    assert proxy == []


@pytest.fixture(scope="module")
def odd_server() -> Iterator[str]:
    """A server that leads elsewhere, or says more than anybody wants to hear."""

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/stolen")

    async def stolen(_request: web.Request) -> web.Response:
        return web.Response(text="stolen")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(100):
                await response.write(bytes(1 << 20))
        except ConnectionError:
            pass
        return response

    app = web.Application()
    app.router.add_get("/elsewhere", elsewhere)
    app.router.add_get("/stolen", stolen)
    app.router.add_get("/endless", endless)
    with served(app) as (url, _):
        yield url


def test_a_redirect_is_not_followed(odd_server: str) -> None:
    assert client.request(f"{odd_server}/elsewhere", 5, token=TOKEN)[0] == 302


def test_an_endless_answer_is_cut(odd_server: str) -> None:
    with pytest.raises(ValueError, match="larger than"):
        client.request(f"{odd_server}/endless", 30)


async def test_neither_for_workers(odd_server: str) -> None:
    async with aiohttp.ClientSession() as session:
        assert (await fetch(session, f"{odd_server}/elsewhere", {}))[0] == 302
        with pytest.raises(aiohttp.ClientError, match=str(MAX_BYTES)):
            await fetch(session, f"{odd_server}/endless", {})


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "nonsense", "http://127.0.0.1:1"])
def test_what_is_no_server_is_an_error(url: str) -> None:
    with pytest.raises((OSError, ValueError)):
        client.request(url, 2)


def test_what_speaks_no_http_is_an_error() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        sock, _ = listener.accept()
        sock.recv(4096)
        sock.sendall(b"\x1b]0;pwned\x07\n\n")
        sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    with listener, pytest.raises(OSError, match="does not speak HTTP"):
        client.request(f"http://127.0.0.1:{listener.getsockname()[1]}", 5)
    thread.join()


def test_the_command_line_finds_the_token_of_its_state_folder(tmp_path: Path) -> None:
    away = Settings(state_dir=tmp_path, api_bind="0.0.0.0:8080")
    assert token_to_read(away, "0.0.0.0") is None
    access = Access.of(away, "0.0.0.0")
    token = token_to_read(away, "0.0.0.0")
    assert token and access.may_read(f"Bearer {token}")
    assert token_to_read(away) is None, "a token that a server made for itself goes to no other"
    assert token_to_read(away, "127.0.0.1") is None, "a server on loopback did not make one"
    named = Settings(state_dir=tmp_path, api_read_token="r" * 16, api_token="c" * 16)
    assert token_to_read(named) == "r" * 16, "the one that can do less"


def test_members_of_a_fleet_know_its_token(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, edge_workers=2, api_bind="0.0.0.0:0", udp_bind="127.0.0.1:5001")
    with held_sockets(2) as held:
        fleet = Fleet(settings, held)
    made = (tmp_path / "api.token").read_text().strip()
    env = environment(fleet.settings)
    assert env["KLAIS_API_TOKEN"] == made and env["KLAIS_API_PROXIES"] == "127.0.0.1"
    assert with_token(settings, Access()) is settings
