"""``/tap``: a sample of the frames that this edge receives, as server-sent events."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from klais.edge.tap import REASON_NAMES, EdgeFilter
from klais.http.tap import TapQuery

PATH = "/tap"


def _reason(text: str) -> str:
    if text not in REASON_NAMES:
        raise ValueError(f"must be one of {', '.join(REASON_NAMES)}")
    return text


class EdgeTapQuery(TapQuery):
    """Of ``/tap``."""

    verdict: Literal["passed", "dropped", "malformed"] | None = Field(
        default=None, description="What became of the frames; dropped includes malformed."
    )
    reason: Annotated[str, AfterValidator(_reason)] | None = Field(
        default=None, description="Why they were dropped.", json_schema_extra={"enum": list(REASON_NAMES)}
    )

    def filter(self) -> EdgeFilter:
        """The same for the edge."""
        texts = (self.device_id or "").encode(), (self.prefix or "").encode()
        return EdgeFilter(*texts, self.verdict or "", self.reason or "", self.sample)
