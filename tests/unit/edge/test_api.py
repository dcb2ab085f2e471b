"""The REST API: contract, errors in one shape, limits; held to its own OpenAPI document by schemathesis."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.edge.api.openapi import DOCUMENT
from klais.edge.api.server import ADDRESSES_KEPT, ApiServer, RateLimit, make_app
from klais.errors import PortInUse
from tests.support.process import wait_for


class FakeState:
    """A state that can be set."""

    def __init__(self) -> None:
        self.rate = 10_000.0
        self.status = "ok"
        self.broken: Exception | None = None

    def health(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "problems": [] if self.status == "ok" else ["queue full"],
            "warnings": [],
            "queue_depth": 0,
            "rate_limit": self.rate,
            "version": "1",
            "uptime_secs": 1.5,
            "edge_id": 1,
            "workers": 0,
        }

    def stats(self) -> dict[str, Any]:
        dam = {"received": 5, "passed": 3, "queued": 0, "dropped": 2, "queue_depth": 0, "tokens": 1.5}
        control = {"current_rate": self.rate, "burst_probability": 0.0, "anomaly_score": 0.0, "pid_output": 0.0}
        return {
            "dam": dam | {"dropped_by_reason": {"blocked": 2}},
            "control": control
            | {"anomaly_devices": 0, "controller": None, "mode": "auto", "cut": 0.0, "alert": False, "overrides": []},
            "edge": {},
            "workers": {},
            "senders": {},
        }

    def metrics(self) -> tuple[bytes, str]:
        return b"klais_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    def set_rate(self, new_rate: int) -> float:
        if self.broken:
            raise self.broken
        previous, self.rate = self.rate, float(new_rate)
        return previous


Serve = Callable[..., tuple[str, FakeState]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ApiServer] = []

    def start(token: str | None = None, limit: RateLimit | None = None) -> tuple[str, FakeState]:
        state = FakeState()
        servers.append(ApiServer(make_app(state, token, limit), "127.0.0.1:0"))
        servers[-1].start()
        return f"http://127.0.0.1:{servers[-1].port}", state

    yield start
    for server in servers:
        server.stop()


def ask(url: str, method: str = "GET", body: bytes | str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, body (JSON where it is), headers."""

    async def go() -> tuple[int, Any, dict[str, str]]:
        async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=headers) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text, dict(answer.headers)

    return asyncio.run(go())


def test_config_sets_the_rate_and_tells_the_one_before(serve: Serve) -> None:
    url, state = serve()
    status, body, _ = ask(f"{url}/config", "POST", '{"new_rate": 20000}')
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
        ("[]", 422, "missing_field"),
        ("{}", 422, "missing_field"),
        ('{"new_rate": 0}', 422, "out_of_range"),
        ('{"new_rate": 1000001}', 422, "out_of_range"),
        ('{"new_rate": -5}', 422, "out_of_range"),
        ('{"new_rate": 1.5}', 422, "not_an_integer"),
        ('{"new_rate": true}', 422, "not_an_integer"),
        ('{"new_rate": "7"}', 422, "not_an_integer"),
        ('{"new_rate": null}', 422, "not_an_integer"),
        ('{"new_rate": 5, "burst": 1}', 422, "unknown_field"),
        ("x" * 4097, 413, "request_entity_too_large"),
    ],
)
def test_bad_config_is_refused_in_the_one_shape(serve: Serve, body: str | bytes, status: int, code: str) -> None:
    url, state = serve()
    got, answer, _ = ask(f"{url}/config", "POST", body)
    assert (got, answer["code"]) == (status, code)
    assert set(answer) == {"error", "code", "details"}
    assert state.rate == 10_000


@pytest.mark.parametrize("rate", [1, 1_000_000, 20_000.0])
def test_the_ends_of_the_range_are_taken(serve: Serve, rate: float) -> None:
    url, state = serve()
    assert ask(f"{url}/config", "POST", json.dumps({"new_rate": rate}))[0] == 200
    assert state.rate == rate


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", "Basic secret-token", "Bearer secret-token ", "secret-token"]
)
def test_changes_need_the_token(serve: Serve, given: str | None) -> None:
    url, state = serve(token="secret-token")
    headers = {} if given is None else {"Authorization": given}
    status, body, answer_headers = ask(f"{url}/config", "POST", '{"new_rate": 5}', **headers)
    if given == "Bearer secret-token ":  # HTTP strips the space
        assert status == 200
        return
    assert (status, body["code"]) == (401, "unauthorized")
    assert answer_headers["WWW-Authenticate"] == "Bearer"
    assert state.rate == 10_000
    assert ask(f"{url}/stats")[0] == 200  # reading needs none


def test_the_token_opens(serve: Serve) -> None:
    url, state = serve(token="secret-token")
    assert ask(f"{url}/config", "POST", '{"new_rate": 5}', Authorization="Bearer secret-token")[0] == 200
    assert state.rate == 5


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


def test_kafka_that_does_not_answer_is_503(serve: Serve) -> None:
    url, state = serve()
    state.broken = KafkaException("no acknowledgement in time")
    status, body, _ = ask(f"{url}/config", "POST", '{"new_rate": 5}')
    assert (status, body["code"]) == (503, "kafka_unavailable")


def test_a_defect_shows_no_inside(serve: Serve) -> None:
    url, state = serve()
    state.broken = RuntimeError("password=hunter2")
    status, body, _ = ask(f"{url}/config", "POST", '{"new_rate": 5}')
    assert (status, body["code"]) == (500, "internal_error")
    assert "hunter2" not in json.dumps(body)


def test_metrics_are_prometheus_text(serve: Serve) -> None:
    url, _ = serve()
    status, body, headers = ask(f"{url}/metrics")
    assert (status, body) == (200, "klais_up 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=")


def test_more_than_the_limit_is_429(serve: Serve) -> None:
    url, _ = serve(limit=RateLimit(per_s=3))
    answers = [ask(f"{url}/health") for _ in range(6)]
    refused = [answer for answer in answers if answer[0] == 429]
    assert len(refused) >= 1
    assert refused[0][1]["code"] == "too_many_requests"
    assert refused[0][2]["Retry-After"] == "1"


def test_rate_limit_refills_and_is_apart_for_each_address() -> None:
    limit = RateLimit(per_s=100)
    assert sum(limit.allow("a", 10.0) for _ in range(150)) == 100
    assert limit.allow("b", 10.0)
    assert sum(limit.allow("a", 10.5) for _ in range(150)) == 50


def test_rate_limit_forgets_addresses() -> None:
    limit = RateLimit(per_s=1, kept=10)
    for i in range(1000):
        limit.allow(str(i), 1.0)
    assert len(limit._buckets) == 10
    assert not limit.allow("999", 1.0)
    assert ADDRESSES_KEPT <= 100_000


def test_a_taken_port_names_port_and_process(serve: Serve) -> None:
    url, _ = serve()
    port = url.rpartition(":")[2]
    with pytest.raises(PortInUse, match=rf"tcp port {port} .*KLAIS_API_BIND"):
        ApiServer(make_app(FakeState(), None), f"127.0.0.1:{port}").start()


def test_stop_ends_the_thread(serve: Serve) -> None:
    before = set(threading.enumerate())
    server = ApiServer(make_app(FakeState(), None), "127.0.0.1:0")
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
