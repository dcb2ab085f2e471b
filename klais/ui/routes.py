"""The page on a web application: ``/ui/`` and ``/api/v1``."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import Field

from klais import __version__
from klais.config.load import Row
from klais.errors import KafkaForbidden, KafkaUnavailable, TopicMismatch
from klais.http.body import Body, read_body
from klais.http.device_path import device_of_path
from klais.http.errors import HttpError, json_response, reply, to_json
from klais.http.guard import Guard
from klais.http.query import Query, Whole, read_query
from klais.http.response_cache import ResponseCache
from klais.http.session import COOKIE, Session, cookie_header
from klais.http.stream import Hub
from klais.system.tasks import end_task
from klais.telemetry.log import get
from klais.ui.assets import load_assets, serve
from klais.ui.changes import (
    Ack,
    Block,
    Blocks,
    Changed,
    Changes,
    DeviceLimits,
    Line,
    Mute,
    Override,
    Reason,
    Requester,
    Unblocks,
    Unmute,
)
from klais.ui.history import SECONDS
from klais.ui.incidents import IncidentsQuery, incident_of_path
from klais.ui.logins import FailedLogins
from klais.ui.source_path import prefix_of_path

log = get("klais.ui.routes")

MAX_CHANGES = 500

B = TypeVar("B", bound=Reason)
T = TypeVar("T")


class HistoryQuery(Query):
    """Of ``/api/v1/history``."""

    seconds: Whole = Field(
        default=SECONDS, ge=1, le=SECONDS, description="Number of seconds, counted back from the newest."
    )
    after_ms: Whole = Field(default=0, ge=0, description="Only samples after this time (ms since the epoch).")


class AuditQuery(Query):
    """Of ``/api/v1/audit``."""

    limit: Whole = Field(default=100, ge=1, le=MAX_CHANGES, description="Number of changes, newest first.")


class Login(Body):
    """Body of ``POST /ui/login``."""

    secret = frozenset({"token"})
    token: str = Field(min_length=1, max_length=4096, description="KLAIS_API_TOKEN, or the one to read.")
    name: Line = Field(min_length=1, max_length=64, description="Shown as the author of changes.")


class HistorySource(Protocol):
    """Source of the history (:class:`klais.ui.history.History`)."""

    def since(self, after_ms: int = 0, seconds: int = SECONDS) -> dict[str, list[Any]]: ...


class FeedSource(Protocol):
    """Source of the figures: :class:`klais.ui.feed.Feed`, or a recording."""

    @property
    def history(self) -> HistorySource: ...

    async def run(self) -> None: ...

    async def ready(self) -> None: ...

    def event(self) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Dependencies of the routes.

    Attributes
    ----------
    guard : Guard
        Knows the tokens and the address of a client.
    feed : FeedSource
        The figures.
    changes : Changes
        Makes changes; None if changes are not possible (recorded figures).
    audit : callable
        Returns the given number of newest changes, newest first; raises KafkaUnavailable, KafkaForbidden
        or TopicMismatch.
    about : callable
        Additional facts for ``/api/v1/about``.
    settings : callable
        The settings in force, secrets masked (``klais.config.load.describe``).
    incidents : callable
        Returns a page of incidents.
    """

    guard: Guard
    feed: FeedSource
    changes: Changes | None
    audit: Callable[[int], Awaitable[list[dict[str, Any]]]]
    about: Callable[[], dict[str, Any]] = dict
    settings: Callable[[], list[Row]] = list
    incidents: Callable[[IncidentsQuery], dict[str, Any]] = lambda query: {"items": [], "next": None}
    answers: ResponseCache = field(default_factory=ResponseCache)
    logins: FailedLogins = field(default_factory=FailedLogins)

    def session(self, request: web.Request) -> Session | None:
        """The session of a request, or None."""
        return self.guard.access.session(request.cookies.get(COOKIE))

    def who(self, request: web.Request) -> Requester:
        """The author of a change."""
        session = self.session(request)
        return Requester(name=session.name if session else "", address=str(self.guard.client(request) or ""))

    def changer(self) -> Changes:
        """Returns the object that makes changes; 405 if changes are not possible."""
        if self.changes is None:
            raise HttpError(405, "read_only", "these figures are recorded: changes are not possible")
        return self.changes


Handler = Callable[[Page, web.Request], Awaitable[web.StreamResponse]]


async def about(page: Page, request: web.Request) -> web.StreamResponse:
    """``/api/v1/about``: facts about this server for the page."""
    read_query(request.query, Query)
    access, session = page.guard.access, page.session(request)
    body = {
        "version": __version__,
        "session": None if session is None else {"name": session.name, "until_s": session.until_s},
        "login_needed": access.changes_need,
        "may_change": page.changes is not None and (not access.changes_need or session is not None),
        "read_only": page.changes is None,
    }
    return reply(body | page.about())


async def settings(page: Page, request: web.Request) -> web.StreamResponse:
    """``/api/v1/settings``: the settings in force with their sources; secrets are masked."""
    read_query(request.query, Query)
    keys = ("name", "value", "default", "source", "place")
    return reply({"settings": [{key: getattr(row, key) for key in keys} for row in page.settings()]})


async def history(page: Page, request: web.Request) -> web.StreamResponse:
    """``/api/v1/history``: the last minutes of every series, as columns."""
    asked = read_query(request.query, HistoryQuery)
    await page.feed.ready()
    return reply(page.feed.history.since(asked.after_ms, asked.seconds))


async def audit(page: Page, request: web.Request) -> web.StreamResponse:
    """``/api/v1/audit``: the newest changes, from ``klais_audit``."""
    max_count = read_query(request.query, AuditQuery).limit

    async def make() -> bytes:
        try:
            return to_json({"changes": await page.audit(max_count)})
        except (KafkaUnavailable, KafkaForbidden, TopicMismatch) as error:
            raise HttpError(503, "kafka_unavailable", str(error)) from None

    return json_response(await page.answers.get(f"audit {max_count}", make))


async def incidents(page: Page, request: web.Request) -> web.StreamResponse:
    """``/api/v1/incidents``: a page of incidents, newest first, and the mutes."""
    query = read_query(request.query, IncidentsQuery)

    async def make() -> bytes:
        return to_json(await asyncio.to_thread(page.incidents, query))

    return json_response(await page.answers.get(request.path_qs, make))


async def log_in(page: Page, request: web.Request) -> web.StreamResponse:
    """``POST /ui/login``: start a session with a valid token."""
    asked = await read_body(request, Login)
    client = str(page.guard.client(request) or request.remote)
    page.logins.check(client, time.monotonic())
    cookie = page.guard.access.log_in(asked.token, asked.name)
    if cookie is None:
        page.logins.failed(client, time.monotonic())
        log.warning("login_refused", client=client, name=asked.name)
        raise HttpError(401, "unauthorized", "this is not a token of this system")
    log.info("logged_in", client=client, name=asked.name)
    return reply({"name": asked.name}, headers={"Set-Cookie": cookie_header(cookie, page.guard.is_encrypted(request))})


async def log_out(page: Page, request: web.Request) -> web.StreamResponse:
    """``POST /ui/logout``: end the session."""
    return reply({}, headers={"Set-Cookie": cookie_header("", page.guard.is_encrypted(request))})


def _of(
    parse: Callable[[web.BaseRequest, int], T], make: Callable[[Changes, T, B, Requester], Awaitable[Changed]],
    model: type[B],
) -> Handler:  # fmt: skip
    """A change of what the path names: ``parse`` gets it from its fifth segment."""

    async def handle(page: Page, request: web.Request) -> web.StreamResponse:
        what, asked = parse(request, 4), await read_body(request, model)
        made = await make(page.changer(), what, asked, page.who(request))
        page.answers.forget()
        return reply(made.model_dump())

    return handle


def _device(request: web.BaseRequest, at: int) -> str:
    return device_of_path(request, at).decode()


def _of_system(make: Callable[[Changes, B, Requester], Awaitable[Any]], model: type[B]) -> Handler:
    async def handle(page: Page, request: web.Request) -> web.StreamResponse:
        made = await make(page.changer(), await read_body(request, model), page.who(request))
        page.answers.forget()
        return reply([each.model_dump() for each in made] if isinstance(made, list) else made.model_dump())

    return handle


GETS: dict[str, Handler] = {
    "/api/v1/about": about,
    "/api/v1/settings": settings,
    "/api/v1/history": history,
    "/api/v1/audit": audit,
    "/api/v1/incidents": incidents,
}
CHANGES: tuple[tuple[str, str, Handler, type[Reason]], ...] = (
    ("PUT", "/api/v1/devices/{device_id}/block", _of(_device, Changes.block, Block), Block),
    ("DELETE", "/api/v1/devices/{device_id}/block", _of(_device, Changes.unblock, Reason), Reason),
    ("PUT", "/api/v1/devices/{device_id}/limits", _of(_device, Changes.limit, DeviceLimits), DeviceLimits),
    ("DELETE", "/api/v1/devices/{device_id}/limits", _of(_device, Changes.unlimit, Reason), Reason),
    ("POST", "/api/v1/devices:block", _of_system(Changes.block_all, Blocks), Blocks),
    ("POST", "/api/v1/devices:unblock", _of_system(Changes.unblock_all, Unblocks), Unblocks),
    ("PUT", "/api/v1/sources/{prefix}/block", _of(prefix_of_path, Changes.block_source, Block), Block),
    ("DELETE", "/api/v1/sources/{prefix}/block", _of(prefix_of_path, Changes.unblock_source, Reason), Reason),
    ("PUT", "/api/v1/incidents/{incident_id}/ack", _of(incident_of_path, Changes.ack, Ack), Ack),
    ("DELETE", "/api/v1/incidents/{incident_id}/ack", _of(incident_of_path, Changes.unack, Reason), Reason),
    ("PUT", "/api/v1/mutes", _of_system(Changes.mute, Mute), Mute),
    ("DELETE", "/api/v1/mutes", _of_system(Changes.unmute, Unmute), Unmute),
    ("PUT", "/api/v1/override", _of_system(Changes.override, Override), Override),
    ("DELETE", "/api/v1/override", _of_system(Changes.end_override, Reason), Reason),
)


def install(app: web.Application, page: Page) -> None:
    """Add the page to an application that has not started; its feed starts and stops with the application."""
    assets, hub = load_assets(), Hub(page.feed.event)

    async def files(request: web.Request) -> web.StreamResponse:
        return serve(assets, request)

    async def to_page(request: web.Request) -> web.StreamResponse:
        raise web.HTTPPermanentRedirect("/ui/")

    async def feed(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(page.feed.run(), name="ui-feed")
        yield
        await end_task(task)

    app.router.add_get("/ui", to_page)
    app.router.add_get("/ui/{name:[^?]*}", files)
    app.router.add_get("/api/v1/stream", hub.serve)
    for path, handler in GETS.items():
        app.router.add_get(path, _bound(handler, page))
    app.router.add_post("/ui/login", _bound(log_in, page))
    app.router.add_post("/ui/logout", _bound(log_out, page))
    for method, path, handler, _ in CHANGES:
        app.router.add_route(method, path, _bound(handler, page))
    app.on_shutdown.append(hub.close)
    app.cleanup_ctx.append(feed)


def _bound(handler: Handler, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(page, request)

    return handle
