"""The page on recorded figures: a server that needs neither Kafka nor a worker."""

from typing import Any

from aiohttp import web

from klais.config.load import Settings
from klais.http.access import Access
from klais.http.connections import ConnectionLimits, Listener
from klais.http.errors import HttpError, reply, shown
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.ui.recording import Recording
from klais.ui.routes import Page, install


def demo_app(recording: Recording, host: str = "127.0.0.1") -> web.Application:
    """The application; nothing can be changed through it."""
    guard = Guard(AllowedHosts(host), Access())
    page = Page(
        settings=Settings(),
        guard=guard,
        feed=recording,
        changes=None,
        about=lambda: {"worker": "recorded", "workers": []},
        incidents=lambda query: _first(recording.pages.get("/incidents/", {"items": []}), str(query.size)),
    )
    app = web.Application()
    guard.install(app)

    async def recorded(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/":
            raise web.HTTPFound("/ui/")
        if path not in recording.pages:
            raise HttpError(404, "not_recorded", f"{shown(path)} is not in the recording")
        return reply(_first(recording.pages[path], request.query.get("size", "")))

    install(app, page)
    app.router.add_get("/{path:.*}", recorded)
    return app


def _first(body: Any, size: str) -> Any:
    """A recorded list, no longer than what was asked for."""
    if not (isinstance(body, dict) and isinstance(body.get("items"), list) and size.isdecimal()):
        return body
    return body | {"items": body["items"][: int(size)]}


def demo_server(recording: Recording, host: str, port: int) -> Listener:
    """The same on an address."""
    return Listener(demo_app(recording, host), host, port, ConnectionLimits())
