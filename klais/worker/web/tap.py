"""``/api/v1/tap``: a sample of the frames that this worker decides, as server-sent events."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AfterValidator, Field

from klais.core.wire.constants import ID_RULE, is_device_id
from klais.http.errors import HttpError
from klais.http.guard import Guard
from klais.http.openapi import errors
from klais.http.query import Query, Whole, parameters, read_query
from klais.http.session import COOKIE
from klais.telemetry.log import get
from klais.ui.stream import Hub
from klais.worker.tap import MOST_SAMPLE, MOST_TAPS, REASON_NAMES, Filter, Taps

log = get("klais.worker.web.tap")

PATH = "/api/v1/tap"
VIEWERS = 8  # of one tap
SEND_BYTES = 1 << 20  # for a viewer: some seconds of frames with their payloads


def _id(text: str) -> str:
    if not is_device_id(text.encode(errors="replace")):
        raise ValueError(ID_RULE)
    return text


def _reason(text: str) -> str:
    if text not in REASON_NAMES:
        raise ValueError(f"must be one of {', '.join(REASON_NAMES)}")
    return text


class TapQuery(Query):
    """Of ``/api/v1/tap``."""

    device_id: Annotated[str, AfterValidator(_id)] | None = Field(default=None, description="Only this device.")
    prefix: Annotated[str, AfterValidator(_id)] | None = Field(default=None, description="Ids that begin so.")
    verdict: Literal["passed", "queued", "released", "dropped", "malformed", "flagged"] | None = Field(
        default=None, description="What became of the frames; dropped includes malformed."
    )
    reason: Annotated[str, AfterValidator(_reason)] | None = Field(
        default=None, description="Why they were dropped.", json_schema_extra={"enum": list(REASON_NAMES)}
    )
    sample: Whole = Field(default=20, ge=1, le=MOST_SAMPLE, description="At most so many frames a second.")

    def filter(self) -> Filter:
        """The same for the lanes."""
        texts = (self.device_id or "").encode(), (self.prefix or "").encode()
        return Filter(*texts, self.verdict or "", self.reason or "", self.sample)


class TapPage:
    """Serves taps. Payloads are private: a tap needs what a change needs (docs/security.md)."""

    def __init__(self, taps: Taps, guard: Guard) -> None:
        self._taps, self._guard = taps, guard
        self._hubs: dict[Filter, tuple[Any, Hub]] = {}
        self._closed = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with the stream of a tap.

        Raises
        ------
        HttpError
            401: no token for changes. 503: too many taps, or the worker stops.
        """
        if not self._guard.access.may_change(request.headers.get("Authorization"), request.cookies.get(COOKIE)):
            raise HttpError(
                401, "unauthorized", "a tap shows payloads: it needs the token for changes, KLAIS_API_TOKEN"
            )
        wanted = read_query(request.query, TapQuery).filter()
        tap = None if self._closed else self._taps.get(wanted)
        if tap is None:
            text = "this worker stops" if self._closed else f"{MOST_TAPS} taps are open on this worker: end one"
            raise HttpError(503, "stopping" if self._closed else "too_many_taps", text)
        known = self._hubs.get(wanted)
        if known is None or known[0] is not tap:
            self._hubs = {key: found for key, found in self._hubs.items() if key in self._taps.open}
            known = self._hubs[wanted] = tap, Hub(tap.event, VIEWERS, SEND_BYTES)
        log.info("tap_opened", client=str(self._guard.client(request) or ""), device_id=wanted.device_id.decode(),
                 prefix=wanted.prefix.decode(), verdict=wanted.verdict, reason=wanted.reason)  # fmt: skip
        return await known[1].serve(request)

    async def close(self, *_: object) -> None:
        """End all taps: an open one must not hold up the end of the worker."""
        self._closed = True
        for _, hub in self._hubs.values():
            await hub.close()


def install(app: web.Application, taps: Taps, guard: Guard) -> None:
    """Put ``/api/v1/tap`` on a worker's web application, before it starts."""
    page = TapPage(taps, guard)
    app.router.add_get(PATH, page.serve)
    app.on_shutdown.append(page.close)


def paths() -> dict[str, Any]:
    """The path in the OpenAPI document."""
    stream = {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {
        PATH: {
            "get": {
                "operationId": "tap",
                "summary": "A sample of the frames decided, once a second, as server-sent events.",
                "parameters": parameters(TapQuery),
                "responses": {"200": stream} | errors("400", "401", "403", "421", "429", "503"),
            }
        }
    }
