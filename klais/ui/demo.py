"""The page on recorded figures: a server that needs neither Kafka nor a worker."""

from typing import Any

from aiohttp import web

from klais.http.access import Access
from klais.http.connections import ConnectionLimits, Listener
from klais.http.errors import HttpError, reply, shown
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.ui.recording import Recording
from klais.ui.routes import Page, install


def demo_app(recording: Recording, guard: Guard | None = None) -> web.Application:
    """The application; nothing can be changed through it. Without a guard it is for loopback."""
    guard = guard or Guard(AllowedHosts("127.0.0.1"), Access())
    page = Page(
        guard=guard,
        feed=recording,
        changes=None,
        audit=recording.audit,
        about=lambda: {"worker": "recorded", "workers": []},
        incidents=lambda query: _first(recording.page("/incidents/") or {"items": []}, str(query.size)),
    )
    app = web.Application()
    guard.install(app)

    async def recorded(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/":
            raise web.HTTPFound("/ui/")
        body = recording.page(path)
        if body is None:
            raise HttpError(404, "not_recorded", f"{shown(path)} is not in the recording")
        return reply(_first(body, request.query.get("size", "")[:6]))

    install(app, page)
    app.router.add_get("/{path:.*}", recorded)
    return app


def _first(body: Any, size: str) -> Any:
    """A recorded list, no longer than what was asked for."""
    if not (isinstance(body, dict) and isinstance(body.get("items"), list) and size.isdecimal()):
        return body
    return body | {"items": body["items"][: int(size)]}


def demo_server(
    recording: Recording, host: str, port: int, guard: Guard | None = None, limits: ConnectionLimits | None = None
) -> Listener:
    """The same on an address."""
    return Listener(demo_app(recording, guard), host, port, limits or ConnectionLimits())
