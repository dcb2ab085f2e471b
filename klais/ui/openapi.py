"""``/api/v1`` in the OpenAPI document of a worker, from the models that validate the requests."""

from typing import Any

from klais.http.device_path import PARAMETER
from klais.http.openapi import errors, json_body
from klais.http.query import Query, parameters
from klais.ui.changes import Ack, Block, Blocks, Changed, DeviceLimits, Mute, Override, Reason, Unblocks, Unmute
from klais.ui.incidents import PARAMETER as INCIDENT_ID
from klais.ui.incidents import IncidentsQuery
from klais.ui.routes import CHANGES, GETS, AuditQuery, HistoryQuery, Login, about, audit, history, incidents, settings
from klais.ui.source_path import PARAMETER as SOURCE_PREFIX

MODELS = (Reason, Block, Blocks, Unblocks, DeviceLimits, Ack, Mute, Unmute, Override, Login)
ANSWERS = (Changed,)
_QUERIES: dict[Any, type[Query]] = {history: HistoryQuery, audit: AuditQuery, incidents: IncidentsQuery}
_READ = ("400", "401", "403", "421", "429")
_CHANGE = (*_READ, "409", "413", "415", "422", "503")
_SUMMARIES = {
    ("PUT", "block"): "Drop every frame of a device.",
    ("DELETE", "block"): "Let the frames of a device pass again.",
    ("PUT", "source_block"): "Drop every frame from a prefix of source addresses.",
    ("DELETE", "source_block"): "Let the frames from a prefix pass again; it ends the block of exactly this prefix.",
    ("PUT", "limits"): "Give a device its own rate and burst.",
    ("DELETE", "limits"): "Return a device to the default limits.",
    ("POST", "devices:block"): "Drop every frame of up to 1,000 devices.",
    ("POST", "devices:unblock"): "Let the frames of up to 1,000 devices pass again.",
    ("PUT", "ack"): "Acknowledge an incident.",
    ("DELETE", "ack"): "Revoke an acknowledgement.",
    ("PUT", "mutes"): "Open no new incident for a device, a prefix or a feature.",
    ("DELETE", "mutes"): "Open incidents for it again.",
    ("PUT", "override"): "Set the global rate, or let the controller set it.",
    ("DELETE", "override"): "End the override: the settings apply again.",
}


def paths() -> dict[str, Any]:
    """The paths of the API."""
    out: dict[str, Any] = {}
    for path, handler in GETS.items():
        failed = () if handler in (about, settings) else ("503",)
        summary = (handler.__doc__ or "").partition(": ")[2].splitlines()[0]
        out[path] = {
            "get": {
                "operationId": f"ui_{handler.__name__}",
                "summary": summary,
                "parameters": parameters(_QUERIES.get(handler, Query)),
                "responses": {"200": _object("Now.")} | errors(*_READ, *failed),
            }
        }
    stream = {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    out["/api/v1/stream"] = {
        "get": {
            "operationId": "ui_stream",
            "summary": "The newest figures once a second, as server-sent events.",
            "responses": {"200": stream} | errors(*_READ, "503"),
        }
    }
    for method, path, _, model in CHANGES:
        kind = path.rpartition("/")[2]
        kind = "source_block" if "{prefix}" in path else kind
        many = kind.startswith("devices:")
        changed = {"$ref": "#/components/schemas/Changed"}
        schema = {"type": "array", "items": changed} if many else changed
        out.setdefault(path, {})[method.lower()] = {
            "operationId": f"{method.lower()}_{kind.replace(':', '_')}",
            "summary": _SUMMARIES[method, kind],
            "parameters": [own for own in (PARAMETER, SOURCE_PREFIX, INCIDENT_ID) if f"{{{own['name']}}}" in path],
            "requestBody": {"required": True, "content": json_body(model.__name__)},
            "responses": {
                "200": {"description": "Acknowledged by Kafka.", "content": {"application/json": {"schema": schema}}}
            }
            | errors(*_CHANGE, *(("404",) if "{incident_id}" in path else ())),
        }
    return out


def _object(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}
