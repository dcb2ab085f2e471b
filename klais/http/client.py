"""A client for KLAIS's own endpoints. No proxy (it would see the token), no redirects, limited sizes.

HTTP/1.1 with one request per connection (RFC 9112). It does not use ``http.client``, because importing that takes 30 ms
(its e-mail parser and OpenSSL), a fourth of the time of a short command.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from klais.system.address import split_port
from klais.system.connect import CONNECT_S, connect

MAX_BYTES = 64 << 20
MAX_REFUSAL = 64 << 10
_MAX_HEAD_BYTES = 64 << 10
_BLOCK = 64 << 10
_PORTS = {"http": 80, "https": 443}


class Refused(OSError):
    """The status of a response is not 200 where lines were expected.

    Attributes
    ----------
    status : int
        Status of the response.
    body : bytes
        Body of the response, at most 64 KiB.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server responds with {status}")
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class _Target:
    """Address and path of a request."""

    tls: bool
    host: str
    port: int
    named: str
    path: str

    @classmethod
    def of(cls, url: str) -> "_Target":
        scheme, _, rest = url.partition("://")
        if scheme not in _PORTS or not rest:
            raise ValueError(f"{url!r} is not an http address")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise ValueError(f"{url!r} has characters that are not valid in an address")
        named, slash, path = rest.partition("/")
        host, port = split_port(named)
        if not host or (port or "0").strip("0123456789") or int(port or 0) > 65_535:
            raise ValueError(f"{url!r} names no host and port")
        return cls(scheme == "https", host, int(port or _PORTS[scheme]), named, slash + path or "/")


def request(
    url: str,
    timeout_s: float,
    body: bytes | None = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, bytes]:
    """Status and body of a response, for any status. With a JSON ``body`` the method is POST unless ``method`` is set.

    Raises
    ------
    OSError
        If the server does not respond in time, or not in HTTP.
    ValueError
        If ``url`` is invalid, or the response is larger than 64 MiB.
    """
    with _asked(url, timeout_s, body, token, headers, method) as (status, blocks):
        data = _at_most(blocks, MAX_BYTES)
        if len(data) > MAX_BYTES:
            raise ValueError(f"the response is larger than {MAX_BYTES} bytes")
        return status, data


def lines(
    url: str, timeout_s: float, token: str | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """The lines of an endless response, without line breaks; ``timeout_s`` applies to each line.

    Raises
    ------
    Refused
        If the status is not 200.
    OSError
        If the server does not respond in time, or a line is longer than 64 MiB.
    ValueError
        If ``url`` is invalid.
    """
    with _asked(url, timeout_s, None, token, headers, None) as (status, blocks):
        if status != 200:
            raise Refused(status, _at_most(blocks, MAX_REFUSAL)[:MAX_REFUSAL])
        left = bytearray()
        for block in blocks:
            left += block
            if b"\n" in block:
                *whole, last = bytes(left).split(b"\n")
                left = bytearray(last)
                for line in whole:
                    yield line.rstrip(b"\r")
            if len(left) > MAX_BYTES:
                raise OSError(f"a line of the response is longer than {MAX_BYTES} bytes")


@contextlib.contextmanager
def _asked(
    url: str,
    timeout_s: float,
    body: bytes | None,
    token: str | None,
    headers: Mapping[str, str] | None,
    method: str | None,
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Status of the response, and its body in blocks."""
    target = _Target.of(url)
    sent = {"Host": target.named, "Connection": "close", "Accept-Encoding": "identity", **(headers or {})}
    if body is not None:
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    rows = [f"{method or ('GET' if body is None else 'POST')} {target.path} HTTP/1.1"]
    rows += [f"{name}: {value}" for name, value in sent.items()]
    if any("\r" in row or "\n" in row for row in rows):
        raise ValueError("a header has a line break")
    sock = connect(target.host, target.port, min(timeout_s, CONNECT_S))
    try:
        if target.tls:
            sock = _secured(sock, target.host)
        sock.settimeout(timeout_s)
        sock.sendall("\r\n".join([*rows, "", ""]).encode("latin-1") + (body or b""))
        with sock.makefile("rb") as file:
            status, fields = _head(file)
            while 100 <= status < 200:
                status, fields = _head(file)
            yield status, _blocks(file, fields)
    finally:
        sock.close()


def _secured(sock: socket.socket, host: str) -> socket.socket:
    import ssl  # takes 10 ms

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _head(file: IO[bytes]) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    first = file.readline(_MAX_HEAD_BYTES)
    if not first:
        raise ConnectionResetError("the connection ended without a response")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise OSError("the server does not speak HTTP")
    fields: dict[str, str] = {}
    size = 0
    while (line := file.readline(_MAX_HEAD_BYTES)) not in (b"\r\n", b"\n"):
        size += len(line)
        if not line.endswith(b"\n") or size > _MAX_HEAD_BYTES:
            raise OSError("the server does not speak HTTP")
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.strip().lower()] = value.strip()
    return int(rest[:3]), fields


def _blocks(file: IO[bytes], fields: Mapping[str, str]) -> Iterator[bytes]:
    """The body, block by block (RFC 9112, section 6)."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while size := _number(file.readline(_MAX_HEAD_BYTES).partition(b";")[0].strip(), 16):
            yield from _exactly(file, size)
            file.readline(_MAX_HEAD_BYTES)
    elif "content-length" in fields:
        yield from _exactly(file, _number(fields["content-length"].encode(), 10))
    else:
        while block := _some(file, _BLOCK):
            yield block


def _number(digits: bytes, base: int) -> int:
    if not digits.isalnum() or len(digits) > 18:
        raise OSError("the server does not speak HTTP")
    try:
        return int(digits, base)
    except ValueError:
        raise OSError("the server does not speak HTTP") from None


def _exactly(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        block = _some(file, min(size, _BLOCK))
        if not block:
            raise OSError("the response ends early")
        size -= len(block)
        yield block


def _some(file: IO[bytes], max_bytes: int) -> bytes:
    data: bytes = file.read1(max_bytes)  # type: ignore[attr-defined]
    return data


def _at_most(blocks: Iterator[bytes], max_bytes: int) -> bytes:
    """The body, or its beginning: at least one byte and less than a block more than ``max_bytes``."""
    out = bytearray()
    for block in blocks:
        out += block
        if len(out) > max_bytes:
            break
    return bytes(out)
