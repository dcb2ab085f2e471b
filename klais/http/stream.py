"""Server-sent events: one body per second, made once for all viewers and only if there are any.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The web server shares the event loop with the lanes, so
a viewer costs one write a second: each has one slot, where the newest body replaces one that was not sent yet. What a
viewer does not read waits in the kernel, ``send_bytes`` of it; a viewer that leaves no room there for ``WRITE_S`` is
disconnected.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from aiohttp import web

from klais.http.connections import Connection
from klais.http.errors import HttpError
from klais.telemetry import log as logs
from klais.telemetry.log import get

log = get("klais.http.stream")

PERIOD_S = 1.0
WRITE_S = 2.0
COMMENT_S = 15.0  # a comment line so often keeps proxies from closing a silent stream
SEND_BYTES = 64 << 10  # for a viewer in the kernel, which doubles it: seconds of events, not the minutes it would keep
MAX_STREAMS = 32
RETRY_MS = 2000
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class Hub:
    """The viewers of one stream.

    Parameters
    ----------
    make : callable
        Returns ``(id, body)`` of an event, the body JSON without line breaks; called once a second while it has
        viewers. An error is logged and the event left out.
    max_viewers : int
        Viewers at once.
    send_bytes : int
        What waits in the kernel for a viewer that does not read; the kernel doubles it.
    """

    def __init__(
        self, make: Callable[[], tuple[int, bytes]], max_viewers: int = MAX_STREAMS, send_bytes: int = SEND_BYTES
    ) -> None:
        self._make, self._max_viewers, self._send_bytes = make, max_viewers, send_bytes
        self._viewers: set[_Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._viewers)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Respond with the stream until the viewer disconnects or the hub closes.

        Raises
        ------
        HttpError
            503, if the server stops, or the maximum of streams is open.
        """
        if self._closed:
            raise HttpError(503, "stopping", "this worker stops: use another one")
        if len(self._viewers) >= self._max_viewers:
            raise HttpError(503, "too_many_streams", f"{self._max_viewers} pages are open on this worker: close one")
        viewer = _Viewer()
        self._viewers.add(viewer)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ui-stream")
        response = web.StreamResponse(headers=HEADERS)
        try:
            await response.prepare(request)
            self._keep_little(request.transport)
            await self._write(request, response, f"retry: {RETRY_MS}\n\n".encode())
            while not self._closed:
                await self._write(request, response, await viewer.next())
        except (ConnectionError, TimeoutError):  # the viewer has disconnected, or does not read
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._viewers.discard(viewer)
        return response

    async def close(self, *_: object) -> None:
        """End all streams, so that open pages do not delay the shutdown."""
        self._closed = True
        for viewer in self._viewers:
            viewer.put(b": the worker stops\n\n")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _keep_little(self, transport: asyncio.Transport | None) -> None:
        if transport is not None:
            transport.set_write_buffer_limits(0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_bytes)

    async def _run(self) -> None:
        while self._viewers:
            try:
                number, body = self._make()
                event = b"id: %d\ndata: %s\n\n" % (number, body)
            except Exception:
                if logs.every(60, "klais.http.stream"):
                    log.exception("event_failed")
            else:
                for viewer in self._viewers:
                    viewer.put(event)
            await asyncio.sleep(PERIOD_S)

    @staticmethod
    async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        if isinstance(connection := request.protocol, Connection):
            connection.stay(COMMENT_S + WRITE_S)
        async with asyncio.timeout(WRITE_S):
            await response.write(data)


class _Viewer:
    """The one slot of a viewer."""

    def __init__(self) -> None:
        self._newest: bytes | None = None
        self._there = asyncio.Event()

    def put(self, event: bytes) -> None:
        """Set the next event, replacing a waiting one."""
        self._newest = event
        self._there.set()

    async def next(self) -> bytes:
        """Wait for an event; a comment if there is none in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMMENT_S):
                await self._there.wait()
        self._there.clear()
        newest, self._newest = self._newest, None
        return newest if newest is not None else b": no news\n\n"
