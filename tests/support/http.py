"""The two HTTP servers on loopback, over states that tests can set, and a client that sends exact bytes."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

from klais.http.addresses import RateLimit
from klais.http.connections import ConnectionLimits, Listener
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts

JSON = {"Content-Type": "application/json"}


class FakeState:
    """State of the edge's REST API, set by a test."""

    def __init__(self) -> None:
        self.rate = 10_000.0
        self.status = "ok"
        self.broken: Exception | None = None
        self.clients: list[str] = []

    def live(self) -> dict[str, Any]:
        return {"live": self.broken is None, "loop_age_s": 0.1}

    def ready(self) -> dict[str, Any]:
        waits = [] if self.status == "ok" else ["capacity for frames"]
        return {"ready": not waits, "waiting_for": waits, "edge_id": 1}

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

    def set_rate(self, new_rate: int, client: str) -> float:
        if self.broken:
            raise self.broken
        previous, self.rate = self.rate, float(new_rate)
        self.clients.append(client)
        return previous


def make_guard(**options: Any) -> Guard:
    """A guard without a request limit, unless the test passes a limiter."""
    return Guard(AllowedHosts("127.0.0.1"), **{"limiter": RateLimit(per_s=1e9), **options})


@contextmanager
def served(app: web.Application, limits: ConnectionLimits | None = None) -> Iterator[tuple[str, Listener]]:
    """The application on a loopback port, in a separate thread, as (url, listener)."""
    loop = asyncio.new_event_loop()
    listener = Listener(app, "127.0.0.1", 0, limits or ConnectionLimits(total=200, per_client=200))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(listener.start(), loop).result(30)
        try:
            yield f"http://127.0.0.1:{port}", listener
        finally:
            asyncio.run_coroutine_threadsafe(listener.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(
    url: str, method: str = "GET", body: bytes | str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, body (parsed if it is JSON), headers; underscores in header names become hyphens."""

    async def go() -> tuple[int, Any, dict[str, str]]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=sent) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json and text else text, dict(answer.headers)

    loop = asyncio.new_event_loop()  # asyncio.run would remove the event loop of the surrounding tests
    try:
        return loop.run_until_complete(go())
    finally:
        loop.close()


def post(url: str, body: bytes | str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """POST JSON."""
    return ask(url, "POST", body, **{"Content_Type": "application/json", **headers})


def raw(url: str, request: bytes, timeout_s: float = 10.0) -> bytes:
    """The server's answer to these bytes, until it closes the connection or stops sending."""
    with connect(url, timeout_s) as sock:
        sock.sendall(request)
        out = b""
        try:
            while data := sock.recv(65_536):
                out += data
                if b"\r\n\r\n" in out and b"close" not in out.lower():
                    sock.settimeout(0.2)
        except (TimeoutError, ConnectionError):
            pass
        return out


def connect(url: str, timeout_s: float = 10.0) -> socket.socket:
    """Connect to a server."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout_s)
