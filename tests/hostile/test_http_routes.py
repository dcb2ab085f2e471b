"""Every route of every server, found in its table: a new one without guard fails here."""

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from klais.http.access import Access, digest
from klais.http.addresses import parse_networks
from klais.http.connections import ConnectionLimits
from klais.http.guard import HEALTH, Guard
from klais.http.session import COOKIE, cookie_header, sign, verify
from klais.ui.demo import demo_app
from klais.ui.recording import load_demo
from tests.support.http import make_guard, served
from tests.support.servers import make_edge, make_worker

READ, CHANGE = "read-token-read-token", "change-token-change-token"
BOTH = Access((digest(CHANGE),), (digest(READ), digest(CHANGE)), changes_need=True, reads_need=True)
PUBLIC = {"/ui/{name}", "/ui/login", "/ui/logout", *HEALTH, *(f"{path}/" for path in HEALTH)}
"""Routes that answer without a token. Whoever adds one here says why in docs/security.md."""

APPS: dict[str, Callable[[Guard], web.Application]] = {
    "edge": make_edge,
    "worker": make_worker,
    "recorded": lambda guard: demo_app(load_demo(), guard),
}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE")
SAFE = {"GET", "HEAD", "OPTIONS"}


def routes(app: web.Application) -> list[tuple[str, str]]:
    """(method, path with braces) of the whole table."""
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return sorted(found)


class Server:
    """A server under test: ``send`` gives status, head and body of one request that says exactly this."""

    def __init__(self, app: web.Application, url: str) -> None:
        self.app, self.port = app, int(url.rpartition(":")[2])

    def send(self, method: str, path: str, *lines: str, host: str | None = "127.0.0.1", body: bytes = b"") -> Any:
        head = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), "Connection: close", *lines]
        if body or method not in SAFE:
            head.append(f"Content-Length: {len(body)}")
        return self.raw("\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)

    def raw(self, request: bytes, until: bytes = b"") -> tuple[int, bytes, bytes]:
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            sock.sendall(request)
            out = b""
            while data := sock.recv(1 << 16):
                out += data
                if until and until in out:
                    break
        head, _, rest = out.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, head, rest


@pytest.fixture(scope="module", params=list(APPS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    app = APPS[request.param](make_guard(access=BOTH, proxies=parse_networks("127.0.0.1")))
    limits = ConnectionLimits(total=200, per_client=200, header_s=1.0, request_s=1.0, idle_s=1.0)
    with served(app, limits) as (url, _):
        yield Server(app, url)


def filled(path: str) -> str:
    """A path of the table with something in the place of each variable."""
    values = {"{name}": "nothing.js", "{path}": "nothing", "{device_id}": "dev-1", "{incident_id}": "i-0123456789"}
    values |= {"{prefix}": "192.0.2.0%2F24"}
    for name, value in values.items():
        path = path.replace(name, value)
    assert "{" not in path, f"say what stands for the variable of {path}"
    return path


def asked(server: Server) -> Iterator[tuple[str, str, str]]:
    """(method, path of the table, path to ask for) for all routes, and for each path all other methods."""
    table = routes(server.app)
    assert len(table) > 6
    for path in sorted({path for _, path in table}):
        for method in METHODS:
            yield method, path, filled(path)


JSON_TYPE = "Content-Type: application/json"
CHANGER, READER = f"Authorization: Bearer {CHANGE}", f"Authorization: Bearer {READ}"


def test_no_route_answers_to_a_foreign_name(server: Server) -> None:
    for method, path, at in asked(server):
        for host in ("evil.example", "127.0.0.1@evil.example:80"):
            status, _, _ = server.send(method, at, CHANGER, JSON_TYPE, host=host, body=b"{}")
            assert status in (421, 400), (method, path, host)


def test_no_route_answers_a_page_of_another_origin(server: Server) -> None:
    for method, path, at in asked(server):
        for lines in (
            ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
            ("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"),
            *([] if method in SAFE else [("Origin: http://evil.example",), ("Origin: null",)]),
        ):
            cookie = f"Cookie: {COOKIE}={sign(digest(CHANGE), 'ops')}"
            status, _, _ = server.send(method, at, cookie, CHANGER, JSON_TYPE, *lines, body=b"{}")
            assert status == 403, (method, path, lines)


def test_every_route_needs_the_token_that_it_should(server: Server) -> None:
    reader_session = f"Cookie: {COOKIE}={sign(digest(READ), 'reader')}"
    for method, path, at in asked(server):
        if path in PUBLIC:
            continue
        without = server.send(method, at, JSON_TYPE, body=b"{}")[0]
        assert without == 401, (method, path, without)
        for wrong in ("Authorization: Bearer wrong", f"Authorization: Basic {CHANGE}", f"Cookie: {COOKIE}=abc.def"):
            assert server.send(method, at, wrong, JSON_TYPE, body=b"{}")[0] == 401, (method, path, wrong)
        if method not in SAFE:
            for weak in (READER, reader_session):
                assert server.send(method, at, weak, JSON_TYPE, body=b"{}")[0] == 401, (method, path, weak)


def test_no_change_comes_from_a_form(server: Server) -> None:
    for method, path in routes(server.app):
        if method in SAFE:
            continue
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"):
            status, _, body = server.send(method, filled(path), CHANGER, f"Content-Type: {kind}", body=b"{}")
            assert status == 415, (method, path, kind, body)
        assert server.send(method, filled(path), CHANGER, body=b"{}")[0] == 415


def test_other_methods_are_refused(server: Server) -> None:
    table = set(routes(server.app))
    for method, path, at in asked(server):
        if (method, path) in table or (method, "*") in table or path == "/{path}":
            continue
        if any((method, other) in table and filled(other) == at for _, other in table):
            continue
        status, head, _ = server.send(method, at, CHANGER, JSON_TYPE, body=b"{}")
        assert status in (404, 405), (method, path, status)
        assert b"TRACE" not in head and CHANGE.encode() not in head


def test_bodies_are_bounded_before_they_are_read(server: Server) -> None:
    for method, path in routes(server.app):
        if method in SAFE or path == "/ui/logout":  # which reads none
            continue
        size = 128 << 10 if path.startswith("/api/v1/devices:") else 4096
        body = b'{"reason":"' + b"x" * size + b'"}'
        status = server.send(method, filled(path), CHANGER, JSON_TYPE, body=body)[0]
        assert status == 413 or (status == 405 and path.startswith("/api/v1/")), (path, status)


PATHS = [
    *("/ui/../stats", "/ui/%2e%2e/stats", "/ui/..%2fstats", "/ui/%2e%2e%2fstats", "/ui//../dam/", "/ui/./../control/"),
    *("/ui/..%5cstats", "/ui/%00", "/ui/index.html%00.js", "/ui//etc/passwd", "/ui/..%2f..%2f..%2fetc%2fpasswd"),
    *(
        "/ui/%252e%252e/stats",
        "/ui/../../klais/ui/routes.py",
        "/ui/;/stats",
        "/health/../stats",
        "/health%2f..%2fstats",
    ),
    *("//evil.example", "//evil.example/ui", "/\\evil.example", "/%5cevil.example/%2e%2e", "///dam", "/ui\\..\\stats"),
    *("http://evil.example/ui/", "http://127.0.0.1/stats", "/stats?x=/ui/", "/%75i/../stats", "/ui/%0d%0aX:1"),
    *("/devices/%00", "/devices/%2e%2e", "/devices/..%2fdam", "/devices/%2fa", "/devices/%ff", "/devices/%f0%9f%98%80"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_goes_round_the_token_or_leads_away(server: Server, path: str) -> None:
    for method in ("GET", "HEAD"):
        status, head, body = server.send(method, path, "Accept: text/html")
        assert status in (200, 301, 302, 308, 400, 401, 404, 421), (path, status)
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"location:"):
                target = line.partition(b":")[2].strip()
                assert target.startswith(b"/") and not target.startswith((b"//", b"/\\")), line
        if status == 200 and method == "GET":
            assert b"<title" in body or b"klais" in body.lower()[:5_000], path
        assert b"root:" not in body and b"def install" not in body and b'"dam"' not in body


@pytest.mark.parametrize(
    "tail", ["%0d%0aSet-Cookie:%20a=b", "%0aX-Evil:1", "%0d%0a%0d%0a<script>", "?a=%0d%0aX-Evil:%201"]
)
def test_no_answer_is_split(server: Server, tail: str) -> None:
    for path in ("/ui", "/dam", "/devices/a", "/", "/stats"):
        _, head, _ = server.send("GET", path + tail, CHANGER, "Accept: text/html")
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
        assert b"x-evil" not in names and b"set-cookie" not in names


def with_body(server: Server) -> str:
    """A route that reads a body, at each of the servers."""
    return "/config" if "/config" in {path for _, path in routes(server.app)} else "/ui/login"


BEGUN = b"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}\r\n{kind}\r\n"
SLOW = {
    "a body that never comes": BEGUN + b"Content-Length: 90\r\n\r\n",
    "chunks that never end": BEGUN + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "headers that never end": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "a line that never ends": b"GET /",
}


@pytest.mark.parametrize("name", SLOW)
def test_what_never_ends_is_ended(server: Server, name: str) -> None:
    request = SLOW[name].replace(b"{path}", with_body(server).encode()).replace(b"{auth}", CHANGER.encode())
    status, _, _ = server.raw(request.replace(b"{kind}", JSON_TYPE.encode()))
    assert status in (0, 400, 408)


def test_many_chunks_are_no_way_round_the_bound(server: Server) -> None:
    head = f"POST {with_body(server)} HTTP/1.1\r\nHost: 127.0.0.1\r\n{CHANGER}\r\n{JSON_TYPE}\r\n"
    chunk = b"800\r\n" + b" " * 0x800 + b"\r\n"
    request = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 400 + b"0\r\n\r\n"
    try:
        status, _, _ = server.raw(request, until=b"\r\n\r\n")
    except ConnectionError:  # it closed before it had read all of it
        return
    assert status == 413


def test_requests_in_one_packet_are_each_judged(server: Server) -> None:
    one = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n{CHANGER}\r\n\r\n".encode()
    two = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    three = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(one + two + three)
        out = b""
        while data := sock.recv(1 << 16):
            out += data
    found = [int(line.split()[1]) for line in out.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    found += [int(part[:3]) for part in out.split(b"HTTP/1.1 ")[1:] if int(part[:3]) not in found]
    assert found[0] in (200, 404) and {401, 421} <= set(found)


COOKIES = [
    *(b"=", b";;;;", b"klais_session", b"klais_session=", b"klais_session=.", b"klais_session=a.\xff\xfe"),
    *(b"klais_session=\xff.\xff", b'klais_session="a.b"', b"klais_session=" + b"." * 900, b"klais_session=a.b; " * 90),
    *(b"klais_session=WyJvcHMiLDk5OTk5OTk5OTld." + b"0" * 64, b"klais_session=\xed\xa0\x80.\xed\xa0\x80"),
]


@pytest.mark.parametrize("cookie", COOKIES, ids=range(len(COOKIES)))
def test_no_cookie_that_nobody_signed_is_a_session(server: Server, cookie: bytes) -> None:
    """A cookie of odd bytes was a traceback in the log for each request."""
    request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: " + cookie + b"\r\n\r\n"
    assert server.raw(request)[0] in (400, 401)


def test_a_session_of_whoever_may_read_changes_nothing_and_one_that_is_over_is_none() -> None:
    reader = sign(digest(READ), "reader")
    assert BOTH.may_read(None, reader) and not BOTH.may_change(None, reader) and BOTH.session(reader) is None
    over = sign(digest(CHANGE), "ops", time.time() - 9 * 3600)
    assert verify(over, BOTH.change) is None and not BOTH.may_read(None, over)
    body, _, mac = sign(digest(CHANGE), "ops").partition(".")
    for other in itertools.chain((body[:-4] + "AAAA",), (body + "=",), (" " + body,)):
        assert verify(f"{other}.{mac}", BOTH.change) is None


def test_a_session_over_tls_goes_over_tls_only(server: Server) -> None:
    """Also where a proxy of ours speaks TLS: else the browser would send the cookie to http:// as well."""
    if "/ui/login" not in {path for _, path in routes(server.app)}:
        return
    body = json.dumps({"token": CHANGE, "name": "ops"}).encode()
    _, plain, _ = server.send("POST", "/ui/login", JSON_TYPE, body=body)
    _, secure, _ = server.send("POST", "/ui/login", JSON_TYPE, "X-Forwarded-Proto: https", body=body)
    _, odd, _ = server.send("POST", "/ui/login", JSON_TYPE, "X-Forwarded-Proto: https, http", body=body)
    flags = [
        next(line for line in head.split(b"\r\n") if line.startswith(b"Set-Cookie")) for head in (plain, secure, odd)
    ]
    assert [b"Secure" in line for line in flags] == [False, True, False]
    assert all(b"HttpOnly" in line and b"SameSite=Strict" in line for line in flags)
    assert "Secure" in cookie_header("", True)
