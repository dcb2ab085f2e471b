"""Mutated requests to both HTTP servers: an answer of the document, in the one shape, or a closed connection."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

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
AT_ONCE = 16  # as many may wait to be accepted: of more, the kernel keeps the last ones waiting for seconds
STATUS = {200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 417, 421, 422, 429, 431, 501, 503}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = ConnectionLimits(total=200, per_client=200, header_s=0.1, request_s=0.1, idle_s=0.1)
    with served(make_app(FakeState(), make_guard(), min_rate=1), limits) as (url, _):
        yield url


def answer_to(url: str, request: bytes) -> bytes:
    """What comes back until the server closes: at once, or when it has waited long enough for the rest."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as sock:
        out = b""
        try:
            sock.sendall(request)
            while data := sock.recv(1 << 16):
                out += data
        except (BrokenPipeError, ConnectionError):
            pass
        except TimeoutError as error:
            raise AssertionError(f"the server neither answers nor closes: {shown(request)}, {out!r}") from error
        return out


def requests() -> Iterator[bytes]:
    """The known ones as they are, then mutations of them."""
    random = rng("http")
    yield from REQUESTS
    for turn in range(max(2 * len(REQUESTS), CASES // 400)):
        yield mutated(random, REQUESTS[turn % len(REQUESTS)], REQUESTS, 4)


def test_whatever_is_sent_the_answer_is_one_of_the_document(url: str) -> None:
    """Many at once, as most wait for the server to give up on the rest of a request."""
    seen = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        every = requests()
        while some := list(islice(every, 200 * AT_ONCE)):
            for request, answer in zip(some, pool.map(partial(answer_to, url), some), strict=True):
                seen.add(checked(request, answer))
    assert {200, 400} <= seen


def checked(request: bytes, answer: bytes) -> int:
    """The status of an answer, 0 where there was none."""
    if not answer:
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1."), shown(request)
    status = int(head.split(b" ")[1])
    assert status in STATUS, shown(request)
    assert b"x-content-type-options: nosniff" in head.lower(), shown(request)
    alone = body.startswith(b"HTTP/1.") or not body  # an answer to HEAD, before that to a second request
    if status >= 400 and status != 503 and not alone and b"chunked" not in head.lower():
        found, _ = json.JSONDecoder().raw_decode(body.decode())
        assert {"error", "code"} <= found.keys(), shown(request)
    return status
