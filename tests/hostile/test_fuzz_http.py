"""Mutated requests to both HTTP servers: an answer of the document, in the one shape, or a closed connection."""

import json
import socket
from collections.abc import Iterator

import pytest

from klais.edge.api.server import make_app
from klais.http.connections import ConnectionLimits
from tests.hostile.cases import CASES, corpus, mutated, rng, shown
from tests.support.http import FakeState, make_guard, served

HEAD = b"Host: 127.0.0.1\r\nConnection: close\r\n"
REQUESTS = [
    b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET /stats HTTP/1.1\r\n" + HEAD + b"Authorization: Bearer abc\r\n\r\n",
    b"GET /openapi.json HTTP/1.0\r\n" + HEAD + b"\r\n",
    b"POST /config HTTP/1.1\r\n"
    + HEAD
    + b'Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{"new_rate":5000}',
    b"POST /config HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'11\r\n{"new_rate":5000}\r\n0\r\n\r\n',
    b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"Origin: http://evil\r\nSec-Fetch-Site: cross-site\r\n\r\n",
    b"GET /devices/?q=%00%ff&limit=-1 HTTP/1.1\r\n" + HEAD + b"X-Forwarded-For: 1.2.3.4, ::1\r\n\r\n",
    *corpus("http"),
]
STATUS = {200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 417, 421, 422, 429, 431, 501, 503}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = ConnectionLimits(total=200, per_client=200, header_s=0.3, request_s=0.3, idle_s=0.3)
    with served(make_app(FakeState(), make_guard(), min_rate=1), limits) as (url, _):
        yield url


def answers(url: str, request: bytes) -> bytes:
    """What comes back until the server closes: at once, or when it has waited long enough for the rest."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as sock:
        out = b""
        try:
            sock.sendall(request)
            while data := sock.recv(1 << 16):
                out += data
        except (BrokenPipeError, ConnectionError):
            pass
        return out


def test_whatever_is_sent_the_answer_is_one_of_the_document(url: str) -> None:
    random, seen = rng("http"), set()
    for turn in range(max(3 * len(REQUESTS), min(4000, CASES // 400))):
        request = REQUESTS[turn % len(REQUESTS)]
        if turn >= len(REQUESTS):
            request = mutated(random, request, REQUESTS, 4)
        answer = answers(url, request)
        if not answer:
            continue
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        seen.add(status)
        assert head.startswith(b"HTTP/1.") and status in STATUS, shown(request)
        assert b"x-content-type-options: nosniff" in head.lower(), shown(request)
        first = body[: body.find(b"HTTP/1.")] if b"HTTP/1." in body else body  # a second request may have been in it
        if status >= 400 and status != 503 and first and b"chunked" not in head.lower():
            assert {"error", "code"} <= json.loads(first).keys(), shown(request)
    assert {200, 400} <= seen
