"""``/api/v1/frames``: the sample of a tap in one answer, for the live page.

A page asks once a second, so it needs no second connection of the browser, and a device's frames come from the worker
that owns it. Equal requests of one second share one answer. A page that stops asking costs nothing after 30 s.
"""

from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import AfterValidator, Field

from klais.core.wire.partition import partition_of
from klais.http.errors import json_response, to_json
from klais.http.guard import Guard
from klais.http.openapi import errors
from klais.http.query import Query, Whole, parameters, read_query
from klais.http.response_cache import ResponseCache
from klais.http.session import COOKIE, sign
from klais.http.tap import known_id, need_change, too_many_taps
from klais.system.clock import now_ms
from klais.telemetry.log import get
from klais.worker.lanes import Lanes
from klais.worker.tap import Filter, Taps
from klais.worker.web.peers import Peers

log = get("klais.worker.web.frames")

PATH = "/api/v1/frames"
MAX_FRAMES = 20
FORWARD_S = 60.0


class FramesQuery(Query):
    """Of ``/api/v1/frames``."""

    device_id: Annotated[str, AfterValidator(known_id)] | None = Field(
        default=None,
        description="Only this device, whichever worker owns it; default: all devices of this worker's lanes.",
    )
    limit: Whole = Field(default=6, ge=1, le=MAX_FRAMES, description="Maximum number of frames.")


class PageFilter(Filter):
    """A filter of this page: never equal to that of a stream, so that no stream gets only a part of its sample."""

    __slots__ = ()


class Frames:
    """Answers with the frames of the last second. Payloads are private: it needs what a change needs.

    Parameters
    ----------
    taps : Taps
        Those of this worker.
    guard : Guard
        Knows who may change something.
    worker_id : str
        Of this worker.
    partitions : int
        Of ``klais_raw``.
    lanes : Lanes
        Those of this worker.
    peers : Peers
        The other workers.
    """

    def __init__(self, taps: Taps, guard: Guard, worker_id: str, partitions: int, lanes: Lanes, peers: Peers) -> None:
        self._taps, self._guard, self._worker_id = taps, guard, worker_id
        self._partitions, self._lanes, self._peers = partitions, lanes, peers
        self._answers = ResponseCache()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with frames.

        Raises
        ------
        HttpError
            401: no token for changes. 503: too many taps, or the owner of the device does not answer.
        """
        need_change(self._guard, request)
        asked = read_query(request.query, FramesQuery)
        device_id = (asked.device_id or "").encode()
        if device_id:
            partition = partition_of(device_id, self._partitions)
            if partition not in self._lanes.by_partition:
                return await self._peers.forward(request, partition, self._session())
        wanted = PageFilter(device_id=device_id, sample=asked.limit)

        async def make() -> bytes:
            opened = wanted not in self._taps.open
            tap = self._taps.get(wanted)
            if tap is None:
                raise too_many_taps()
            if opened:
                client = str(self._guard.client(request) or "")
                log.info("tap_opened", client=client, page=True, device_id=asked.device_id or "")
            second, body = tap.event()
            return to_json({"worker": self._worker_id, "at_ms": now_ms(), "second": second} | orjson.loads(body))

        return json_response(await self._answers.get(f"{asked.limit} {asked.device_id}", make))

    def _session(self) -> dict[str, str]:
        """The header that lets this worker read payloads of another one; empty where no token is needed."""
        known = self._guard.access.change
        return {"Cookie": f"{COOKIE}={sign(known[0], 'worker', for_s=FORWARD_S)}"} if known else {}


def install(app: web.Application, frames: Frames) -> None:
    """Put ``/api/v1/frames`` on a worker's web application, before it starts."""
    app.router.add_get(PATH, frames.serve)


def paths() -> dict[str, Any]:
    """The path in the OpenAPI document."""
    good = {"description": "Now.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        PATH: {
            "get": {
                "operationId": "frames",
                "summary": "A few of the frames decided since the last answer, with payloads; ask once a second.",
                "parameters": parameters(FramesQuery),
                "responses": {"200": good} | errors("400", "401", "403", "421", "429", "503"),
            }
        }
    }
