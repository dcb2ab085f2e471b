"""``/devices/`` and ``/anomalies/``: a page of many devices, of this worker or of all workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import numpy as np

from klais.core.devices.layout import ROW, Rows
from klais.core.lane.state import LaneState
from klais.http.errors import HttpError
from klais.http.query import read_query
from klais.http.response_cache import Gate
from klais.telemetry.snapshots import STATES
from klais.text import escape
from klais.worker.rows import (
    ASCENDING,
    BLOCKED,
    Cursor,
    DeviceLimits,
    Found,
    PageRequest,
    Part,
    find_page,
    id_columns,
    states_of,
)
from klais.worker.web.device import newest_flag, summaries
from klais.worker.web.peers import Peers
from klais.worker.web.queries import (
    MAX_MERGED,
    DevicesQuery,
    ForwardedDevicesQuery,
    ForwardedListQuery,
    ListQuery,
    read_cursor,
    sort_of_cursor,
    write_cursor,
)

FILTERS = ("q", "state", "after", "dropped", "silent_s", "silent_intervals", "queued")
SEARCHES = 3  # as long as a lane gives away rows that were found
Describe = Callable[[Rows, Found, DeviceLimits], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request that can be forwarded: ``path``, and ``params`` without page, size and scope."""

    path: str
    params: dict[str, str]
    page: int
    size: int
    everywhere: bool
    ask: PageRequest
    describe: Describe


def _devices(rows: Rows, found: Found, limits: DeviceLimits) -> list[dict[str, Any]]:
    return summaries(rows, [part.partition for part, _, _ in found.page], [state for _, _, state in found.page], limits)


def _anomalies(rows: Rows, found: Found, limits: DeviceLimits) -> list[dict[str, Any]]:
    keys = ("device_id", "partition", "state", "score", "flags", "flagged_at")
    return [
        {key: line[key] for key in keys} | {"flag": newest_flag(row, part.state.path_names)}
        for line, row, (part, _, _) in zip(_devices(rows, found, limits), rows, found.page, strict=True)
    ]


def _is_everywhere(query: ListQuery, forwarded: bool) -> bool:
    """Whether the request is for the devices of all workers; a forwarded request is not forwarded again."""
    everywhere = query.scope == "all" and not forwarded
    if everywhere and query.after is None and query.page * query.size > MAX_MERGED:
        text = f"page: with scope=all page x size is at most {MAX_MERGED}; use after= instead"
        raise HttpError(400, "bad_parameter", text, parameter="page", maximum=MAX_MERGED // query.size)
    return everywhere


def read_devices_query(given: Mapping[str, str], forwarded: bool) -> Request:
    """Read the parameters of ``/devices/``, see :class:`klais.worker.web.queries.DevicesQuery`.

    Raises
    ------
    HttpError
        400, with the parameter and its valid values.
    """
    query = read_query(given, ForwardedDevicesQuery if forwarded else DevicesQuery)
    everywhere = _is_everywhere(query, forwarded)
    order = query.order or ("asc" if query.sort in ASCENDING else "desc")
    position = STATES.index(query.state) if query.state is not None else None
    ask = PageRequest(
        query.sort,
        order == "desc",
        *_places(query),
        _part_of_id(query),
        position,
        after=_after(query, query.sort),
        dropped=query.dropped is not None,
        silent_ns=None if query.silent_s is None else query.silent_s * 1_000_000_000,
        silent_intervals=query.silent_intervals,
        queued=query.queued is not None,
    )
    params: dict[str, str] = {"sort": query.sort, "order": order}
    params |= {name: given[name] for name in FILTERS if name in given}
    return Request("/devices/", params, query.page, query.size, everywhere, ask, _devices)


def read_anomalies_query(given: Mapping[str, str], forwarded: bool) -> Request:
    """Read the parameters of ``/anomalies/``, see :class:`klais.worker.web.queries.ListQuery`; errors as above."""
    query = read_query(given, ForwardedListQuery if forwarded else ListQuery)
    everywhere = _is_everywhere(query, forwarded)
    after = _after(query, "flagged_at")
    ask = PageRequest("flagged_at", True, *_places(query), _part_of_id(query), flagged_ever=True, after=after)
    params = {name: given[name] for name in ("q", "after") if name in given}
    return Request("/anomalies/", params, query.page, query.size, everywhere, ask, _anomalies)


def _places(query: ListQuery) -> tuple[int, int]:
    """Begin and end of a page, counted from the first device or the cursor."""
    begin = (query.page - 1) * query.size if query.after is None else 0
    return begin, begin + query.size


def _after(query: ListQuery, sort: str) -> Cursor | None:
    if query.after is None:
        return None
    of = sort_of_cursor(query.after)
    if of not in (sort, None):
        text = f"after: it is a place in a list sorted by {escape(of)[:20]}, this one is sorted by {sort}"
        raise HttpError(400, "bad_parameter", text, parameter="after")
    return read_cursor(query.after)


def _part_of_id(query: ListQuery) -> bytes:
    return (query.q or "").encode(errors="replace")


def live_states(lanes: Any) -> list[tuple[int, LaneState]]:
    """(partition, state) of the live lanes."""
    return [
        (partition, lane.session.state)
        for partition, lane in sorted(lanes.by_partition.items())
        if lane.session is not None and lane.live.is_set() and not lane.closed
    ]


def state_of_row(part: Part, device_id: bytes, limits: DeviceLimits) -> int:
    """Index into ``STATES`` of the one device in ``part`` (ROW [1])."""
    if device_id in limits.blocked:
        return BLOCKED
    alone = DeviceLimits(limits.rate, limits.burst, frozenset(), limits.now_ns)
    return int(states_of(part, alone)[0])


async def answer(
    lanes: Any,
    peers: Peers,
    gate: Gate,
    limits: DeviceLimits,
    asked: Request,
    worker_id: str,
    partitions: int,
    **sums: dict[str, int],
) -> dict[str, Any]:
    """The body of a page; the fields ``sums`` are added up over the workers.

    The columns are searched in a thread, in parallel to the lanes, with a limit on concurrent requests, so that such
    requests never use all threads. The rows are read here, between two steps.

    Raises
    ------
    HttpError
        503: too many such requests wait.
    """
    ask = asked.ask
    if asked.everywhere:  # each worker returns its items up to the end of the page; the page is in the merged items
        ask = replace(ask, begin=0)
    parts, found, rows, omitted = await _find(lanes, gate, ask, limits)
    body: dict[str, Any] = {
        "worker": worker_id,
        "scope": "all" if asked.everywhere else "worker",
        "partitions": [part.partition for part in parts],
        "page": asked.page,
        "size": asked.size,
        "sort": ask.sort,
        "order": "desc" if ask.descending else "asc",
        "total": found.matching,
        "devices_by_state": found.by_state,
        **sums,
        "workers": peers.others(),
        "items": [
            item | {"place": write_cursor(place, ask.sort)}
            for item, place in zip(asked.describe(rows, found, limits), found.places, strict=True)
        ],
    }
    if asked.everywhere:
        await _merge(body, peers, asked, ("devices_by_state", *sums))
    expected = range(partitions) if asked.everywhere else lanes.by_partition
    body["partitions_missing"] = sorted(set(expected) - set(body["partitions"]))
    items = body["items"]
    body["next"] = items[-1]["place"] if items and len(items) + omitted >= asked.size else None
    return body


async def _find(lanes: Any, gate: Gate, ask: PageRequest, limits: DeviceLimits) -> tuple[list[Part], Found, Rows, int]:
    """The page that ``ask`` selects, its rows (ROW [k], copies), and how many devices of it are omitted.

    A lane may forget a device after the search, and give its row to another device. Then the search is repeated. After
    the last search the page omits such a device: it never shows one device in the place of another.
    """
    for _ in range(SEARCHES):
        parts = [Part.of(partition, state, ask.queued) for partition, state in live_states(lanes)]
        found = await gate.run(partial(find_page, parts, ask, limits))
        rows = np.empty(len(found.page), ROW)
        for i, (part, row, _) in enumerate(found.page):
            rows[i] = part.state.rows[row]
        wanted = np.array([place.words for place in found.places], np.uint64).reshape(-1, 2)
        same = np.flatnonzero((id_columns(rows) == wanted).all(axis=1)).tolist()
        if len(same) == len(rows):
            break
    page, places = [found.page[i] for i in same], [found.places[i] for i in same]
    return parts, replace(found, page=page, places=places), rows[same], len(rows) - len(same)


async def _merge(body: dict[str, Any], peers: Peers, asked: Request, sums: tuple[str, ...]) -> None:
    params = asked.params | {"page": "1", "size": str(asked.ask.end)}
    answers = await peers.gather(f"{asked.path}?{urlencode(params)}")
    items, missing = list(body["items"]), []
    for url, other in answers.items():
        try:
            theirs = other if other is None else _part_of(other, body, sums, asked.ask)
        except (KeyError, TypeError, ValueError, AttributeError):
            theirs = None  # it is not a worker of this version
        if theirs is None:
            missing.append(url)
            continue
        items += theirs.pop("items")
        body |= theirs
    items.sort(key=lambda item: _in_order(read_cursor(item["place"]), asked.ask))
    body["items"] = items[asked.ask.begin : asked.ask.end]
    body["partitions"].sort()
    body["workers_missing"] = missing


def _part_of(other: dict[str, Any], body: dict[str, Any], sums: tuple[str, ...], ask: PageRequest) -> dict[str, Any]:
    """Add another worker's sums to ``body``, and return its items."""
    for item in other["items"]:
        _in_order(read_cursor(item["place"]), ask)
    out = {name: {key: n + int(other[name].get(key, 0)) for key, n in body[name].items()} for name in sums}
    partitions = sorted(int(p) for p in [*body["partitions"], *other["partitions"]])
    return out | {"total": body["total"] + int(other["total"]), "partitions": partitions, "items": other["items"]}


def _in_order(place: Cursor, ask: PageRequest) -> tuple[float | int, ...]:
    """A key that sorts the items of all workers in the order in which each worker sorts its own."""
    if ask.sort == "device_id":
        return tuple(-word if ask.descending else word for word in place.words)
    return (-place.key if ask.descending else place.key, *place.words)
