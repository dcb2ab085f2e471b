"""The pages of the worker: each reads the state that it needs and answers in JSON. ``install`` registers them on the
web application.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from klais import __version__
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.devices.layout import ROW, Rows, id_words
from klais.core.fingerprint.typed import Typed
from klais.core.lane.counters import tokens_now
from klais.core.lane.state import Tally
from klais.core.wire.partition import partition_of
from klais.http.device_path import PARAMETER, device_of_path
from klais.http.errors import HttpError, json_response, reply, to_json
from klais.http.guard import Guard, wants_html
from klais.http.openapi import document, errors, schemas
from klais.http.query import Query, parameters, read_query
from klais.http.response_cache import Gate, ResponseCache
from klais.kafka.end_offsets import EndOffsets, topics_body
from klais.kafka.stats import clock_warning
from klais.kafka.topics import Topics
from klais.ui import openapi as ui
from klais.ui.incidents import PARAMETER as INCIDENT_ID
from klais.ui.incidents import IncidentsQuery, incident_body, incident_of_path, incidents_body
from klais.worker.controller import ControllerStatistics
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.readiness import Readiness
from klais.worker.report import Report
from klais.worker.rows import DeviceLimits, Part
from klais.worker.web import devices as listing
from klais.worker.web import frames, tap
from klais.worker.web.control import control_body
from klais.worker.web.dam import dam
from klais.worker.web.device import detail, type_of
from klais.worker.web.health import kafka_silent, lane_problems, lanes_body, no_lanes
from klais.worker.web.peers import FORWARDED, Peers
from klais.worker.web.queries import ControlQuery, DevicesQuery, ListQuery
from klais.worker.web.times import iso
from klais.worker.web.why import LaneNow, why


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The parts of one worker that the pages show; ``readiness`` returns what the worker waits for."""

    settings: Settings
    topics: Topics
    worker_id: str
    lanes: Lanes
    limits: LaneLimits
    control: ControlFollower | None
    report: Report
    offsets: EndOffsets
    peers: Peers
    readiness: Callable[[], Readiness]
    started_s: float
    controller: Callable[[], ControllerStatistics]
    topic_problems: Callable[[], tuple[str, ...]] = tuple
    gate: Gate = field(default_factory=Gate)
    answers: ResponseCache = field(default_factory=ResponseCache)

    def device_limits(self, device_id: bytes = b"") -> DeviceLimits:
        """The inputs of a device's present state; without an id, those of devices without their own limits."""
        rate, burst = self.limits.device(device_id)
        return DeviceLimits(rate, burst, frozenset(self.limits.blocked()), time.time_ns())


Page = Callable[[Views, web.Request], Awaitable[web.StreamResponse]]


async def index(views: Views, request: web.Request) -> web.StreamResponse:
    """``/``: the list of pages; browsers are redirected to the live page."""
    if wants_html(request):
        raise web.HTTPFound("/ui/")
    read_query(request.query, Query)
    return reply(
        {"worker": views.worker_id, "version": __version__, "pages": list(PAGES), "workers": views.peers.others()}
    )


async def devices(views: Views, request: web.Request) -> web.StreamResponse:
    """``/devices/``: a page of this worker's devices, or of all workers' with ``scope=all``."""
    asked = listing.read_devices_query(request.query, FORWARDED in request.headers)
    return await _listed(views, request, asked)


async def anomalies(views: Views, request: web.Request) -> web.StreamResponse:
    """``/anomalies/``: devices that were flagged at least once, the newest flag first."""
    asked = listing.read_anomalies_query(request.query, FORWARDED in request.headers)
    history = views.report.statistics().history
    flags = {"written": int(history[Tally.FLAGS_WRITTEN]), "suppressed": int(history[Tally.FLAGS_SUPPRESSED])}
    return await _listed(views, request, asked, flags=flags)


async def incidents(views: Views, request: web.Request) -> web.StreamResponse:
    """``/incidents/``: flags with a common cause, the newest incident first, and mutes; every worker has all."""
    query, control = read_query(request.query, IncidentsQuery), _control(views)

    async def make() -> bytes:
        body = await asyncio.to_thread(incidents_body, control.records(), query)
        return to_json({"worker": views.worker_id} | body)

    return json_response(await views.answers.get(request.path_qs, make))


async def incident(views: Views, request: web.Request) -> web.StreamResponse:
    """``/incidents/{incident_id}/``: one incident; closed ones are kept for a while."""
    incident_id = incident_of_path(request, 2)
    read_query(request.query, Query)
    return reply({"worker": views.worker_id} | incident_body(_control(views).records(), incident_id))


def _control(views: Views) -> ControlFollower:
    if views.control is None:
        raise HttpError(503, "no_control", "this worker does not follow klais_control yet")
    return views.control


async def _listed(
    views: Views, request: web.Request, asked: listing.Request, **sums: dict[str, int]
) -> web.StreamResponse:
    """A page of many devices, cached for one second."""

    async def make() -> bytes:
        limits, partitions = views.device_limits(), views.settings.partitions
        found = await listing.answer(
            views.lanes, views.peers, views.gate, limits, asked, views.worker_id, partitions, **sums
        )
        return to_json(found)

    return json_response(await views.answers.get(f"{asked.everywhere} {request.path_qs}", make))


def _row_here(views: Views, device_id: bytes, partition: int) -> tuple[Part, Rows, int]:
    """Lane, row (ROW [1], a copy) and state of a device of this worker; 404 if the lane does not know it."""
    lane = views.lanes.by_partition[partition]
    if lane.session is None or not lane.live.is_set():
        progress = f" ({lane.restoring.text})" if lane.restoring else ""
        text = f"the lane of partition {partition} is recovering{progress}: try again in a moment"
        raise HttpError(503, "lane_recovering", text, partition=partition)
    state = lane.session.state
    at = state.find(device_id)
    if at < 0:
        name = device_id.decode()
        raise HttpError(
            404, "unknown_device", f"no frame of device {name!r} was received", device_id=name, partition=partition
        )
    row = state.rows[at : at + 1].copy()
    return Part(partition, state, row, 1), row, at


def _unseen_device(views: Views, device_id: bytes, partition: int, limits: DeviceLimits) -> tuple[Part, Rows]:
    """A row (ROW [1]) of a device in its lane without any admitted frame."""
    lane = views.lanes.by_partition[partition]
    assert lane.session is not None
    state = lane.session.state
    row = np.zeros(1, ROW)
    row["id"], row["id_size"] = id_words(device_id), len(device_id)
    row["tokens"], row["refilled_ns"] = limits.burst, limits.now_ns
    return Part(partition, state, row, 1), row


async def device(views: Views, request: web.Request) -> web.StreamResponse:
    """``/devices/{device_id}/``: its row, from the worker that owns it."""
    device_id = device_of_path(request, 2)
    read_query(request.query, Query)
    partition = partition_of(device_id, views.settings.partitions)
    if partition not in views.lanes.by_partition:
        return await views.peers.forward(request, partition)
    part, row, at = _row_here(views, device_id, partition)
    limits = views.device_limits(device_id)
    position = listing.state_of_row(part, device_id, limits)
    names, detector = part.state.path_names, part.state.detector
    features = detector.features(at) if detector is not None else ()
    facts = detector.facts(at, device_id) if isinstance(detector, Typed) else None
    body = detail(row[0], partition, position, limits, names, features) | {"type": type_of(facts)}
    return reply({"worker": views.worker_id} | body)


async def device_why(views: Views, request: web.Request) -> web.StreamResponse:
    """``/devices/{device_id}/why/``: the rule that acts on its frames now."""
    device_id = device_of_path(request, 2)
    read_query(request.query, Query)
    partition = partition_of(device_id, views.settings.partitions)
    if partition not in views.lanes.by_partition:
        return await views.peers.forward(request, partition)
    limits = views.device_limits(device_id)
    try:
        part, row, _ = _row_here(views, device_id, partition)
    except HttpError as error:
        if error.status != 404 or device_id not in limits.blocked:
            raise
        part, row = _unseen_device(views, device_id, partition, limits)  # a blocked device may have no row
    share, bounds = views.limits.of_lane(partition)
    state = part.state
    low, high = id_words(device_id)
    mine, ahead, before_new = state.queue.waiting_of(low, high)
    tokens = tokens_now(state, share, limits.now_ns)
    lane = LaneNow(share.rate, tokens, state.queue.depth, bounds.queue_limit, mine, ahead, before_new)
    control = views.control.device(device_id) if views.control else None
    return reply({"worker": views.worker_id} | why(row[0], partition, limits, lane, control, state.path_names))


async def dam_page(views: Views, request: web.Request) -> web.StreamResponse:
    """``/dam/``: the frames that each lane received, passed, holds and dropped."""
    read_query(request.query, Query)
    return reply(dam(views.lanes.by_partition, views.limits, views.worker_id))


async def control_page(views: Views, request: web.Request) -> web.StreamResponse:
    """``/control/``: the leader, the limits in force and their reasons, overrides, the newest decisions."""
    max_count = read_query(request.query, ControlQuery).limit
    body = control_body(views.settings, views.limits, _control(views), views.controller(), max_count)
    return reply({"worker": views.worker_id} | body)


async def topics(views: Views, request: web.Request) -> web.StreamResponse:
    """``/topics/``: end offsets, rates, and the lag of each group."""
    read_query(request.query, Query)

    async def make() -> bytes:
        positions = {p: state.next_raw for p, state in listing.live_states(views.lanes)}
        body = await asyncio.to_thread(topics_body, views.offsets, views.topics, positions)
        lag_s = views.report.statistics().lag_s
        body["lanes"]["lag_s"] = {str(p): round(seconds, 3) for p, seconds in lag_s.items()}
        return to_json({"worker": views.worker_id} | body)

    return json_response(await views.answers.get("/topics/", make))


async def health(views: Views, request: web.Request) -> web.StreamResponse:
    """``/health``: 200 while the process works, 503 if a lane has failed or was fenced.

    A broker that does not answer is listed as a problem with status 200, because restarting this process does not help.
    """
    each = {partition: lane.statistics() for partition, lane in sorted(views.lanes.by_partition.items())}
    states = dict(listing.live_states(views.lanes))
    failed = any(not of_lane.live and of_lane.failure for of_lane in each.values())
    problems = [text for p, of_lane in each.items() for text in lane_problems(p, of_lane, states.get(p))]
    found, forecast = views.readiness(), views.report.controller()
    problems += [
        no_lanes(views.lanes.empty_s, found.standby, found.waiting_for),
        kafka_silent(views.offsets.failing_s()),
    ]
    problems += [*views.topic_problems(), *forecast.problems, *views.report.type_problems]
    problems.append((views.control.problem() if views.control is not None else None) or "")
    problems = [text for text in problems if text]
    warnings = [*forecast.warnings, clock_warning(forecast.clock_offset_s), views.report.missed_target]
    body = {
        "status": "degraded" if problems else "ok",
        "problems": problems,
        "warnings": [text for text in warnings if text],
        "worker": views.worker_id,
        "version": __version__,
        "uptime_s": round(time.monotonic() - views.started_s, 3),
        "at": iso(time.time_ns()),
        "lanes": lanes_body(each),
    }
    return reply(body, 503 if failed else 200)


async def livez(views: Views, request: web.Request) -> web.StreamResponse:
    """``/livez``: 200 while the event loop runs, which lanes and pages share. Kafka and recovering lanes have no
    influence.
    """
    return reply({"live": True, "worker": views.worker_id, "uptime_s": round(time.monotonic() - views.started_s, 3)})


async def readyz(views: Views, request: web.Request) -> web.StreamResponse:
    """``/readyz``: 200 if all lanes of the worker are live, or if it has none because others run all (``standby``).

    Otherwise 503 with the conditions that are not yet met.
    """
    found = views.readiness()
    waits = list(found.waiting_for)
    partitions = sorted(views.lanes.by_partition)
    body = {"ready": not waits, "waiting_for": waits, "worker": views.worker_id, "partitions": partitions}
    body |= {"standby": found.standby} if found.standby else {}
    return reply(body, 503 if waits else 200, {"Retry-After": "1"} if waits else None)


async def metrics(views: Views, request: web.Request) -> web.StreamResponse:
    """``/metrics``: for Prometheus."""
    body, content_type = views.report.metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def openapi(views: Views, request: web.Request) -> web.StreamResponse:
    """``/openapi.json``: the OpenAPI document of these pages."""
    return reply(document_of_pages())


PAGES: dict[str, Page] = {
    "/": index,
    "/devices/": devices,
    "/devices/{device_id}/": device,
    "/devices/{device_id}/why/": device_why,
    "/dam/": dam_page,
    "/control/": control_page,
    "/anomalies/": anomalies,
    "/incidents/": incidents,
    "/incidents/{incident_id}/": incident,
    "/topics/": topics,
    "/livez": livez,
    "/readyz": readyz,
    "/health": health,
    "/metrics": metrics,
    "/openapi.json": openapi,
}
QUERIES: dict[Page, type[Query]] = {
    devices: DevicesQuery,
    anomalies: ListQuery,
    incidents: IncidentsQuery,
    control_page: ControlQuery,
}


def document_of_pages() -> dict[str, Any]:
    """The OpenAPI document of the pages."""
    paths: dict[str, Any] = {}
    for path, page in PAGES.items():
        text = "text/plain" if page is metrics else "application/json"
        good = {
            "description": "Now.",
            "content": {text: {"schema": {"type": "string" if page is metrics else "object"}}},
        }
        own = [own for own in (PARAMETER, INCIDENT_ID) if f"{{{own['name']}}}" in path]
        paths[path] = {
            "get": {
                "operationId": page.__name__,
                "summary": (page.__doc__ or "").strip().splitlines()[0].partition(": ")[2],
                "parameters": own + parameters(QUERIES.get(page, Query)),
                "responses": {"200": good} | errors("400", "401", "403", "421", "429") | _more_errors(path, page, good),
            }
        }
    text = "State of a KLAIS worker: devices, lanes, limits, topics; and changes by operators, under /api/v1."
    models = schemas(requests=ui.MODELS, answers=ui.ANSWERS)
    return document("KLAIS worker", __version__, text, paths | ui.paths() | tap.paths() | frames.paths(), models)


def _more_errors(path: str, page: Page, good: dict[str, Any]) -> dict[str, Any]:
    """Other responses of a page."""
    if page in (health, readyz):  # their 503 describes the problem, in their own format
        return {"503": good | {"description": "There is a problem; the body describes it."}}
    more = errors("404") if "{" in path else {}
    return more | (errors("503") if page not in (index, livez, metrics, openapi) else {})


def install(app: web.Application, views: Views, guard: Guard) -> None:
    """Register all pages on an application (Faust's, before its own ``/``), behind the guard. Missing or repeated
    slashes at the end are fixed by a redirect.
    """
    guard.install(app)
    app.middlewares.append(web.normalize_path_middleware(append_slash=True))
    app.middlewares.append(web.normalize_path_middleware(append_slash=False, remove_slash=True))
    for path, page in PAGES.items():
        app.router.add_get(path, _handler(page, views), name=f"klais:{page.__name__}")


def _handler(page: Page, views: Views) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await page(views, request)

    return handle
