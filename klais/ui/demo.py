"""The page with recorded figures: a server that needs neither Kafka nor a worker."""

import math
import time
from collections.abc import Mapping
from datetime import datetime
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
    """The read-only application. Without a guard it must listen on loopback."""
    guard = guard or Guard(AllowedHosts("127.0.0.1"), Access())
    page = Page(
        guard=guard,
        feed=recording,
        changes=None,
        audit=recording.audit,
        about=lambda: {"worker": "recorded", "workers": [], "recorded_devices": recording.devices()},
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
            raise HttpError(404, "not_recorded", f"{shown(path)} is not in the recording: ask a worker")
        if path == "/devices/":
            return reply(devices_of(body, request.query))
        return reply(_first(body, request.query.get("size", "")[:6]))

    install(app, page)
    app.router.add_get("/{path:.*}", recorded)
    return app


def _first(body: Any, size: str) -> Any:
    """A recorded list, cut to the requested length."""
    if not (isinstance(body, dict) and isinstance(body.get("items"), list) and size.isdecimal()):
        return body
    return body | {"items": body["items"][: int(size)]}


def devices_of(body: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """The recorded rows of ``/devices/`` that match a request, in its order; a cursor is the number of rows before it.

    A recording holds the rows of one page of devices; ``recorded`` states how many of all devices they are. It does not
    have their queues and intervals: no device has queued frames, and the silent ones are overdue.
    """
    rows = body["items"]
    sort = query.get("sort", body["sort"])
    order = query.get("order") or ("asc" if sort in ("device_id", "partition", "first_seen") else "desc")
    silent_s = _whole(query.get("silent_s"), 0) if "silent_s" in query else None
    found = [
        row
        for row in rows
        if query.get("q", "") in row["device_id"]
        and query.get("state", row["state"]) == row["state"]
        and (row["dropped"] > 0 or "dropped" not in query)
        and (silent_s is None or _age_s(row["last_seen"]) > silent_s)
        and (row["state"] == "silent" or "silent_intervals" not in query)
        and "queued" not in query
    ]
    known = [row for row in found if row.get(sort) is not None]
    known.sort(key=lambda row: row[sort], reverse=order == "desc")
    found = known + [row for row in found if row.get(sort) is None]
    begin, size = _whole(query.get("after"), 0), _whole(query.get("size"), 50)
    after = begin + size
    return body | {
        "items": found[begin:after],
        "total": len(found),
        "sort": sort,
        "order": order,
        "size": size,
        "next": str(after) if after < len(found) else None,
        "devices_by_state": {state: sum(row["state"] == state for row in rows) for state in body["devices_by_state"]},
        "recorded": {"rows": len(rows), "devices": body["total"]},
    }


def _age_s(at: str | None) -> float:
    """Seconds since a time; endless for a device that was never seen."""
    return time.time() - datetime.fromisoformat(at).timestamp() if at else math.inf


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 7 else default


def demo_server(
    recording: Recording, host: str, port: int, guard: Guard | None = None, limits: ConnectionLimits | None = None
) -> Listener:
    """The server of :func:`demo_app` on an address."""
    return Listener(demo_app(recording, guard), host, port, limits or ConnectionLimits())
