"""What the pages of the worker take as query parameters."""

import base64
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field

from klais.control.setpoints import DECISIONS
from klais.core.wire.constants import ID_SIZE
from klais.http.query import Query, Whole
from klais.worker.rows import Cursor

MOST_ROWS = 500  # of one page
MOST_MERGED = 1000  # rows that each worker is asked for when pages of all workers are merged
MOST_PAGES = 200  # up to row 100,000: a page far behind would sort all devices

State = Literal["normal", "silent", "flagged", "limited", "blocked"]
Sort = Literal[
    "device_id", "partition", "state", "first_seen", "last_seen", "flagged_at", "tokens", "received", "admitted",
    "gaps", "duplicate", "blocked", "device_rate", "queue_full", "malformed", "dropped", "late", "resets", "flags",
    "score",
]  # fmt: skip


def _fits_an_id(text: str) -> str:
    if not 1 <= len(text.encode(errors="replace")) <= ID_SIZE or "\0" in text:
        raise ValueError(f"must have 1 to {ID_SIZE} bytes in UTF-8 and no NUL")
    return text


PartOfId = Annotated[str, AfterValidator(_fits_an_id), Field(json_schema_extra={"minLength": 1, "maxLength": ID_SIZE})]


def write_cursor(place: Cursor) -> str:
    """A place in the table of devices as text for the next request."""
    return base64.urlsafe_b64encode(orjson.dumps([place.key, *place.words])).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """The place that :func:`write_cursor` wrote.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        key, first, second = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        good = isinstance(key, int | float) and all(
            isinstance(word, int) and 0 <= word < 1 << 64 for word in (first, second)
        )
    except (ValueError, TypeError):
        good = False
    if not good:
        raise ValueError("must be `next` of the page before")
    return Cursor(key, (first, second))


def _is_cursor(text: str) -> str:
    read_cursor(text)
    return text


class ListQuery(Query):
    """Of a page of many devices."""

    page: Whole = Field(default=1, ge=1, le=MOST_PAGES, description="Page, from 1.")
    size: Whole = Field(default=100, ge=1, le=MOST_ROWS, description="Devices of a page.")
    scope: Literal["worker", "all"] = Field(
        default="worker", description=f"Devices of this worker, or of all: page x size is at most {MOST_MERGED} then."
    )
    q: PartOfId | None = Field(default=None, description="Part of the device id.")
    after: Annotated[str, AfterValidator(_is_cursor)] | None = Field(
        default=None, max_length=100, description="The page behind this place: `next` of the page before."
    )


class DevicesQuery(ListQuery):
    """Of ``/devices/``."""

    sort: Sort = Field(default="last_seen", description="Column that the devices are sorted by.")
    order: Literal["asc", "desc"] | None = Field(
        default=None, description="Unset: ids, partitions and first_seen upwards, everything else the largest first."
    )
    state: State | None = Field(default=None, description="Only devices in this state.")
    dropped: Literal["true"] | None = Field(default=None, description="Only devices that had frames dropped.")
    silent_s: Whole | None = Field(
        default=None, ge=0, le=10**9, description="Only devices that were not heard of for so many seconds."
    )


class _Forwarded(Query):
    size: Whole = Field(default=100, ge=1, le=MOST_MERGED)


class ForwardedListQuery(_Forwarded, ListQuery):
    """The same from another worker, which merges."""


class ForwardedDevicesQuery(_Forwarded, DevicesQuery):
    """The same from another worker, which merges."""


class ControlQuery(Query):
    """Of ``/control/``."""

    limit: Whole = Field(default=DECISIONS, ge=0, le=DECISIONS, description="Decisions shown, the newest first.")
