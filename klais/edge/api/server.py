"""The REST API of the edge: aiohttp in its own thread and loop, so that no request blocks the data path.

:mod:`klais.http` has the checks before every request (limits, tokens, names, browsers) and the shape of errors.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from aiohttp import web
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.edge.api.models import ConfigRequest, ConfigResponse
from klais.edge.api.tap import PATH as TAP_PATH
from klais.edge.api.tap import EdgeTapQuery
from klais.edge.tap import EdgeTaps
from klais.errors import ChangedMeanwhile, EdgeUnavailable
from klais.http.access import Access
from klais.http.body import read_body
from klais.http.connections import ConnectionLimits, Listener
from klais.http.errors import HttpError, reply
from klais.http.guard import Guard
from klais.http.tap import TapPage
from klais.system.address import Bind, bind_error
from klais.telemetry import log as logs

log = logs.get("klais.edge.api.server")

BODY_LIMIT_BYTES = 4096
Taps = EdgeTaps | Callable[[], Sequence[str]]


class State(Protocol):
    """Backend of the API. Called in the API's thread; ``set_rate`` in a worker thread, because it may block."""

    def live(self) -> dict[str, Any]:
        """Body of ``/livez``."""

    def ready(self) -> dict[str, Any]:
        """Body of ``/readyz``."""

    def health(self) -> dict[str, Any]:
        """Body of ``/health``."""

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``."""

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""

    def set_rate(self, new_rate: int, client: str) -> float:
        """Write the global rate to ``klais_control`` for ``client`` (its address); returns the previous one.

        Raises KafkaException or EdgeUnavailable.
        """


def make_app(state: State, guard: Guard, min_rate: float, taps: Taps = list) -> web.Application:
    """The application; ``min_rate``: rates below it need ``force``. ``taps``: those of this process, or says at
    which URLs the processes are that have the frames."""

    async def livez(_request: web.Request) -> web.Response:
        body = state.live()
        return reply(body, 200 if body["live"] else 503)

    async def readyz(_request: web.Request) -> web.Response:
        body = state.ready()
        return reply(body, 200) if body["ready"] else reply(body, 503, {"Retry-After": "1"})

    async def health(_request: web.Request) -> web.Response:
        body = state.health()
        return reply(body, 200 if body["status"] == "ok" else 503)

    async def stats(_request: web.Request) -> web.Response:
        try:
            return reply(state.stats())
        except EdgeUnavailable as error:
            raise _unavailable(error) from None

    async def metrics(_request: web.Request) -> web.Response:
        body, content_type = state.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(_request: web.Request) -> web.Response:
        from klais.edge.api.openapi import DOCUMENT  # imported here: it takes 40 ms to generate and is rarely requested

        return reply(DOCUMENT)

    async def config(request: web.Request) -> web.Response:
        asked = await read_body(request, ConfigRequest)
        if asked.new_rate < min_rate and not asked.force:
            text = f'new_rate is below {min_rate:g} frames/s (KLAIS_PID_RATE_MIN): send "force": true to set it anyway'
            raise HttpError(422, "below_minimum", text, minimum=min_rate)
        client = str(guard.client(request) or request.remote)
        try:
            previous = await asyncio.to_thread(state.set_rate, asked.new_rate, client)
        except (KafkaException, ChangedMeanwhile, EdgeUnavailable) as error:
            raise _not_set(error) from None
        log.info("rate_changed", client=client, old=previous, new=asked.new_rate, forced=asked.force)
        return reply(ConfigResponse(previous_rate=previous, new_rate=asked.new_rate).model_dump())

    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    guard.install(app)
    for path, handler in {
        "/livez": livez,
        "/readyz": readyz,
        "/health": health,
        "/stats": stats,
        "/metrics": metrics,
        "/openapi.json": openapi,
    }.items():
        app.router.add_get(path, handler)
    app.router.add_post("/config", config)
    _install_tap(app, guard, taps)
    return app


def _install_tap(app: web.Application, guard: Guard, taps: Taps) -> None:
    if isinstance(taps, EdgeTaps):
        TapPage(taps, guard, EdgeTapQuery).install(app, TAP_PATH)
    else:
        app.router.add_get(TAP_PATH, partial(_tap_elsewhere, taps))


async def _tap_elsewhere(others: Callable[[], Sequence[str]], _request: web.Request) -> web.Response:
    urls = ", ".join(others())
    text = f"several edge processes share this address, and each shows only its own frames: name one with --url: {urls}"
    raise HttpError(409, "several_edges", text)


def _not_set(error: Exception) -> HttpError:
    """The answer where a rate could not be set."""
    if isinstance(error, ChangedMeanwhile):
        return HttpError(409, "changed_meanwhile", str(error), author=error.author)
    if isinstance(error, EdgeUnavailable):
        return _unavailable(error)
    return HttpError(503, "kafka_unavailable", f"the set-point was not acknowledged: {error}")


def _unavailable(error: EdgeUnavailable) -> HttpError:
    return HttpError(503, "edge_unavailable", str(error))


def api_of(settings: Settings, state: State, access: Access, taps: Taps = list) -> "ApiServer":
    """The server as the settings want it."""
    guard = Guard.of(settings, Bind.parse(settings.api_bind).host, access)
    return ApiServer(
        make_app(state, guard, settings.pid_rate_min, taps), settings.api_bind, ConnectionLimits.of(settings)
    )


class ApiServer:
    """Runs the application in a daemon thread.

    Attributes
    ----------
    port : int
        The port it listens on, once :meth:`start` has returned.
    """

    def __init__(self, app: web.Application, bind: str, limits: ConnectionLimits | None = None) -> None:
        self._bind = Bind.parse(bind)
        self.listener = Listener(app, self._bind.host, self._bind.port, limits or ConnectionLimits())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._started = threading.Event()
        self._error: Exception | None = None
        self.port = self._bind.port

    def start(self) -> None:
        """Start to listen; returns when requests are answered.

        Raises
        ------
        klais.errors.PortInUse, klais.errors.ConfigError
            If another process listens on the port, or the address cannot be bound.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None and not isinstance(self._error, OSError | UnicodeError):
            raise self._error
        if self._error is not None:
            raise bind_error(self._bind, "tcp", "KLAIS_API_BIND", self._error) from self._error

    def stop(self) -> None:
        """Stop listening and end the thread."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)

    def _run(self) -> None:
        loop = None
        try:
            loop = self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            self.port = loop.run_until_complete(self.listener.start())
        except Exception as error:  # raised by `start`, which waits for it; also that there is no descriptor for a loop
            self._error = error
        finally:
            self._started.set()
        if loop is None:
            return
        try:
            if self._error is None:
                loop.run_forever()
            loop.run_until_complete(self.listener.stop())
        finally:
            loop.close()
