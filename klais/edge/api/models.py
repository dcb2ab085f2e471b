"""Bodies of the edge's REST API as pydantic models: they validate requests, and the OpenAPI document is generated from
them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from klais.http.body import Body

MIN_RATE, MAX_RATE = 1, 1_000_000
LOOP_HUNG_S = 30.0  # a loop that has not turned for this long hangs; same as WatchdogSec of the systemd unit

Count = Annotated[int, Field(ge=0)]


def _whole(value: Any) -> Any:
    """``20000.0`` is an integer in JSON Schema, so it is accepted here too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ConfigRequest(Body):
    """Body of ``POST /config``."""

    new_rate: Annotated[int, BeforeValidator(_whole)] = Field(
        ge=MIN_RATE,
        le=MAX_RATE,
        description="Global rate (frames/s), not below KLAIS_PID_RATE_MIN unless force is true.",
    )
    force: bool = Field(default=False, description="Set a rate below KLAIS_PID_RATE_MIN anyway.")


class ConfigResponse(BaseModel):
    """The rate was written and acknowledged."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    previous_rate: float
    new_rate: int


class Live(BaseModel):
    """Whether the loop that reads the socket runs. A process with a hanging loop needs a restart."""

    live: bool
    loop_age_s: float = Field(ge=0, description="Seconds since the loop began its last round.")


class Ready(BaseModel):
    """Whether the edge can keep frames that arrive now: in Kafka, in the spool, or in memory."""

    ready: bool
    waiting_for: list[str] = Field(description="What is missing; empty when ready.")
    edge_id: Count


class Health(BaseModel):
    """Whether frames get through."""

    status: Literal["ok", "degraded"]
    problems: list[str]
    warnings: list[str] = Field(description="Problems that do not stop frames.")
    queue_depth: Count = Field(description="Frames in the dam's queue, sum over all workers.")
    rate_limit: float = Field(description="Global rate in force (frames/s).")
    version: str
    uptime_secs: float = Field(ge=0)
    edge_id: Count
    workers: Count = Field(description="Workers that reported in the last 3 seconds.")


class Dam(BaseModel):
    """The dam, summed over all workers."""

    received: Count
    passed: Count
    queued: Count
    dropped: Count
    queue_depth: Count
    tokens: float
    dropped_by_reason: dict[str, Count]


class Control(BaseModel):
    """The rate and its source."""

    current_rate: float
    burst_probability: float
    anomaly_score: float
    pid_output: float
    anomaly_devices: Count
    controller: str | None = Field(description="Id of the controller that reported last, or null.")
    mode: Literal["auto", "manual", "fixed"] = Field(description="The source of the rate.")
    cut: float = Field(description="Share of the rate taken away ahead of a forecast burst.")
    alert: bool = Field(description="Whether a burst is very likely.")
    overrides: list[dict[str, Any]] = Field(description="Overrides of operators.")


class Stats(BaseModel):
    """Counters and gauges of the system and of this edge."""

    dam: Dam
    control: Control
    edge: dict[str, Any]
    workers: dict[str, dict[str, Any]]
    senders: dict[str, dict[str, Any]] = Field(description="All senders, including stale ones.")
