"""Incidents in ``/api/v1``: the list, acknowledgements and mutes."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AfterValidator, Field

from klais.control.incidents import Records, Wanted, page, read_cursor, shown_with_ack
from klais.control.setpoints import INCIDENT
from klais.core.incidents.incident import ID, incident_of, is_id
from klais.http.errors import HttpError, shown
from klais.http.query import Query, Whole
from klais.system.shared_clock import shared

MAX_PAGE_SIZE = 200  # incidents of one page
PARAMETER: dict[str, Any] = {
    "name": "incident_id",
    "in": "path",
    "required": True,
    "description": "Id of an incident, as in the list.",
    "schema": {"type": "string", "pattern": f"^{ID.pattern}$"},
}


def _is_cursor(text: str) -> str:
    read_cursor(text)
    return text


class IncidentsQuery(Query):
    """Query of ``/incidents/`` and ``/api/v1/incidents``."""

    state: Literal["open", "closed"] | None = Field(
        default=None, description="Only incidents in this state; default: both."
    )
    feature: str | None = Field(
        default=None, min_length=1, max_length=120, description="Only incidents with this feature."
    )
    device: str | None = Field(
        default=None, min_length=1, max_length=16, description="Only incidents with this device."
    )
    unacknowledged: Literal["true"] | None = Field(default=None, description="Only incidents without acknowledgement.")
    size: Whole = Field(default=100, ge=1, le=MAX_PAGE_SIZE, description="Incidents per page, newest first.")
    after: Annotated[str, AfterValidator(_is_cursor)] | None = Field(
        default=None, max_length=100, description="The page after this place: `next` of the previous page."
    )


def incidents_body(records: Records, query: IncidentsQuery) -> dict[str, Any]:
    """A page of the incidents on ``klais_control``."""
    unacknowledged = query.unacknowledged is not None
    wanted = Wanted(query.state, query.feature, query.device, unacknowledged, query.after, query.size)
    return page(records, wanted, shared.now_ms())


def incident_body(records: Records, incident_id: str) -> dict[str, Any]:
    """One incident.

    Raises
    ------
    HttpError
        404, if there is no incident with this id, or no longer.
    """
    try:
        incident = incident_of(records[INCIDENT + incident_id])
    except (KeyError, ValueError):  # unreadable ones are skipped, as in the list
        text = f"there is no incident {incident_id}: only the newest 200 closed ones are kept"
        raise HttpError(404, "unknown_incident", text, incident_id=incident_id) from None
    return shown_with_ack(incident, records, shared.now_ms())


def incident_of_path(request: web.BaseRequest, at: int) -> str:
    """The id of an incident in segment ``at`` of the path.

    Raises
    ------
    HttpError
        400, if it is not an id.
    """
    segment = request.rel_url.raw_path.split("/")[at]
    if not is_id(segment):
        raise HttpError(400, "bad_incident_id", f"{shown(segment)} is not the id of an incident, such as i-0123456789")
    return segment
