"""``/devices/`` and ``/anomalies/``: a page of many devices, of this worker or of all of them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from klais.core.devices.layout import ROW, Rows
from klais.core.lane.state import LaneState
from klais.core.wire.constants import ID_SIZE
from klais.worker.rows import ASCENDING, BLOCKED, SORTS, STATES, Ask, DeviceLimits, Found, Part, find_page, states_of
from klais.worker.web.device import newest_flag, summaries
from klais.worker.web.peers import Peers
from klais.worker.web.server import Query, ViewError

MOST_ROWS = 500  # of one page
MOST_MERGED = 1000  # rows that each worker is asked for when pages of all workers are merged
Describe = Callable[[Rows, Found, DeviceLimits], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, ready to be passed on: ``path`` and ``params`` without page, size and scope."""

    path: str
    params: dict[str, str]
    page: int
    size: int
    everywhere: bool
    ask: Ask
    describe: Describe


def _devices(rows: Rows, found: Found, limits: DeviceLimits) -> list[dict[str, Any]]:
    return summaries(rows, [part.partition for part, _, _ in found.page], [state for _, _, state in found.page], limits)


def _anomalies(rows: Rows, found: Found, limits: DeviceLimits) -> list[dict[str, Any]]:
    keys = ("device_id", "partition", "state", "score", "flags", "flagged_at")
    return [
        {key: line[key] for key in keys} | {"flag": newest_flag(row, part.state.path_names)}
        for line, row, (part, _, _) in zip(_devices(rows, found, limits), rows, found.page, strict=True)
    ]


def _paging(query: Query, forwarded: bool) -> tuple[int, int, bool]:
    page = query.integer("page", 1, 1, 10_000_000)
    size = query.integer("size", 100, 1, MOST_MERGED if forwarded else MOST_ROWS)
    everywhere = query.choice("scope", "worker", ("worker", "all")) == "all" and not forwarded
    if everywhere and page * size > MOST_MERGED:
        text = f"page: with scope=all page x size may be at most {MOST_MERGED}; narrow it with q or state, or ask each worker"
        raise ViewError(400, "bad_parameter", text, parameter="page", maximum=MOST_MERGED // size)
    return page, size, everywhere


def read_query(given: Mapping[str, str], partitions: int, forwarded: bool) -> Request:
    """The parameters of ``/devices/``: page, size, sort, order, q, state, scope.

    Raises
    ------
    ViewError
        400, with the parameter and what it may be.
    """
    query = Query(given)
    page, size, everywhere = _paging(query, forwarded)
    sort = str(query.choice("sort", "last_seen", tuple(SORTS)))
    order = query.choice("order", "asc" if sort in ASCENDING else "desc", ("asc", "desc"))
    part_of_id = query.text("q", ID_SIZE)
    state = query.choice("state", None, STATES)
    query.done()
    begin = (page - 1) * size
    position = STATES.index(state) if state is not None else None
    ask = Ask(sort, order == "desc", begin, begin + size, part_of_id, position)
    params = {"sort": sort, "order": str(order)}
    params |= {name: given[name] for name in ("q", "state") if name in given}
    return Request("/devices/", params, page, size, everywhere, ask, _devices)


def read_anomaly_query(given: Mapping[str, str], forwarded: bool) -> Request:
    """The parameters of ``/anomalies/``: page, size, q, scope."""
    query = Query(given)
    page, size, everywhere = _paging(query, forwarded)
    part_of_id = query.text("q", ID_SIZE)
    query.done()
    begin = (page - 1) * size
    ask = Ask("flagged_at", True, begin, begin + size, part_of_id, flagged_ever=True)
    params = {"q": given["q"]} if "q" in given else {}
    return Request("/anomalies/", params, page, size, everywhere, ask, _anomalies)


def live_states(lanes: Any) -> list[tuple[int, LaneState]]:
    """(partition, state) of the lanes that are live."""
    return [
        (partition, lane.it.state)
        for partition, lane in sorted(lanes.by_partition.items())
        if lane.it is not None and lane.live.is_set() and not lane.closed
    ]


def state_of_row(part: Part, device_id: bytes, limits: DeviceLimits) -> int:
    """Position in ``STATES`` of the one device in ``part`` (ROW [1])."""
    if device_id in limits.blocked:
        return BLOCKED
    alone = DeviceLimits(limits.rate, limits.burst, frozenset(), limits.now_ns)
    return int(states_of(part, alone)[0])


async def answer(
    lanes: Any, peers: Peers, limits: DeviceLimits, asked: Request, worker_id: str, **sums: dict[str, int]
) -> dict[str, Any]:
    """The body of a page; ``sums`` go into it and are added up over the workers.

    The columns are looked through in a thread, so that the lanes go on; the rows are read here, between two steps.
    """
    ask = asked.ask
    if asked.everywhere:  # each worker gives its head, up to the end of the page: the page is in the merged heads
        ask = Ask(ask.sort, ask.descending, 0, ask.end, ask.part_of_id, ask.state, ask.flagged_ever)
    parts = [Part.of(partition, state) for partition, state in live_states(lanes)]
    found = await asyncio.to_thread(find_page, parts, ask, limits)
    rows = np.empty(len(found.page), ROW)
    for i, (part, row, _) in enumerate(found.page):
        rows[i] = part.state.rows[row]
    body = {
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
        "items": asked.describe(rows, found, limits),
    }
    return await _merge(body, peers, asked, ("devices_by_state", *sums)) if asked.everywhere else body


async def _merge(body: dict[str, Any], peers: Peers, asked: Request, sums: tuple[str, ...]) -> dict[str, Any]:
    params = asked.params | {"page": "1", "size": str(asked.ask.end)}
    answers = await peers.gather(f"{asked.path}?{urlencode(params)}")
    items, missing = list(body["items"]), []
    for url, other in answers.items():
        if other is None:
            missing.append(url)
            continue
        items += other["items"]
        body["total"] += other["total"]
        body["partitions"] += other["partitions"]
        for name in sums:
            body[name] = {key: count + other[name].get(key, 0) for key, count in body[name].items()}
    items.sort(key=lambda item: _sortable(item[asked.ask.sort], asked.ask.sort), reverse=asked.ask.descending)
    body["items"] = items[asked.ask.begin : asked.ask.end]
    body["partitions"].sort()
    body["workers_missing"] = missing
    return body


def _sortable(value: Any, sort: str) -> Any:
    """As the columns are ordered: states by urgency, ids by their bytes, no time before all times."""
    if sort == "state":
        return STATES.index(value)
    if sort == "device_id":
        return value.encode()
    return value if value is not None else ""
