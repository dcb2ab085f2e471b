"""The REST API of the edge: aiohttp in a thread and loop of its own, so that no request holds up the data path.

Every error, also of aiohttp itself, has the one shape ``{"error", "code", "details"}``.
"""

import asyncio
import errno
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from aiohttp import web
from confluent_kafka import KafkaException

from klais.edge.api.openapi import DOCUMENT, MAX_RATE, MIN_RATE
from klais.errors import EdgeUnavailable
from klais.system.address import Bind, taken
from klais.telemetry import log as logs

log = logs.get("klais.edge.api.server")

BODY_LIMIT_BYTES = 4096
REQUESTS_PER_S = 100.0
ADDRESSES_KEPT = 10_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class State(Protocol):
    """What the API shows and sets. Called in the API's thread; ``set_rate`` in a worker thread, it may block."""

    def health(self) -> dict[str, Any]:
        """Body of ``/health``."""

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``."""

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""

    def set_rate(self, new_rate: int) -> float:
        """Write the global rate to ``klais_control``; returns the one before. Raises KafkaException."""


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, error: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(error)
        self.status, self.code, self.details = status, code, details or {}

    def response(self, headers: dict[str, str] | None = None) -> web.Response:
        """As JSON."""
        body = {"error": str(self), "code": self.code, "details": self.details}
        return _json(body, self.status, headers)


class RateLimit:
    """A token bucket for each address, the least recently seen forgotten first; a second's worth of burst."""

    def __init__(self, per_s: float = REQUESTS_PER_S, kept: int = ADDRESSES_KEPT) -> None:
        self._per_s, self._kept = per_s, kept
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str, now_s: float) -> bool:
        """Whether a request of ``address`` is within the limit at ``now_s``; counts it if so."""
        tokens, at_s = self._buckets.pop(address, (self._per_s, now_s))
        tokens = min(self._per_s, tokens + (now_s - at_s) * self._per_s)
        allowed = tokens >= 1.0
        self._buckets[address] = (tokens - allowed, now_s)
        if len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)
        return allowed


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)


def _wanted_rate(body: bytes) -> int:
    """The rate a ``POST /config`` asks for, checked."""
    try:
        asked = orjson.loads(body)
    except ValueError as error:
        raise ApiError(400, "malformed_json", f"the body is not JSON: {error}") from None
    if not isinstance(asked, dict) or "new_rate" not in asked:
        raise ApiError(422, "missing_field", 'the body must be an object {"new_rate": n}')
    if unknown := sorted(set(asked) - {"new_rate"}):
        raise ApiError(422, "unknown_field", f"unknown field {unknown[0]!r}", {"unknown": unknown[:10]})
    rate = asked["new_rate"]
    details = {"minimum": MIN_RATE, "maximum": MAX_RATE}
    whole = isinstance(rate, int) or (isinstance(rate, float) and rate.is_integer())
    if isinstance(rate, bool) or not whole:
        raise ApiError(422, "not_an_integer", "new_rate must be a whole number", details)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ApiError(422, "out_of_range", f"new_rate must be from {MIN_RATE} to {MAX_RATE:,} frames/s", details)
    return int(rate)


def make_app(state: State, token: str | None, limit: RateLimit | None = None) -> web.Application:
    """The application; ``token`` None = changes need none."""
    limiter = limit or RateLimit()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not limiter.allow(request.remote or "", time.monotonic()):
                return ApiError(429, "too_many_requests", "at most 100 requests a second from one address").response(
                    {"Retry-After": "1"}
                )
            return await handler(request)
        except ApiError as error:
            return error.response({"WWW-Authenticate": "Bearer"} if error.status == 401 else None)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            code = (error.reason or "error").lower().replace(" ", "_")
            return ApiError(error.status, code, f"{error.reason}: {request.method} {request.path}").response(allow)
        except EdgeUnavailable as error:
            return ApiError(503, "edge_unavailable", str(error)).response({"Retry-After": "1"})
        except Exception:
            log.exception("request_failed", path=request.path)
            return ApiError(500, "internal_error", "this is a defect; the log has its traceback").response()

    async def health(_request: web.Request) -> web.Response:
        body = state.health()
        return _json(body, 200 if body["status"] == "ok" else 503)

    async def stats(_request: web.Request) -> web.Response:
        return _json(state.stats())

    async def metrics(_request: web.Request) -> web.Response:
        body, content_type = state.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(_request: web.Request) -> web.Response:
        return _json(DOCUMENT)

    async def config(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if token is not None and not hmac.compare_digest(given, b"Bearer " + token.encode()):
            raise ApiError(401, "unauthorized", "this change needs the header Authorization: Bearer TOKEN")
        new_rate = _wanted_rate(await request.read())
        try:
            previous = await asyncio.to_thread(state.set_rate, new_rate)
        except KafkaException as error:
            raise ApiError(503, "kafka_unavailable", f"the set-point was not acknowledged: {error}") from None
        return _json({"success": True, "previous_rate": previous, "new_rate": new_rate})

    app = web.Application(middlewares=[guard], client_max_size=BODY_LIMIT_BYTES)
    for path, handler in (("/health", health), ("/stats", stats), ("/metrics", metrics), ("/openapi.json", openapi)):
        app.router.add_get(path, handler)
    app.router.add_post("/config", config)
    return app


class ApiServer:
    """Runs the application in a daemon thread.

    Attributes
    ----------
    port : int
        The port it listens on, once :meth:`start` returned.
    """

    def __init__(self, app: web.Application, bind: str) -> None:
        self._app = app
        self._bind = Bind.parse(bind)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._started = threading.Event()
        self._error: OSError | None = None
        self._runner: web.AppRunner | None = None
        self.port = self._bind.port

    def start(self) -> None:
        """Listen; returns when requests are answered.

        Raises
        ------
        PortInUse
            Somebody else listens there.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            if self._error.errno == errno.EADDRINUSE:
                raise taken(self._bind, "tcp", "KLAIS_API_BIND") from self._error
            raise self._error

    def stop(self) -> None:
        """Stop listening and end the thread."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)

    def _run(self) -> None:
        loop = self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._listen())
        except OSError as error:
            self._error = error
        finally:
            self._started.set()
        if self._error is None:
            loop.run_forever()
        if self._runner is not None:
            loop.run_until_complete(self._runner.cleanup())
        loop.close()

    async def _listen(self) -> None:
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._bind.host, self._bind.port).start()
        self.port = self._runner.addresses[0][1]
