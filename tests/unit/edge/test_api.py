"""The REST API: contract, errors in one shape, limits; held to its own OpenAPI document by schemathesis."""

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.edge.api.openapi import DOCUMENT
from klais.edge.api.server import ApiServer, api_of, make_app
from klais.errors import ChangedMeanwhile, ConfigError, EdgeUnavailable, KlaisError, PortInUse
from klais.http.access import Access, digest
from klais.http.addresses import RateLimit
from tests.support.http import FakeState, ask, make_guard, post
from tests.support.process import wait_for

TOKEN = "secret-token-secret-token"
Serve = Callable[..., tuple[str, FakeState]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ApiServer] = []

    def start(min_rate: float = 1000.0, **options: Any) -> tuple[str, FakeState]:
        state = FakeState()
        servers.append(ApiServer(make_app(state, make_guard(**options), min_rate), "127.0.0.1:0"))
        servers[-1].start()
        return f"http://127.0.0.1:{servers[-1].port}", state

    yield start
    for server in servers:
        server.stop()


def token_needed() -> Access:
    return Access(change=(digest(TOKEN),), read=(digest(TOKEN),), changes_need=True)


def test_config_sets_the_rate_and_tells_the_one_before(serve: Serve) -> None:
    url, state = serve()
    status, body, _ = post(f"{url}/config", '{"new_rate": 20000}')
    assert (status, body) == (200, {"success": True, "previous_rate": 10_000.0, "new_rate": 20_000})
    assert state.rate == 20_000
    assert ask(f"{url}/health")[1]["rate_limit"] == 20_000


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, "malformed_json"),
        ("", 400, "malformed_json"),
        (b"\xff\xfe", 400, "malformed_json"),
        ('{"new_rate": NaN}', 400, "malformed_json"),
        ("[]", 422, "not_an_object"),
        ("null", 422, "not_an_object"),
        ("{}", 422, "missing_field"),
        ('{"new_rate": 0}', 422, "out_of_range"),
        ('{"new_rate": 1000001}', 422, "out_of_range"),
        ('{"new_rate": -5}', 422, "out_of_range"),
        ('{"new_rate": 1.5}', 422, "not_an_integer"),
        ('{"new_rate": true}', 422, "not_an_integer"),
        ('{"new_rate": "7"}', 422, "not_an_integer"),
        ('{"new_rate": null}', 422, "not_an_integer"),
        ('{"new_rate": 1' + "0" * 400 + "}", 400, "malformed_json"),
        ('{"new_rate": 1' + "0" * 25 + "}", 422, "out_of_range"),
        ('{"new_rate": 5e3000}', 400, "malformed_json"),
        ('{"new_rate": ' + "[" * 63 + "]" * 63 + "}", 422, "not_an_integer"),
        ('{"new_rate": ' + "[" * 1000 + "]" * 1000 + "}", 400, "malformed_json"),
        ('{"new_rate": 5000, "burst": 1}', 422, "unknown_field"),
        ('{"new_rate": 5000, "\\ud800": 1}', 400, "malformed_json"),
        ('{"new_rate": 5000, "force": 1}', 422, "not_a_boolean"),
        ('{"new_rate": 5000, "force": "true"}', 422, "not_a_boolean"),
        ('{"new_rate": 999}', 422, "below_minimum"),
        ('{"new_rate": 999, "force": false}', 422, "below_minimum"),
        ("x" * 4097, 413, "request_entity_too_large"),
    ],
)
def test_bad_config_is_refused_in_the_one_shape(serve: Serve, body: str | bytes, status: int, code: str) -> None:
    url, state = serve()
    got, answer, _ = post(f"{url}/config", body)
    assert (got, answer["code"]) == (status, code)
    assert set(answer) == {"error", "code", "details"}
    assert state.rate == 10_000


@pytest.mark.parametrize("rate", [1000, 1_000_000, 20_000.0])
def test_the_ends_of_the_range_are_taken(serve: Serve, rate: float) -> None:
    url, state = serve()
    assert post(f"{url}/config", json.dumps({"new_rate": rate}))[0] == 200
    assert state.rate == rate


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN} ", TOKEN, f"Bearer {TOKEN}x"]
)
def test_changes_need_the_token(serve: Serve, given: str | None) -> None:
    url, state = serve(access=token_needed())
    headers = {} if given is None else {"Authorization": given}
    status, body, answer_headers = post(f"{url}/config", '{"new_rate": 5000}', **headers)
    if given == f"Bearer {TOKEN} ":  # HTTP strips the space
        assert status == 200
        return
    assert (status, body["code"]) == (401, "unauthorized")
    assert answer_headers["WWW-Authenticate"] == "Bearer"
    assert state.rate == 10_000
    assert ask(f"{url}/stats")[0] == 200  # reading needs none


def test_the_token_opens(serve: Serve) -> None:
    url, state = serve(access=token_needed())
    assert post(f"{url}/config", '{"new_rate": 5000}', Authorization=f"bearer {TOKEN}")[0] == 200
    assert state.rate == 5000


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/config", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("POST", "/stats", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods(serve: Serve, method: str, path: str, status: int, code: str) -> None:
    url, _ = serve()
    got, body, headers = ask(url + path, method)
    assert (got, body["code"], body["details"]) == (status, code, {})
    assert ("Allow" in headers) == (status == 405)


def test_degraded_is_503(serve: Serve) -> None:
    url, state = serve()
    assert ask(f"{url}/health")[0] == 200
    state.status = "degraded"
    status, body, _ = ask(f"{url}/health")
    assert (status, body["status"], body["problems"]) == (503, "degraded", ["queue full"])


def test_probes_say_what_their_names_say(serve: Serve) -> None:
    url, state = serve(access=Access(read=(digest(TOKEN),), reads_need=True))
    assert [ask(f"{url}{path}")[0] for path in ("/livez", "/readyz", "/health", "/stats")] == [200, 200, 200, 401]
    state.status = "degraded"
    status, body, headers = ask(f"{url}/readyz")
    assert (status, body["ready"], body["waiting_for"]) == (503, False, ["capacity for frames"])
    assert headers["Retry-After"] == "1"
    assert ask(f"{url}/livez")[0] == 200
    state.broken = OSError("hangs")
    assert (ask(f"{url}/livez")[0], ask(f"{url}/livez")[1]["live"]) == (503, False)


def test_a_rate_below_the_controllers_minimum_must_be_meant(serve: Serve) -> None:
    url, state = serve()
    status, body, _ = post(f"{url}/config", '{"new_rate": 1}')
    assert (status, body["code"], body["details"]) == (422, "below_minimum", {"minimum": 1000.0})
    assert "force" in body["error"] and state.rate == 10_000
    assert post(f"{url}/config", '{"new_rate": 1, "force": true}')[0] == 200
    assert state.rate == 1


def test_who_changed_what_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    url, state = serve()
    with caplog.at_level("INFO"):
        post(f"{url}/config", '{"new_rate": 20000}')
    assert state.clients == ["127.0.0.1"]
    (record,) = [record for record in caplog.records if record.message == "rate_changed"]
    assert record.__dict__["fields"] == {"client": "127.0.0.1", "old": 10_000.0, "new": 20_000, "forced": False}


def test_no_edge_that_answers_is_503(serve: Serve) -> None:
    url, state = serve()
    state.broken = EdgeUnavailable("none")
    status, body, _ = post(f"{url}/config", '{"new_rate": 5000}')
    assert (status, body["code"]) == (503, "edge_unavailable")


def test_kafka_that_does_not_answer_is_503(serve: Serve) -> None:
    url, state = serve()
    state.broken = KafkaException("no acknowledgement in time")
    status, body, _ = post(f"{url}/config", '{"new_rate": 5000}')
    assert (status, body["code"]) == (503, "kafka_unavailable")


def test_others_who_change_the_rate_all_the_time_are_named(serve: Serve) -> None:
    url, state = serve()
    state.broken = ChangedMeanwhile("ben changes override at the same time", "ben")
    status, body, _ = post(f"{url}/config", '{"new_rate": 5000}')
    assert (status, body["code"], body["details"]) == (409, "changed_meanwhile", {"author": "ben"})


def test_a_defect_shows_no_inside(serve: Serve) -> None:
    url, state = serve()
    state.broken = RuntimeError("password=hunter2")
    status, body, _ = post(f"{url}/config", '{"new_rate": 5000}')
    assert (status, body["code"]) == (500, "internal_error")
    assert "hunter2" not in json.dumps(body)


def test_metrics_are_prometheus_text(serve: Serve) -> None:
    url, _ = serve()
    status, body, headers = ask(f"{url}/metrics")
    assert (status, body) == (200, "klais_up 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=")


def test_more_than_the_limit_is_429(serve: Serve) -> None:
    url, _ = serve(limiter=RateLimit(per_s=3))
    answers = [ask(f"{url}/stats") for _ in range(6)]
    refused = [answer for answer in answers if answer[0] == 429]
    assert len(refused) >= 1
    assert refused[0][1]["code"] == "too_many_requests"
    assert refused[0][2]["Retry-After"] == "1"


def test_a_taken_port_names_port_and_process(serve: Serve) -> None:
    url, _ = serve()
    port = url.rpartition(":")[2]
    with pytest.raises(PortInUse, match=rf"tcp port {port} .*KLAIS_API_BIND"):
        api_of(Settings(api_bind=f"127.0.0.1:{port}"), FakeState(), Access()).start()


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "[2001:db8::1]"])
def test_an_address_that_cannot_be_bound_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on tcp port 7000 .*KLAIS_API_BIND"):
        api_of(Settings(api_bind=f"{host}:7000"), FakeState(), Access()).start()


def test_stop_ends_the_thread(serve: Serve) -> None:
    before = set(threading.enumerate())
    server = api_of(Settings(api_bind="127.0.0.1:0"), FakeState(), Access())
    server.start()
    own = set(threading.enumerate()) - before
    assert own
    server.stop()
    wait_for(lambda: not any(thread.is_alive() for thread in own), 5, "the end of the server's threads")


def test_defaults_are_loopback() -> None:
    assert Settings().api_bind.startswith("127.0.0.1:")


def test_the_document_is_served(serve: Serve) -> None:
    url, _ = serve()
    status, body, _ = ask(f"{url}/openapi.json")
    assert (status, body) == (200, json.loads(json.dumps(DOCUMENT)))


def test_a_server_that_gets_no_descriptor_for_its_loop_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge waits for it, and would wait without end."""

    def fails() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    server = ApiServer(web.Application(), "127.0.0.1:0")
    monkeypatch.setattr(asyncio, "new_event_loop", fails)
    with pytest.raises(KlaisError, match="Too many open files"):
        server.start()
    server.stop()
