"""Bounded connections of an HTTP server: total, per client, and the time of idle and slow ones.

The server shares its process, and so the table of file descriptors, with the data path. New connections are refused
when that table is nearly full, so that a spool segment or a connection to Kafka can always be opened.
"""

import asyncio
import resource
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from klais.config.load import Settings
from klais.http.addresses import Network, bucket_of, parse_ip, parse_networks
from klais.http.errors import HttpError, secure
from klais.telemetry import log as logs

log = logs.get("klais.http.connections")

# asyncio accepts the whole backlog at once. Keep it short: each connection has a descriptor before it is refused.
BACKLOG = 16
IDLE_S = 1.0  # a connection that waits so long for its next request gives way to a new one of its client


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one server.

    Attributes
    ----------
    total, per_client : int
        Concurrent connections; a client is an IPv4 address or an IPv6 /64. Trusted proxies count only in the total.
    header_s : float
        From the first byte (or the connection) to the end of a request's headers.
    request_s : float
        From there to the end of the handler, including the body.
    idle_s : float
        Between a response and the next request, longer than reverse proxies keep one open; also for writing a response.
    reserved_fds : int
        Descriptors reserved for the rest of the process.
    proxies : tuple of networks
        Trusted proxies.
    """

    total: int = 64
    per_client: int = 16
    header_s: float = 10.0
    request_s: float = 30.0
    idle_s: float = 75.0
    reserved_fds: int = 64
    proxies: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """Create them from the settings; a client may use a quarter of the total."""
        total = settings.api_connections
        return cls(total=total, per_client=max(1, total // 4), proxies=parse_networks(settings.api_proxies))


class Connections:
    """Counts the connections of one server and admits or refuses new ones.

    Attributes
    ----------
    refused : int
        Connections that were closed immediately.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.refused = 0
        self.transports: set[asyncio.Transport] = set()  # all that are open, those that are refused too
        self.idle: dict[Connection, str] = {}  # between two requests, with their clients, the longest first
        self._by_client: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def admit(self, remote: str | None, fd: int) -> str | None:
        """The client that a new connection counts for, or None when it is one too many.

        A browser keeps six connections open for the case that it asks again. Where there is no room, the client's one
        that has been idle longest is closed.
        """
        limits, ip = self.limits, parse_ip(remote)
        client = bucket_of(ip)
        proxy = ip is not None and any(ip in network for network in limits.proxies)
        # the kernel assigns the lowest free number, so the number shows how full the table is
        table = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        why = ""
        if not proxy and (self._by_client[client] >= limits.per_client or self._total >= limits.total):
            self._make_room(client)
        if self._total >= limits.total:
            why = f"there are {self._total} connections"
        elif not proxy and self._by_client[client] >= limits.per_client:
            why = f"this client has {limits.per_client} connections"
        elif table != resource.RLIM_INFINITY and fd >= table - limits.reserved_fds:
            why = f"the process has {fd} of {table} file descriptors in use"
        if why:
            self.refused += 1
            if logs.every(60, "http.refused"):
                log.warning("connection_refused", client=client, why=why, refused=self.refused)
            return None
        self._total += 1
        self._by_client[client] += 1
        return client

    def _make_room(self, client: str) -> None:
        for connection, its_client in self.idle.items():
            if its_client == client and connection.is_spare():
                connection.close_now()
                return

    def leave(self, client: str) -> None:
        """Remove an admitted connection that has ended."""
        self._total -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


class Connection(web.RequestHandler):
    """A connection of aiohttp with a deadline for each phase."""

    __slots__ = ("_between", "_bounds", "_client", "_clock", "_deadline_s", "_made", "_real", "_timer")

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, bounds: Connections) -> None:
        idle_s = bounds.limits.idle_s
        super().__init__(
            server,
            loop=loop,
            access_log=cast(Any, None),
            keepalive_timeout=idle_s,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._bounds = bounds
        self._clock = loop
        self._deadline_s = 0.0
        self._client: str | None = None  # that it counts for
        self._made = False  # aiohttp has it
        self._real: asyncio.Transport | None = None  # also while aiohttp has let go of its own
        self._between = False  # an answer is done and nothing of a next request is here
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or respond that there are too many and close it."""
        sock, peer = transport.get_extra_info("socket"), transport.get_extra_info("peername")
        self._client = self._bounds.admit(peer[0] if peer else None, sock.fileno())
        self._real = real = cast(asyncio.Transport, transport)
        self._bounds.transports.add(real)
        if self._client is None:
            real.write(_REFUSAL)
            real.close()
            return
        self._made = True
        super().connection_made(transport)
        self._wait(self._bounds.limits.header_s)
        self._timer = self._clock.call_at(self._deadline_s, self._check_deadline)

    def data_received(self, data: bytes) -> None:
        """Start the time limit of the headers at the first bytes of a request."""
        if self._client is None:
            return
        if self._between:
            self._go_on(self._bounds.limits.header_s)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the place of the connection."""
        if self._real is not None:
            self._bounds.transports.discard(self._real)
        self._leave()
        if not self._made:
            return
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def is_spare(self) -> bool:
        """Nothing is under way on it: its answer is sent, and no next request came for a while."""
        since_s = self._deadline_s - self._bounds.limits.idle_s
        unsent = self._real.get_write_buffer_size() if self._real is not None else 0
        return self._between and not unsent and self._clock.time() >= since_s + IDLE_S

    def close_now(self) -> None:
        """Close it and count it no more."""
        self._leave()
        if self._real is not None:
            self._real.abort()

    def begin(self) -> None:
        """The headers of a request are here, its handler starts."""
        self._go_on(self._bounds.limits.request_s)

    def stay(self, seconds: float) -> None:
        """Extend the time limit of a connection that writes a stream."""
        self._wait(seconds)

    def end(self) -> None:
        """Start the time limit for writing the response: the handler is done."""
        self._between = True
        self._wait(self._bounds.limits.idle_s)
        if self._client is not None:
            self._bounds.idle[self] = self._client

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Response to an invalid HTTP request (400), with the usual error body and without the parser's message."""
        if request.writer.output_size > 0:
            raise ConnectionError("a response has already been started")
        if status >= 500:
            log.error("request_failed", exc_info=exc)
            error = HttpError(status, "internal_error", "this is a defect; the log has its traceback")
        else:
            error = HttpError(
                status, "bad_request", "this is not a well-formed HTTP request, or its headers are too long"
            )
        response = error.response()
        secure(response)
        response.force_close()
        return response

    def close_with(self, error: HttpError) -> None:
        """Respond in HTTP/1.1, whatever version the request has (aiohttp would repeat it), and close."""
        if self._real is not None and not self._real.is_closing():
            self._real.write(_whole_answer(error))
            self._real.close()

    def _go_on(self, seconds: float) -> None:
        self._between = False
        self._bounds.idle.pop(self, None)
        self._wait(seconds)

    def _leave(self) -> None:
        self._bounds.idle.pop(self, None)
        if self._client is not None:
            self._bounds.leave(self._client)
            self._client = None

    def _wait(self, seconds: float) -> None:
        self._deadline_s = self._clock.time() + seconds

    def _check_deadline(self) -> None:
        """Close the connection if its time is over, else check again at the deadline."""
        if self._clock.time() >= self._deadline_s:
            if self.transport is not None:
                self.transport.abort()
            return
        self._timer = self._clock.call_at(self._deadline_s, self._check_deadline)


class Listener:
    """An application on a TCP port, with bounded connections."""

    def __init__(self, app: web.Application, host: str, port: int, limits: ConnectionLimits) -> None:
        self._host, self._port = host, port
        self.connections = Connections(limits)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port. OSError when it cannot."""
        loop = asyncio.get_running_loop()
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._server = await loop.create_server(
            lambda: Connection(server, loop, self.connections), self._host, self._port, backlog=BACKLOG
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, allow one second for running responses, then close all connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        await asyncio.sleep(0)  # a new connection gets its transport in the next iteration of the event loop
        while self.connections.transports:  # a client that does not read keeps a closed transport open
            for transport in self.connections.transports:
                transport.abort()
            await asyncio.sleep(0)  # the transport releases its socket in the next iteration


def _whole_answer(error: HttpError) -> bytes:
    """An error as the bytes of a response after which the connection ends."""
    response = error.response()
    secure(response)
    response.headers["Connection"] = "close"
    body = cast(bytes, response.body)
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    first = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
    return f"{first}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_REFUSAL = _whole_answer(
    HttpError(503, "too_many_connections", "this server has its maximum of connections: try again in a moment")
)
