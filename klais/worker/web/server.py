"""What all views share: JSON answers, errors of one shape, query parameters that say what they take."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from klais.telemetry.log import get

log = get("klais.worker.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ViewError(Exception):
    """An answer other than success: ``{"error", "code", "details"}`` with an HTTP status."""

    def __init__(self, status: int, code: str, error: str, **details: Any) -> None:
        super().__init__(error)
        self.status, self.code, self.details = status, code, details

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """As JSON; 503 asks the client to come again in a second."""
        if self.status == 503:
            headers = {"Retry-After": "1", **(headers or {})}
        return reply({"error": str(self), "code": self.code, "details": self.details}, self.status, headers)


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer (numpy scalars and arrays allowed; NaN and infinities become null)."""
    data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error the one shape, also those of aiohttp (unknown path, wrong method) and defects of ours."""
    try:
        return await handler(request)
    except ViewError as error:
        return error.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        code = (error.reason or "error").lower().replace(" ", "_")
        return ViewError(error.status, code, f"{error.reason}: {request.method} {request.path}").response(allow)
    except Exception:
        log.exception("request_failed", path=request.path)
        return ViewError(500, "internal_error", "this is a defect; the worker's log has its traceback").response()


class Query:
    """Query parameters of a request, each read with what it may be; ``done`` refuses those that nobody asked for.

    Raises
    ------
    ViewError
        400 ``bad_parameter``: which one, its value, and its range or choices.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._known: list[str] = []

    def _bad(self, name: str, says: str, **details: Any) -> ViewError:
        value = self._given[name][:100]
        return ViewError(400, "bad_parameter", f"{name}: {says}", parameter=name, value=value, **details)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        self._known.append(name)
        text = self._given.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not low <= int(text) <= high:
            raise self._bad(name, f"must be a whole number from {low} to {high}", minimum=low, maximum=high)
        return int(text)

    def choice(self, name: str, default: str | None, choices: tuple[str, ...]) -> str | None:
        """One of ``choices``."""
        self._known.append(name)
        text = self._given.get(name)
        if text is None:
            return default
        if text not in choices:
            raise self._bad(name, f"must be one of {', '.join(choices)}", choices=choices)
        return text

    def text(self, name: str, most_bytes: int) -> bytes:
        """Text of 1 to ``most_bytes`` bytes in UTF-8; empty where it was not given."""
        self._known.append(name)
        text = self._given.get(name)
        if text is None:
            return b""
        data = text.encode(errors="replace")
        if not 1 <= len(data) <= most_bytes:
            raise self._bad(name, f"must have 1 to {most_bytes} bytes in UTF-8", minimum=1, maximum=most_bytes)
        return data

    def done(self) -> None:
        """Refuse parameters that none of the calls above named."""
        for name in self._given:
            if name not in self._known:
                raise self._bad(name, f"is no parameter of this page; there are: {', '.join(self._known) or 'none'}")


def iso(time_ns: int) -> str | None:
    """ns since the epoch as ISO 8601 in UTC with milliseconds; None for 0 and what no calendar holds.

    Examples
    --------
    >>> iso(1_700_000_000_123_000_000)
    '2023-11-14T22:13:20.123Z'
    """
    try:
        at = datetime.fromtimestamp(int(time_ns) // 1_000_000 / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time_ns > 0 else None
