"""``/tap``: a sample of the frames that this edge receives, as server-sent events."""

from typing import Annotated

from pydantic import AfterValidator, Field

from klais.edge.tap import EdgeFilter
from klais.http.tap import TapQuery, one_of
from klais.telemetry.tap_choices import EDGE_REASONS, EdgeVerdict

PATH = "/tap"


class EdgeTapQuery(TapQuery):
    """Of ``/tap``."""

    selection = EdgeFilter

    verdict: EdgeVerdict | None = Field(default=None, description="Verdict of the frames; dropped includes malformed.")
    reason: Annotated[str, AfterValidator(one_of(EDGE_REASONS))] | None = Field(
        default=None, description="Reason of the drop.", json_schema_extra={"enum": list(EDGE_REASONS)}
    )
