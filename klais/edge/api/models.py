"""Bodies of the edge's REST API as pydantic models: they check what comes in, and the OpenAPI document is made of
them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from klais.http.body import Body

MIN_RATE, MAX_RATE = 1, 1_000_000
HANGS_S = 30.0  # a loop that has not turned for so long hangs; WatchdogSec of the systemd unit is the same

Count = Annotated[int, Field(ge=0)]


def _whole(value: Any) -> Any:
    """``20000.0`` is an integer to JSON Schema, and so it is here."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ConfigRequest(Body):
    """What ``POST /config`` asks for."""

    new_rate: Annotated[int, BeforeValidator(_whole)] = Field(
        ge=MIN_RATE,
        le=MAX_RATE,
        description="Global rate (frames/s), not below KLAIS_PID_RATE_MIN unless force is true.",
    )
    force: bool = Field(default=False, description="Set a rate below KLAIS_PID_RATE_MIN all the same.")


class ConfigResponse(BaseModel):
    """The rate is written and acknowledged."""

    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    previous_rate: float
    new_rate: int


class Live(BaseModel):
    """Whether the loop that reads the socket turns; a process that says no hangs, and needs a restart."""

    live: bool
    loop_age_s: float = Field(ge=0, description="Seconds since the loop began its last round.")


class Ready(BaseModel):
    """Whether frames that arrive now find room: in Kafka, in the spool, or in memory."""

    ready: bool
    waiting_for: list[str] = Field(description="What is missing; empty when ready.")
    edge_id: Count


class Health(BaseModel):
    """Whether frames get through."""

    status: Literal["ok", "degraded"]
    problems: list[str]
    warnings: list[str] = Field(description="Wrong, but frames get through.")
    queue_depth: Count = Field(description="Frames in the dam's queue, all workers together.")
    rate_limit: float = Field(description="Global rate in force (frames/s).")
    version: str
    uptime_secs: float = Field(ge=0)
    edge_id: Count
    workers: Count = Field(description="Workers heard of in the last 3 seconds.")


class Dam(BaseModel):
    """The dam, all workers together."""

    received: Count
    passed: Count
    queued: Count
    dropped: Count
    queue_depth: Count
    tokens: float
    dropped_by_reason: dict[str, Count]


class Control(BaseModel):
    """Who sets the rate, and what it is."""

    current_rate: float
    burst_probability: float
    anomaly_score: float
    pid_output: float
    anomaly_devices: Count
    controller: str | None = Field(description="Id of the controller heard of, or null.")
    mode: Literal["auto", "manual", "fixed"] = Field(description="Who sets the rate.")
    cut: float = Field(description="Share of the rate that a burst to come takes away.")
    alert: bool = Field(description="Whether a burst is very likely.")
    overrides: list[dict[str, Any]] = Field(description="What operators set.")


class Stats(BaseModel):
    """Counters and gauges of the system and of this edge."""

    dam: Dam
    control: Control
    edge: dict[str, Any]
    workers: dict[str, dict[str, Any]]
    senders: dict[str, dict[str, Any]] = Field(description="All, stale ones too.")
