"""The prefix of source addresses in the path of a request, and how the OpenAPI document describes it."""

from typing import Any
from urllib.parse import unquote

from aiohttp import web

from klais.control.source_blocks import MIN_BITS, source_prefix
from klais.http.errors import HttpError, shown
from klais.system.prefix import Network

PARAMETER: dict[str, Any] = {
    "name": "prefix",
    "in": "path",
    "required": True,
    "description": f"A prefix (CIDR) of at least {MIN_BITS[4]} bits for IPv4 and {MIN_BITS[6]} for IPv6, or one "
    "address; percent-encoded, as 192.0.2.0%2F24.",
    "schema": {"type": "string", "minLength": 2, "maxLength": 49},
}


def prefix_of_path(request: web.BaseRequest, at: int) -> Network:
    """The prefix in segment ``at`` of the path, percent-encoded.

    Raises
    ------
    HttpError
        400, if it is no prefix or may not be blocked.
    """
    segment = request.rel_url.raw_path.split("/")[at]
    try:
        return source_prefix(unquote(segment))
    except ValueError as error:
        raise HttpError(400, "bad_prefix", str(error), value=shown(segment)) from None
