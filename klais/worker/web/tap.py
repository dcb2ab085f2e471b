"""``/api/v1/tap``: a sample of the frames that this worker decides, as server-sent events."""

from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, Field

from klais.http.guard import Guard
from klais.http.tap import TapPage, TapQuery, one_of, tap_path
from klais.telemetry.tap_choices import LANE_REASONS, LaneVerdict
from klais.worker.tap import Filter, Taps

PATH = "/api/v1/tap"


class LaneTapQuery(TapQuery):
    """Of ``/api/v1/tap``."""

    selection = Filter

    verdict: LaneVerdict | None = Field(default=None, description="Verdict of the frames; dropped includes malformed.")
    reason: Annotated[str, AfterValidator(one_of(LANE_REASONS))] | None = Field(
        default=None, description="Reason of the drop.", json_schema_extra={"enum": list(LANE_REASONS)}
    )


def install(app: web.Application, taps: Taps, guard: Guard) -> None:
    """Put ``/api/v1/tap`` on a worker's web application, before it starts."""
    TapPage(taps, guard, LaneTapQuery).install(app, PATH)


def paths() -> dict[str, Any]:
    """The path in the OpenAPI document."""
    return {PATH: tap_path(LaneTapQuery, "decided")}
