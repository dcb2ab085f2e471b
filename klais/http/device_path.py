"""The device_id in the path of a request, and how the OpenAPI documents describe it."""

from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

from klais.core.wire.constants import ID_RULE, ID_SIZE, is_device_id
from klais.http.errors import HttpError, shown

PARAMETER: dict[str, Any] = {
    "name": "device_id",
    "in": "path",
    "required": True,
    "description": f"1 to {ID_SIZE} bytes in UTF-8, percent-encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": ID_SIZE},
}


def device_of_path(request: web.BaseRequest, at: int) -> bytes:
    """The device_id in segment ``at`` of the path, percent-encoded UTF-8.

    Raises
    ------
    HttpError
        400, if it is not a device_id.
    """
    segment = request.rel_url.raw_path.split("/")[at]
    device_id = unquote_to_bytes(segment)
    try:
        device_id.decode()
    except UnicodeDecodeError:
        text = "the device_id is not UTF-8 (percent-encoded)"
        raise HttpError(400, "bad_device_id", text, value=shown(segment)) from None
    if not is_device_id(device_id):
        raise HttpError(400, "bad_device_id", ID_RULE, value=shown(segment), minimum=1, maximum=ID_SIZE)
    return device_id
