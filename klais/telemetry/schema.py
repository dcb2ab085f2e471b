"""The schema of ``klais_stats``, version 1: the record that edge, worker and controller write once a second.

``python -m klais.telemetry.schema`` prints it as JSON Schema; ``docs/klais_stats.schema.json`` is that text, and a
test holds real records against it. Readers pass over fields that they do not know; a new field needs no new version,
a new meaning does.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1

Share = float
ByPartition = dict[str, float]


def _of(description: str) -> Any:
    return Field(default=None, description=description)


class LatencyMs(BaseModel):
    """Quantiles since the record before (ms), of ``count`` batches."""

    model_config = ConfigDict(extra="allow")
    p50: float = Field(ge=0)
    p99: float = Field(ge=0)
    count: int = Field(ge=0)


class Traffic(BaseModel):
    """Who sent within the last whole second, as an edge's sketch saw it; sums over edges describe the fleet."""

    model_config = ConfigDict(extra="allow")
    seconds: float = Field(gt=0, description="length of the second")
    frames: int = Field(ge=0, description="well-formed frames")
    devices: float = Field(ge=0, description="devices that sent, estimated")
    log_sum: float = Field(ge=0, description="sum of c ln c over devices with c frames: entropy = ln n - log_sum / n")
    top: int = Field(ge=0, description="frames of the busiest device, at most")
    bytes: int = Field(ge=0, description="bytes of the frames")
    bytes_squared: float = Field(ge=0, description="sum of their squared sizes")


class Filter(BaseModel):
    """The kernel filter of an edge's host; every edge of the host reports the same."""

    model_config = ConfigDict(extra="allow")
    packets: dict[str, float] = Field(description="by verdict, since the filter was loaded")
    set_points_age_s: float | None = _of("since somebody confirmed its set-points, s; absent where nobody did")
    limits_by: str | None = _of("whose limits it applies: load (those given at load), controller or operator")


class Gauges(BaseModel):
    """Values of now. A process sends those that it has."""

    model_config = ConfigDict(extra="allow")
    queue_depth: float | None = _of("frames held: in the dam's queue (worker), not yet acknowledged (edge)")
    rate_limit: float | None = _of("global rate in force, frames/s")
    tokens: float | None = _of("frames left in the global bucket of this worker's lanes")
    lag: float | None = _of("records of klais_raw not yet read by this worker's lanes")
    lag_records: ByPartition | None = _of("the same by partition")
    lag_frames: ByPartition | None = _of("the same in frames: records x mean frames a record")
    lag_s: ByPartition | None = _of("age of the oldest record of klais_raw not yet read, by partition, s")
    pending_frames: float | None = _of("frames that this worker's lanes let through and have not written yet")
    demand: ByPartition | None = _of(
        "frames/s that a lane could put to use: what arrives, and what waits, within a second"
    )
    inflight_bytes: float | None = _of("edge: bytes sent to Kafka and not yet acknowledged")
    limit_per_s: float | None = _of("edge: frames/s that it admits; absent where it admits all")
    offenders: dict[str, float] | None = _of("frames/s dropped of single devices above their own rate; the highest")
    cpu_share: float | None = _of("CPU of this process since the record before; 1 = one core, or its quota where less")
    host_cpu_share: Share | None = _of("CPU of its machine, or of its cgroup's quota if busier; 1 = all of it")
    traffic: Traffic | None = _of("edge: who sent within the last second")
    breaker: Literal["closed", "open", "half_open"] | None = _of("circuit breaker of an edge")
    spooled: float | None = _of("edge: frames that wait in its disk spool")
    spool_bytes: float | None = _of("edge: bytes that they take there")
    xdp: Filter | None = _of("edge: the kernel filter of its host; absent where there is none")
    devices: int | None = _of("devices known to this worker")
    anomaly_devices: int | None = _of("devices flagged at their newest frame")
    anomaly_score: float | None = _of("highest anomaly score of a device now")
    pending_bytes: int | None = _of("bytes of the frames that this worker's lanes let through and have not written yet")
    lanes: int | None = _of("lanes (partitions) that this worker owns")
    lanes_live: int | None = _of("lanes that take records now")
    lane_restarts: int | None = _of("restarts of the lanes that this worker owns now")
    checkpoint_age_s: float | None = _of("age of the oldest lane's newest checkpoint, s")
    processing_ms: LatencyMs | None = _of("from a batch's arrival to its verdicts (worker), to Kafka (edge)")
    kafka_ms: LatencyMs | None = _of("from handing a batch to Kafka to its acknowledgement")
    landed_ms: LatencyMs | None = _of("worker: from a batch's arrival at the edge until its frames landed")
    latency_target_ms: float | None = _of("worker: KLAIS_LATENCY_MS")
    late_share: Share | None = _of("worker: share of the batches of the last 30 s that landed later than that")
    burst_probability: Share | None = _of("controller: 0 to 1")
    pid_output: Share | None = _of("controller: 0 to 1, on the logarithmic scale of rates")
    epoch: float | None = _of("controller: of its fence; the highest one controls")
    candidate: bool | None = _of("controller: it is about to take the fence")
    resigned: bool | None = _of("controller: it ended its term, so another may take over at once")
    cut: Share | None = _of("controller: share by which a forecast burst reduces the rate")
    traffic_class: str | None = _of("controller: what the traffic is, such as normal or attack")
    traffic_confidence: Share | None = _of("controller: how sure it is of that")
    forecast_model: str | None = _of("controller: the model that the forecast is from")
    alert: bool | None = _of("controller: the cut is so deep that operators should check")
    mode: Literal["auto", "manual", "fixed"] | None = _of("controller: who sets the rate")


class StatsRecord(BaseModel):
    """One record of ``klais_stats``; its key is ``id``."""

    model_config = ConfigDict(extra="allow", title="klais_stats record, version 1")
    v: Literal[1] = Field(description="version of this schema")
    kind: Literal["edge", "worker", "controller"]
    id: str = Field(min_length=1, description="who says it: edge-<number>, the worker's id, controller-<worker's id>")
    host: str | None = _of("machine and folder of its pinned maps, as name:/sys/fs/bpf/klais")
    instance: str | None = _of("edge: a random number of this process; two of them under one id are two edges")
    at_ms: int = Field(ge=0, description="clock of the sender, ms since the epoch")
    uptime_s: float = Field(ge=0)
    extra: bool = Field(default=False, description="between two seconds, as limits changed; rates are the last ones")
    counters: dict[str, float | dict[str, float]] = Field(
        description="since the start of the process (worker: since step 0 of its lanes); dropped is by reason"
    )
    gauges: Gauges
    rates: dict[str, float] = Field(description="growth of the counters per second since the record before")


def schema_text() -> str:
    """The JSON Schema as it lies in docs/."""
    return json.dumps(StatsRecord.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
