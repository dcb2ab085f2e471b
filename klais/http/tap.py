"""A page that serves taps as server-sent events, at a worker and at an edge."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from aiohttp import web
from pydantic import AfterValidator, Field, model_validator

from klais.core.wire.constants import ID_RULE, is_device_id
from klais.http.errors import HttpError
from klais.http.guard import Guard
from klais.http.openapi import errors
from klais.http.query import Query, Whole, parameters, read_query
from klais.http.session import COOKIE
from klais.http.stream import Hub
from klais.telemetry.log import get
from klais.telemetry.sample import MAX_TAPS, OpenTaps, Selection
from klais.telemetry.tap_choices import MAX_SAMPLE, contradiction

log = get("klais.http.tap")

VIEWERS = 8  # of one tap
SEND_BYTES = 1 << 20  # for a viewer: some seconds of frames with their payloads


def known_id(text: str) -> str:
    """A device id in a query: the same, or ValueError."""
    if not is_device_id(text.encode(errors="replace")):
        raise ValueError(ID_RULE)
    return text


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A check of a query's text against a list that is too long for its error as a ``Literal``."""

    def check(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return check


class TapQuery(Query):
    """The parameters of all taps; each kind of tap has its own ``selection``, verdicts and reasons."""

    selection: ClassVar[type[Selection]]

    device_id: Annotated[str, AfterValidator(known_id)] | None = Field(default=None, description="Only this device.")
    prefix: Annotated[str, AfterValidator(known_id)] | None = Field(
        default=None, description="Only ids with this prefix."
    )
    sample: Whole = Field(default=20, ge=1, le=MAX_SAMPLE, description="Maximum number of frames per second.")
    verdict: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _some_frame_matches(self) -> "TapQuery":
        given = self.verdict or "", self.reason or "", self.device_id or "", self.prefix or ""
        if text := contradiction(*given):
            raise ValueError(text)
        return self

    def selected(self) -> Selection:
        """The parameters as the tap's selection."""
        texts = (self.device_id or "").encode(), (self.prefix or "").encode()
        return self.selection(*texts, self.verdict or "", self.reason or "", self.sample)


def need_change(guard: Guard, request: web.Request) -> None:
    """Return if the request may see payloads: it needs what a change needs (docs/security.md).

    Raises
    ------
    HttpError
        401, without the token for changes.
    """
    if not guard.access.may_change(request.headers.get("Authorization"), request.cookies.get(COOKIE)):
        text = "a tap shows payloads: it needs the token for changes, KLAIS_API_TOKEN"
        raise HttpError(401, "unauthorized", text)


def too_many_taps() -> HttpError:
    """The error where no tap is free."""
    return HttpError(429, "too_many_taps", f"{MAX_TAPS} taps are open on this process: end one")


class TapPage:
    """Serves taps. Payloads are private: a tap needs what a change needs (docs/security.md).

    Parameters
    ----------
    taps : OpenTaps
        Those of this process.
    guard : Guard
        Knows who may change something.
    query : type of TapQuery
        The parameters.
    """

    def __init__(self, taps: OpenTaps[Any, Any], guard: Guard, query: type[TapQuery]) -> None:
        self._taps, self._guard, self._query = taps, guard, query
        self._hubs: dict[Any, tuple[Any, Hub]] = {}
        self._closed = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with the stream of a tap.

        Raises
        ------
        HttpError
            401: no token for changes. 503: too many taps, or the process stops.
        """
        need_change(self._guard, request)
        wanted = read_query(request.query, self._query).selected()
        if self._closed:
            raise HttpError(503, "stopping", "this process stops")
        tap = self._taps.get(wanted)
        if tap is None:
            raise too_many_taps()
        known = self._hubs.get(wanted)
        if known is None or known[0] is not tap:
            self._hubs = {key: found for key, found in self._hubs.items() if key in self._taps.open}
            known = self._hubs[wanted] = tap, Hub(tap.event, VIEWERS, SEND_BYTES)
        asked = {name: value.decode() if isinstance(value, bytes) else value for name, value in asdict(wanted).items()}
        log.info("tap_opened", client=str(self._guard.client(request) or ""), **asked)
        return await known[1].serve(request)

    async def close(self, *_: object) -> None:
        """End all taps: an open one must not hold up the end of the process."""
        self._closed = True
        for _, hub in self._hubs.values():
            await hub.close()

    def install(self, app: web.Application, path: str) -> None:
        """Put it on an application, before it starts."""
        app.router.add_get(path, self.serve)
        app.on_shutdown.append(self.close)


def tap_path(query: type[TapQuery], frames: str, *more: str) -> dict[str, Any]:
    """The path in the OpenAPI document; ``frames``: which ones it shows, ``more``: further errors."""
    stream = {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {
        "get": {
            "operationId": "tap",
            "summary": f"A sample of the frames {frames}, once a second, as server-sent events.",
            "parameters": parameters(query),
            "responses": {"200": stream} | errors("400", "401", "403", "421", "429", "503", *more),
        }
    }
