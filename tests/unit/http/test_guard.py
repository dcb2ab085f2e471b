"""What both servers refuse, sent to both of them over a socket: foreign names, foreign pages, missing tokens, no
HTTP.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from klais.config.load import Settings
from klais.edge.api.server import make_app
from klais.http.access import Access, digest
from klais.http.addresses import RateLimit, parse_networks
from klais.http.errors import SECURITY_HEADERS
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.worker.web.pages import document_of_pages
from tests.support.examples import examples
from tests.support.http import FakeState, ask, make_guard, post, raw, served
from tests.support.servers import make_edge, make_worker

READ, CHANGE = "read-token-read-token", "change-token-change-token"
BOTH = Access((digest(CHANGE),), (digest(READ), digest(CHANGE)), changes_need=True, reads_need=True)

SERVERS = {"edge": (make_edge, "/stats", "/health"), "worker": (make_worker, "/dam/", "/health")}


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, str]]:
    """(url, a path to read, the path of health)."""
    make, path, health = SERVERS[request.param]
    with served(make(make_guard())) as (url, _):
        yield url, path, health


@pytest.mark.parametrize("host", ["evil.example", "rebind.evil.example:8080", "", "localhost.evil.example"])
def test_foreign_names_are_refused_on_every_path(server: tuple[str, str, str], host: str) -> None:
    url, path, health = server
    for asked in (path, health, "/", "/metrics", "/openapi.json", "/nothing", "/config", "/devices/dev-1"):
        status, body, headers = ask(url + asked, Host=host)
        assert (status, body["code"]) == (421, "unknown_host"), asked
        assert headers["Server"] == "klais"
        assert ask(url + asked, "DELETE", Host=host)[0] == 421


def test_a_request_has_one_host(server: tuple[str, str, str]) -> None:
    url, path, _ = server
    get = f"GET {path} HTTP/1.1\r\nConnection: close\r\n".encode()
    assert b" 400 " in raw(url, get + b"\r\n").splitlines()[0]
    assert b" 400 " in raw(url, get + b"Host: localhost\r\nHost: evil.example\r\n\r\n").splitlines()[0]
    assert b" 200 " in raw(url, f"GET {path} HTTP/1.0\r\n\r\n".encode()).splitlines()[0]  # as load balancers probe
    assert b" 200 " in raw(url, get + b"Host: [::1]:6066\r\n\r\n").splitlines()[0]


CROSS_SITE = [
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_pages_of_others_load_nothing(server: tuple[str, str, str], headers: dict[str, str]) -> None:
    url, path, _ = server
    status, body, _ = ask(url + path, **headers)
    assert (status, body["code"]) == (403, "cross_origin")


def test_a_link_that_somebody_follows_opens(server: tuple[str, str, str]) -> None:
    url, path, _ = server
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(url + path, **followed)[0] == 200
    assert ask(url + path, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors", Sec_Fetch_Dest="empty")[0] == 200


HOSTILE = {
    "method": b"\xff\x00 / HTTP/1.1\r\n\r\n",
    "no http": b"EHLO evil\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
    "long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 5000 + b"\r\n",
    "control characters": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x1b]0;pwned\x07\r\n\x00: 1\r\n\r\n",
    "two lengths": b"POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_http_gets_400_in_the_one_shape(server: tuple[str, str, str], name: str) -> None:
    answer = raw(server[0], HOSTILE[name])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0], answer
    assert json.loads(body) == {
        "error": "this is not a well-formed HTTP request, or its headers are too long",
        "code": "bad_request",
        "details": {},
    }
    assert b"nosniff" in head and b"aiohttp" not in head and b"Python" not in head


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_of_http_get_400_in_the_one_we_speak(server: tuple[str, str, str], version: str) -> None:
    """The answer began with the version that the request named."""
    url, path, _ = server
    request = f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()
    head, _, body = raw(url, request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and json.loads(body)["code"] == "bad_request"


def test_paths_that_are_no_text_are_answered(server: tuple[str, str, str]) -> None:
    for path in (
        b"/\xff\xfe",
        b"/%ff%fe",
        b"/%ed%a0%80",
        b"/\xe2\x80\xae",
        b"/%1b%5d0;pwned%07",
        b"//evil.example/..%2f",
    ):
        answer = raw(server[0], b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404"), answer
        text = json.loads(body)["error"]
        assert text.isprintable(), text


@pytest.mark.parametrize("path", ["read", "/health", "/nothing", "/config"])
def test_every_answer_has_the_headers_that_browsers_heed(server: tuple[str, str, str], path: str) -> None:
    url, read, _ = server
    headers = ask(url + (read if path == "read" else path))[2]
    assert {name: headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "Access-Control-Allow-Origin" not in headers


# -- changes


@pytest.fixture(scope="module")
def edge() -> Iterator[tuple[str, FakeState]]:
    state = FakeState()
    with served(make_app(state, make_guard(), min_rate=1000)) as (url, _):
        yield url, state


BODY = '{"new_rate": 20000}'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        # what a page of another site can make a browser send without asking first
        (
            {
                "Content_Type": "text/plain;charset=UTF-8",
                "Origin": "http://evil.example",
                "Sec_Fetch_Site": "cross-site",
            },
            403,
        ),
        ({"Content_Type": "text/plain", "Origin": "null"}, 403),
        ({"Content_Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content_Type": "application/json", "Origin": "http://localhost:3000", "Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "application/json", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "application/json", "Origin": "null"}, 403),
        ({"Content_Type": "application/json", "Host": "evil.example", "Origin": "http://evil.example"}, 421),
        # and what is no browser, but no JSON either
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": "application/json-patch+json"}, 415),
        ({"Content_Type": "application/json", "Content_Encoding": "gzip"}, 415),
    ],
)
def test_a_change_that_no_operator_sent_is_refused(
    edge: tuple[str, FakeState], headers: dict[str, str], status: int
) -> None:
    url, state = edge
    state.rate = 10_000
    got, body, _ = ask(f"{url}/config", "POST", BODY, **headers)
    assert got == status and set(body) == {"error", "code", "details"}
    assert state.rate == 10_000


@pytest.mark.parametrize("own", [{}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {"Origin": "self"}])
def test_a_change_of_our_own_passes(edge: tuple[str, FakeState], own: dict[str, str]) -> None:
    url, state = edge
    headers = {name: url if value == "self" else value for name, value in own.items()}
    assert post(f"{url}/config", BODY, **headers)[0] == 200
    assert state.rate == 20_000


def test_the_documented_curl_command_works(edge: tuple[str, FakeState]) -> None:
    url, _ = edge
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    command = "curl -X POST http://127.0.0.1:8080/config -H 'Content-Type: application/json' -d '{\"new_rate\": 20000}'"
    assert command in page
    port = url.rpartition(":")[2]
    lines = ["POST /config HTTP/1.1", f"Host: 127.0.0.1:{port}", "User-Agent: curl/7.88.1", "Accept: */*"]
    lines += ["Content-Type: application/json", "Content-Length: 19", "", '{"new_rate": 20000}']
    answer = raw(url, "\r\n".join(lines).encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["new_rate"] == 20_000


# -- tokens


@pytest.mark.parametrize("name", list(SERVERS))
def test_reading_needs_a_token_where_one_is_set(name: str) -> None:
    make, path, health = SERVERS[name]
    with served(make(make_guard(access=BOTH))) as (url, _):
        for asked in (path, "/metrics", "/openapi.json", "/nothing"):
            status, body, headers = ask(url + asked)
            assert (status, body["code"], headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer"), asked
        assert ask(url + health)[0] == 200  # probes have no token
        for token in (READ, CHANGE):
            assert ask(url + path, Authorization=f"Bearer {token}")[0] == 200
        assert ask(url + path, Authorization=f"Bearer {READ}x")[0] == 401
        if name == "edge":
            status, body, _ = post(f"{url}/config", "no JSON", Authorization=f"Bearer {READ}")
            assert (status, body["code"]) == (401, "unauthorized"), (
                "the body of whoever may not change is not looked at"
            )
            assert post(f"{url}/config", BODY, Authorization=f"Bearer {CHANGE}")[0] == 200


def test_odd_authorization_headers_are_wrong_tokens() -> None:
    for given in (
        "Bearer",
        "Bearer ",
        "bearer\t",
        "Bearer \udcff\udcfe",
        "Basic " + CHANGE,
        "Bearer " * 100,
        CHANGE,
        "é",
    ):
        assert not BOTH.may_change(given) and not BOTH.may_read(given)
    assert not BOTH.may_change(None)


def test_elsewhere_than_on_loopback_a_token_is_made(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", api_bind="0.0.0.0:8080")
    access = Access.of(settings, "0.0.0.0")
    assert access.changes_need and access.reads_need and access.generated == tmp_path / "state" / "api.token"
    assert access.generated.stat().st_mode & 0o777 == 0o600
    token = access.generated.read_text().strip()
    assert len(token) == 32
    assert access.may_change(f"Bearer {token}") and access.may_read(f"Bearer {token}")
    assert not access.may_change(None) and not access.may_read(None)
    assert Access.of(settings, "0.0.0.0") == access, "the next process finds it"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["api.token"]


def test_on_loopback_a_token_counts_where_it_is_set(tmp_path: Path) -> None:
    Access.of(Settings(state_dir=tmp_path), "0.0.0.0")
    access = Access.of(Settings(state_dir=tmp_path), "127.0.0.1")
    assert access == Access() and access.may_change(None) and access.may_read(None)
    access = Access.of(Settings(state_dir=tmp_path, api_read_token=READ), "::1")
    assert access.may_change(None) and not access.may_read(None) and access.may_read(f"Bearer {READ}")
    access = Access.of(Settings(state_dir=tmp_path, api_token=CHANGE), "localhost")
    assert not access.may_change(None) and access.may_read(None)


def test_reads_can_be_opened_on_purpose(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, api_open_reads=True)
    access = Access.of(settings, "0.0.0.0")
    assert access.may_read(None) and not access.may_change(None)
    assert Access.of(settings, "0.0.0.0", changes=False).generated is None, "nothing needs one"
    assert not Access.of(Settings(state_dir=tmp_path, api_open_reads=True, api_read_token=READ), "::").may_read(None)


# -- the limiter


def test_only_health_from_this_machine_is_never_too_much() -> None:
    proxies = parse_networks("127.0.0.1")
    with served(make_edge(Guard(AllowedHosts("127.0.0.1"), proxies=proxies, limiter=RateLimit(per_s=0.01)))) as (
        url,
        _,
    ):
        assert [ask(f"{url}/health")[0] for _ in range(3)] == [200] * 3
        assert [ask(f"{url}/stats")[0] for _ in range(2)] == [429] * 2
        elsewhere = {"X_Forwarded_For": "192.0.2.7"}
        assert ask(f"{url}/health", **elsewhere)[0] == 429
    with served(make_edge(Guard(AllowedHosts("127.0.0.1"), proxies=proxies, limiter=RateLimit(per_s=1.0)))) as (url, _):
        clients = [{"X_Forwarded_For": f"192.0.2.{i}"} for i in range(5)]
        assert [ask(f"{url}/stats", **client)[0] for client in clients] == [200] * 5


# -- the worker's pages, held to their document

# the stream does not end, and the changes of the past are in Kafka: see tests/unit/ui and tests/broker
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
schema = schemathesis.openapi.from_dict(
    document_of_pages(),
    config=SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}),
).exclude(path=["/api/v1/stream", "/api/v1/audit", "/api/v1/tap"])


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    with served(make_worker(make_guard())) as (url, _):
        yield url


@schema.parametrize()
@settings(
    max_examples=examples(5), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_pages_answer_as_their_document_says(case: schemathesis.Case, worker: str) -> None:
    # the document cannot say that with scope=all page x size is bounded
    case.call_and_validate(base_url=worker, excluded_checks=[positive_data_acceptance])


@pytest.mark.parametrize(
    "query",
    ["size=%ff", "size=%D9%A3", "size=+5", "size=1_0", "size=1e2", "size=" + "9" * 4000, "size=1&size=2", "page=201",
     "sort=%00", "q=%00" + "a" * 16, "q=%f0%9f%92%a9" * 5, "%ed%a0%80=1", "a" * 4000 + "=1", "order=ASC",
     "scope=all,worker", "state=", "sort[]=state", "page=1;size=2", "%1b[31m=%1b]0;x%07",
     "page=100&size=100&scope=all"],
)  # fmt: skip
def test_hostile_parameters_get_400_and_a_clear_text(worker: str, query: str) -> None:
    answer = raw(worker, f"GET /devices/?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0], answer
    said = json.loads(body)
    assert said["code"] == "bad_parameter" and said["error"].isprintable() and len(body) < 2000
