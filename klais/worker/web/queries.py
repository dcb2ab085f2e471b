"""The query parameters of the worker's pages."""

import base64
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field

from klais.control.setpoints import DECISIONS
from klais.core.wire.constants import ID_SIZE
from klais.http.query import Query, Whole
from klais.worker.rows import Cursor

MAX_ROWS = 500  # rows of one page
MAX_MERGED = 1000  # rows requested from each worker if pages of all workers are merged
MAX_PAGES = 200  # up to row 100,000: a later page would sort all devices

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


def write_cursor(place: Cursor, sort: str = "") -> str:
    """Encode a place in the table of devices, sorted by ``sort``, as text for the next request."""
    parts = [place.key, *place.words, *([sort] if sort else [])]
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Decode the text of :func:`write_cursor`.

    Raises
    ------
    ValueError
        If the text is not a cursor.
    """
    return _read(text)[0]


def sort_of_cursor(text: str) -> str | None:
    """The sort column of the list that a cursor is of; None = unknown (from an earlier version)."""
    return _read(text)[1]


def _read(text: str) -> tuple[Cursor, str | None]:
    try:
        key, first, second, *rest = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        good = isinstance(key, int | float) and all(
            isinstance(word, int) and 0 <= word < 1 << 64 for word in (first, second)
        )
        good &= len(rest) <= 1 and all(isinstance(sort, str) for sort in rest)
    except (ValueError, TypeError):
        good = False
    if not good:
        raise ValueError("must be `next` of the previous page")
    return Cursor(key, (first, second)), rest[0] if rest else None


def _is_cursor(text: str) -> str:
    read_cursor(text)
    return text


class ListQuery(Query):
    """Query of a page of many devices."""

    page: Whole = Field(default=1, ge=1, le=MAX_PAGES, description="Page, from 1.")
    size: Whole = Field(default=100, ge=1, le=MAX_ROWS, description="Devices per page.")
    scope: Literal["worker", "all"] = Field(
        default="worker",
        description=f"Devices of this worker, or of all workers (then page x size is at most {MAX_MERGED}).",
    )
    q: PartOfId | None = Field(default=None, description="Part of the device id.")
    after: Annotated[str, AfterValidator(_is_cursor)] | None = Field(
        default=None, max_length=120, description="The page after this place: `next` of the previous page."
    )


class DevicesQuery(ListQuery):
    """Of ``/devices/``."""

    sort: Sort = Field(default="last_seen", description="Sort column.")
    order: Literal["asc", "desc"] | None = Field(
        default=None, description="Default: ids, partitions and first_seen ascending, all others descending."
    )
    state: State | None = Field(default=None, description="Only devices in this state.")
    dropped: Literal["true"] | None = Field(default=None, description="Only devices with dropped frames.")
    silent_s: Whole | None = Field(
        default=None, ge=0, le=10**9, description="Only devices without a frame for this many seconds."
    )
    silent_intervals: Whole | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Only devices without a frame for more than this many of their own mean intervals.",
    )
    queued: Literal["true"] | None = Field(default=None, description="Only devices with frames in the queue.")


class _Forwarded(Query):
    size: Whole = Field(default=100, ge=1, le=MAX_MERGED)


class ForwardedListQuery(_Forwarded, ListQuery):
    """The same, from another worker that merges the responses."""


class ForwardedDevicesQuery(_Forwarded, DevicesQuery):
    """The same, from another worker that merges the responses."""


class ControlQuery(Query):
    """Of ``/control/``."""

    limit: Whole = Field(default=DECISIONS, ge=0, le=DECISIONS, description="Number of decisions shown, newest first.")
