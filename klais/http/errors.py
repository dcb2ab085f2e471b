"""Responses: JSON bodies, errors in one format, and the headers of every response."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from klais.text import escape

MAX_TEXT_CHARS = 200  # characters of a request that an error quotes

# A browser must not guess a type, load anything for a response, frame it, or pass it to pages of other origins.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "klais",
}


class ErrorBody(BaseModel):
    """The body of every error response."""

    model_config = ConfigDict(extra="forbid", title="Error")

    error: str = Field(description="Message for users.")
    code: str = Field(description="Code for programs, from a fixed list.")
    details: dict[str, Any] = Field(description="Related values: a parameter, a range, a place.")


class HttpError(Exception):
    """An error response: ``{"error", "code", "details"}`` with an HTTP status."""

    def __init__(self, status: int, code: str, error: str, /, **details: Any) -> None:
        super().__init__(error)
        self.status, self.code, self.details = status, code, details

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """As a JSON response; 429 and 503 ask the client to retry in a second, 401 names the scheme."""
        own: dict[str, str] = {}
        if self.status in (429, 503):
            own["Retry-After"] = "1"
        elif self.status == 401:
            own["WWW-Authenticate"] = "Bearer"
        body = {"error": str(self), "code": self.code, "details": self.details}
        return reply(body, self.status, own | dict(headers or {}))


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response (numpy scalars and arrays allowed; NaN and infinities become null)."""
    return json_response(to_json(body), status, headers)


def to_json(body: Any) -> bytes:
    """``body`` as JSON; invalid text (a lone surrogate, as from a hostile path) is escaped."""
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return orjson.dumps(_encodable(body), option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(data: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with a body that is already JSON."""
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)


def of_http_exception(error: web.HTTPException, request: web.BaseRequest) -> web.Response:
    """An error of aiohttp (unknown path, wrong method, body too large) in the common format."""
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    code = (error.reason or "error").lower().replace(" ", "_")
    return HttpError(error.status, code, f"{error.reason}: {shown(f'{request.method} {request.path}')}").response(allow)


def shown(text: str) -> str:
    """Text of a request as quoted in an error: printable and truncated."""
    return escape(text[:MAX_TEXT_CHARS])


def secure(response: web.StreamResponse) -> None:
    """Add the headers of every response; a page with its own policy has set it before."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SECURITY_HEADERS["Server"]


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(part) for name, part in value.items()}
    return [_encodable(part) for part in value] if isinstance(value, list | tuple) else value
