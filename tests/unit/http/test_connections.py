"""Connections: how many, how long, and that the process keeps descriptors for its data."""

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

from klais.config.load import Settings
from klais.edge.api.server import make_app
from klais.http.addresses import parse_networks
from klais.http.connections import ConnectionLimits, Connections, Listener
from tests.support.http import FakeState, ask, connect, make_guard, raw, served
from tests.support.process import wait_for

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WAIT_S = 30.0  # only a server that never closes takes so long


@contextmanager
def serve(**limits: float) -> Iterator[tuple[str, Listener]]:
    given: Any = limits
    with served(make_app(FakeState(), make_guard(), 1000), ConnectionLimits(**given)) as found:
        yield found


def closed_by_server(sock: socket.socket) -> bytes:
    """What comes until the server closes; AssertionError when it does not."""
    sock.settimeout(WAIT_S)
    out = b""
    try:
        while data := sock.recv(65_536):
            out += data
    except ConnectionResetError:
        pass
    except TimeoutError:
        raise AssertionError("the server keeps the connection") from None
    return out


def wait_until_gone(listener: Listener) -> None:
    wait_for(lambda: not len(listener.connections), WAIT_S, "all connections to be let go")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET",
        b"POST /config HTTP/1.1\r\nHost: localhost\r\n",
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        GET,
    ],
    ids=["silent", "half line", "half header", "half body", "half chunk", "idle"],
)
def test_a_connection_that_does_not_go_on_is_closed(begun: bytes) -> None:
    # The one that gets an answer has all the time of a slow machine for its request, and little after it.
    begin_s = WAIT_S if begun == GET else 0.2
    with serve(header_s=begin_s, request_s=begin_s, idle_s=0.2) as (url, listener), connect(url) as sock:
        with contextlib.suppress(OSError):  # this process stood still: the server has closed already
            sock.sendall(begun)
        answer = closed_by_server(sock)
        assert answer.startswith(b"HTTP/1.1 200 ") == (begun == GET)
        wait_until_gone(listener)


def test_drops_of_header_do_not_keep_a_connection() -> None:
    with serve(header_s=0.3) as (url, listener), connect(url) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        sock.settimeout(0.02)
        until_s = time.monotonic() + WAIT_S
        open_still = True
        while open_still:
            assert time.monotonic() < until_s, "the server keeps the connection"
            try:
                sock.sendall(b"X: 1\r\n")
                open_still = bool(sock.recv(100))
            except TimeoutError:
                continue
            except OSError:
                open_still = False
        wait_until_gone(listener)


def test_whoever_reads_nothing_is_let_go() -> None:
    with serve(idle_s=0.2) as (url, listener), connect(url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.settimeout(0.2)
        try:
            for _ in range(5000):
                sock.sendall(GET * 10)
        except OSError:  # our side is full, or the server has closed already
            pass
        wait_until_gone(listener)


def test_requests_one_after_the_other_keep_their_connection() -> None:
    with serve() as (url, _):
        answer = raw(url, GET * 5 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.count(b"HTTP/1.1 200 OK") == 6


def test_a_client_that_does_not_read_is_let_go_at_the_end() -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(32 << 20))

    app = web.Application()
    app.router.add_get("/health", large)
    with contextlib.ExitStack() as kept:
        with served(app) as (url, listener):
            sock = kept.enter_context(connect(url))
            sock.sendall(GET)
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            assert len(listener.connections.transports) == 1
        assert not listener.connections.transports


def test_one_client_has_its_share_and_is_told() -> None:
    with serve(total=100, per_client=4, header_s=1000) as (url, listener):
        held = [connect(url) for _ in range(4)]
        for sock in held:
            sock.sendall(GET)
            assert sock.recv(100_000).startswith(b"HTTP/1.1 200")
            sock.sendall(GET[:10])  # a request is under way
        with connect(url) as sock:
            answer = closed_by_server(sock)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in answer and b"Retry-After: 1" in answer
        assert listener.connections.refused == 1 and len(listener.connections) == 4
        for sock in held:
            sock.close()
        wait_until_gone(listener)
        assert ask(f"{url}/health")[0] == 200


def test_a_connection_that_waits_for_its_next_request_gives_way_to_a_new_one_of_its_client() -> None:
    with serve(total=100, per_client=4, header_s=1000) as (url, listener):
        held = [connect(url) for _ in range(4)]
        for i, sock in enumerate(held):
            sock.sendall(GET)
            assert sock.recv(100_000).startswith(b"HTTP/1.1 200")
            if i < 2:
                sock.sendall(GET[:10])  # a request is under way
        wait_for(lambda: ask_once(url), WAIT_S, "room for another")
        closed_by_server(held[2])
        assert len(listener.connections) <= 4
        held[0].sendall(GET[10:])
        assert b"HTTP/1.1 200" in held[0].recv(100_000)
        for sock in held:
            sock.close()


def ask_once(url: str) -> bool:
    with connect(url) as sock:
        sock.sendall(GET)
        return sock.recv(100).startswith(b"HTTP/1.1 200")


def test_all_clients_together_are_bounded_and_proxies_count_in_that_only() -> None:
    connections = Connections(ConnectionLimits(total=6, per_client=2, proxies=parse_networks("10.0.0.0/8")))
    assert [connections.admit("192.0.2.1", 9) for _ in range(3)] == ["192.0.2.1", "192.0.2.1", None]
    assert [connections.admit(f"2001:db8::{i}", 9) for i in range(3)] == ["2001:db8::/64", "2001:db8::/64", None]
    assert [connections.admit("10.0.0.1", 9) for _ in range(3)] == ["10.0.0.1", "10.0.0.1", None]
    assert len(connections) == 6 and connections.refused == 3
    connections.leave("10.0.0.1")
    assert connections.admit("10.0.0.1", 9) and not connections.admit("10.0.0.9", 9)
    assert ConnectionLimits.of(Settings(api_connections=4)).per_client == 1


def test_descriptors_are_left_for_the_data() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve(total=10_000, per_client=10_000, reserved_fds=64) as (url, listener):
        highest = os.dup(0)
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 300, hard))
        held = []
        try:
            for _ in range(200):  # client and server are this process: each takes two
                held.append(connect(url))
                held[-1].sendall(GET)
                if held[-1].recv(20).startswith(b"HTTP/1.1 503"):
                    break
            assert listener.connections.refused >= 1
            files = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]  # spool segments, connections to Kafka
            for file in files:
                os.close(file)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in held:
                sock.close()
        wait_until_gone(listener)
