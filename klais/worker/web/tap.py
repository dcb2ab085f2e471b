"""``/api/v1/tap``: a sample of the frames that this worker decides, as server-sent events."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AfterValidator, Field

from klais.http.guard import Guard
from klais.http.tap import TapPage, TapQuery, tap_path
from klais.worker.tap import REASON_NAMES, Filter, Taps

PATH = "/api/v1/tap"


def _reason(text: str) -> str:
    if text not in REASON_NAMES:
        raise ValueError(f"must be one of {', '.join(REASON_NAMES)}")
    return text


class LaneTapQuery(TapQuery):
    """Of ``/api/v1/tap``."""

    verdict: Literal["passed", "queued", "released", "dropped", "malformed", "flagged"] | None = Field(
        default=None, description="What became of the frames; dropped includes malformed."
    )
    reason: Annotated[str, AfterValidator(_reason)] | None = Field(
        default=None, description="Why they were dropped.", json_schema_extra={"enum": list(REASON_NAMES)}
    )

    def filter(self) -> Filter:
        """The same for the lanes."""
        texts = (self.device_id or "").encode(), (self.prefix or "").encode()
        return Filter(*texts, self.verdict or "", self.reason or "", self.sample)


def install(app: web.Application, taps: Taps, guard: Guard) -> None:
    """Put ``/api/v1/tap`` on a worker's web application, before it starts."""
    TapPage(taps, guard, LaneTapQuery).install(app, PATH)


def paths() -> dict[str, Any]:
    """The path in the OpenAPI document."""
    return {PATH: tap_path(LaneTapQuery, "decided")}
