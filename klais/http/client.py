"""A client for our own endpoints: never through a proxy (it would see the token), never redirected, bounded in size."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import IO, Any

from klais.system.connect import CONNECT_S, connect

MOST_BYTES = 64 << 20


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: what we ask does not lead elsewhere, a token least of all."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Nowhere."""
        return None


class _Plain(http.client.HTTPConnection):
    """Connects within two seconds, however long an answer may take."""

    def connect(self) -> None:
        """See the class."""
        limit_s = self.timeout if isinstance(self.timeout, int | float) else CONNECT_S
        self.sock = connect(self.host, self.port, min(limit_s, CONNECT_S))
        self._secure()
        self.sock.settimeout(limit_s)

    def _secure(self) -> None:
        """Nothing to do without TLS."""


class _Tls(_Plain):
    default_port = http.client.HTTPS_PORT

    def _secure(self) -> None:
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Tls, req)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay, _Http, _Https)


def request(
    url: str,
    timeout_s: float,
    body: bytes | None = None,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, bytes]:
    """Status and body of an answer, whatever its status. With a ``body`` of JSON it is a POST unless ``method`` says
    otherwise.

    Raises
    ------
    OSError
        Nobody answers, or not in time.
    ValueError
        ``url`` is none, or the answer is larger than 64 MiB.
    """
    sent = dict(headers or {})
    if body is not None:
        sent["Content-Type"] = "application/json"
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    asked = urllib.request.Request(url, body, sent, method=method)
    if asked.type not in ("http", "https"):
        raise ValueError(f"{url!r} is not an http address")
    try:
        with _OPENER.open(asked, timeout=timeout_s) as answer:
            return answer.status, _read(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _read(error)
    except http.client.HTTPException:
        raise OSError("what answers does not speak HTTP") from None


def lines(
    url: str, timeout_s: float, token: str | None = None, headers: dict[str, str] | None = None
) -> Iterator[bytes]:
    """The lines of an answer that may have no end, without their line breaks; ``timeout_s`` is for each.

    Raises
    ------
    OSError
        Nobody answers, or not in time, or not with 200; or a line is longer than 64 MiB.
    """
    sent = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token is not None else {})
    try:
        with _OPENER.open(urllib.request.Request(url, headers=sent), timeout=timeout_s) as answer:
            while line := answer.readline(MOST_BYTES + 1):
                if len(line) > MOST_BYTES:
                    raise OSError(f"a line of the answer is longer than {MOST_BYTES} bytes")
                yield line.rstrip(b"\r\n")
    except http.client.HTTPException:
        raise OSError("what answers does not speak HTTP") from None


def _read(answer: Any) -> bytes:
    data: bytes = answer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"the answer is larger than {MOST_BYTES} bytes")
    return data
