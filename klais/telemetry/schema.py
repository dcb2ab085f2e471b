"""The schema of ``klais_stats``, version 1: the record that edge, worker and controller write once a second.

``python -m klais.telemetry.schema`` prints it as JSON Schema. ``docs/klais_stats.schema.json`` holds that text, and a
test validates real records against it. Readers ignore unknown fields. A new field needs no new version, but a changed
meaning does.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1

Share = float
ByPartition = dict[str, float]


def _of(description: str, minimum: float | None = None) -> Any:
    return Field(default=None, description=description, ge=minimum)


class LatencyMs(BaseModel):
    """Quantiles since the previous record (ms), of ``count`` batches."""

    model_config = ConfigDict(extra="allow")
    p50: float = Field(ge=0)
    p99: float = Field(ge=0)
    count: int = Field(ge=0)


class Traffic(BaseModel):
    """Activity of devices within the last whole second, from an edge's sketch; sums over edges describe the fleet."""

    model_config = ConfigDict(extra="allow")
    seconds: float = Field(gt=0, description="length of the second")
    frames: int = Field(ge=0, description="well-formed frames")
    devices: float = Field(ge=0, description="estimated number of devices that sent")
    log_sum: float = Field(ge=0, description="sum of c ln c over devices with c frames: entropy = ln n - log_sum / n")
    top: int = Field(ge=0, description="frames of the busiest device (upper bound)")
    bytes: int = Field(ge=0, description="bytes of the frames")
    bytes_squared: float = Field(ge=0, description="sum of their squared sizes")


class LocalBlock(BaseModel):
    """A block of a host's own: ``klais xdp block`` was run there, and ``klais_control`` knows nothing of it."""

    model_config = ConfigDict(extra="allow")
    device_id: str
    left_s: float | None = _of("until it ends, s; null: until it is removed")
    dropped: int | None = _of("packets that it dropped since it began")


class Filter(BaseModel):
    """The XDP filter of an edge's host; every edge of the host reports the same."""

    model_config = ConfigDict(extra="allow")
    packets: dict[str, float] = Field(description="by verdict, since the filter was loaded")
    rates: dict[str, float] | None = _of(
        "packets/s by verdict since the counters were last read, without those that are 0; absent at the first reading"
    )
    set_points_age_s: float | None = _of("time since its set-points were confirmed, s; absent if they never were")
    interfaces: list[str] | None = _of("interfaces of the edge's network namespace that have it; absent: unknown")
    limits_by: str | None = _of("source of its limits: load (those given at load), controller or operator")
    blocked: int | None = _of("devices that it blocks")
    local_blocks: list[LocalBlock] | None = _of("some of those that klais_control does not block; absent if none")
    block_drops: dict[str, int] | None = _of(
        "packets dropped since the block began, by device; of those that klais_control blocks, the 20 with the most"
    )
    blocked_sources: int | None = _of("prefixes of source addresses that it blocks; absent if none")
    source_drops: dict[str, int] | None = _of(
        "packets dropped since the block began, by blocked prefix; the 20 with the most"
    )


class Restoring(BaseModel):
    """Progress of a lane that recovers."""

    model_config = ConfigDict(extra="allow")
    stage: Literal["takeover", "turn", "devices", "journal", "replay"] = Field(
        description="takeover: fences the previous owner; turn: waits while another lane reads its devices; devices: "
        "reads its devices; journal: reads the journal; replay: repeats the steps of the journal"
    )
    share: float = Field(ge=0, le=1, description="part of this stage that is done")

    @property
    def text(self) -> str:
        """For people.

        Examples
        --------
        >>> Restoring(stage="replay", share=0.619).text
        '61 % of the journal replayed'
        """
        return _STAGES[self.stage].format(int(100 * self.share))


_STAGES = {
    "takeover": "fences the previous owner",
    "turn": "waits until another lane has read its devices",
    "devices": "{} % of its devices read",
    "journal": "{} % of the journal read",
    "replay": "{} % of the journal replayed",
}


class Gauges(BaseModel):
    """Present values. A process sends those that it has."""

    model_config = ConfigDict(extra="allow")
    queue_depth: float | None = _of("frames held: in the dam's queue (worker), not yet acknowledged (edge)")
    rate_limit: float | None = _of("global rate in force, frames/s")
    tokens: float | None = _of("frames left in the global bucket of this worker's lanes")
    lag: float | None = _of("records of klais_raw not yet read by this worker's lanes")
    lag_records: ByPartition | None = _of("the same by partition")
    lag_frames: ByPartition | None = _of("the same in frames: records x mean frames per record")
    lag_s: ByPartition | None = _of("age of the oldest record of klais_raw not yet read, by partition, s")
    pending_frames: float | None = _of("frames that this worker's lanes passed and have not written yet")
    demand: ByPartition | None = _of(
        "frames/s that a lane could use: arriving frames, and queued frames within a second"
    )
    inflight_bytes: float | None = _of("edge: bytes sent to Kafka and not yet acknowledged")
    limit_per_s: float | None = _of("edge: limit of admitted frames/s; absent without a limit")
    offenders: dict[str, float] | None = _of("frames/s dropped above their own rate, of the devices with the most")
    cpu_share: float | None = _of("CPU of this process since the previous record; 1 = one core, or its quota if less")
    host_cpu_share: Share | None = _of("CPU of its machine, or of its cgroup's quota if busier; 1 = all of it")
    traffic: Traffic | None = _of("edge: activity of devices within the last second")
    breaker: Literal["closed", "open", "half_open"] | None = _of("circuit breaker of an edge")
    spooled: float | None = _of("edge: frames in its disk spool")
    spool_bytes: float | None = _of("edge: bytes in its disk spool")
    spool_max_bytes: float | None = _of("edge: KLAIS_SPOOL_MAX_BYTES, the limit of these bytes; 0 = no spool", 0)
    spool_full_s: float | None = _of(
        "edge: time until its disk spool is full at the growth of the last seconds, s; absent while it does not grow", 0
    )
    blocked_sources: int | None = _of("edge: prefixes of source addresses that it blocks; absent if none")
    source_drops: dict[str, int] | None = _of(
        "edge: frames that it dropped since it learned of the block, by blocked prefix; the 20 with the most"
    )
    xdp: Filter | None = _of("edge: the XDP filter of its host; absent without a filter")
    devices: int | None = _of("known devices of this worker")
    anomaly_devices: int | None = _of("devices whose newest frame was flagged")
    anomaly_score: float | None = _of("highest present anomaly score of a device")
    pending_bytes: int | None = _of("bytes of frames that this worker's lanes passed and have not written yet")
    lanes: int | None = _of("lanes (partitions) that this worker owns")
    lanes_live: int | None = _of("lanes that read records now")
    restoring: dict[str, Restoring] | None = _of("progress of the lanes that recover, by partition")
    lane_restarts: int | None = _of("restarts of the lanes that this worker owns")
    checkpoint_age_s: float | None = _of("age of the newest checkpoint of the lane with the oldest one, s")
    processing_ms: LatencyMs | None = _of("from a batch's arrival to its verdicts (worker), to Kafka (edge)")
    kafka_ms: LatencyMs | None = _of("from sending a batch to Kafka to its acknowledgement")
    landed_ms: LatencyMs | None = _of("worker: from a batch's arrival at the edge until its frames landed")
    latency_target_ms: float | None = _of("worker: KLAIS_LATENCY_MS")
    late_share: Share | None = _of(
        "worker: share of the batches of the last 30 s that landed later than KLAIS_LATENCY_MS"
    )
    burst_probability: Share | None = _of("controller: 0 to 1")
    pid_output: Share | None = _of("controller: 0 to 1, on the logarithmic scale of rates")
    epoch: float | None = _of("controller: epoch of its fence; the highest one leads")
    candidate: bool | None = _of("controller: it is about to acquire the fence")
    resigned: bool | None = _of("controller: it ended its term, so another may take over immediately")
    cut: Share | None = _of("controller: share by which a forecast burst reduces the rate")
    traffic_class: str | None = _of("controller: class of the traffic, such as normal or attack")
    traffic_confidence: Share | None = _of("controller: confidence of that class")
    forecast_model: str | None = _of("controller: model of the forecast")
    alert: bool | None = _of("controller: the cut is so large that operators should check")
    mode: Literal["auto", "manual", "fixed"] | None = _of("controller: source of the rate")


class StatsRecord(BaseModel):
    """One record of ``klais_stats``; its key is ``id``."""

    model_config = ConfigDict(extra="allow", title="klais_stats record, version 1")
    v: Literal[1] = Field(description="version of this schema")
    kind: Literal["edge", "worker", "controller"]
    id: str = Field(min_length=1, description="sender: edge-<number>, the worker's id, controller-<worker's id>")
    host: str | None = _of("machine and folder of its pinned maps, as name:/sys/fs/bpf/klais")
    instance: str | None = _of("a random number of this process; two different ones with one id are two processes")
    at_ms: int = Field(ge=0, description="clock of the sender, ms since the epoch")
    uptime_s: float = Field(ge=0)
    extra: bool = Field(
        default=False, description="sent between two regular records because limits changed; rates are the last ones"
    )
    counters: dict[str, float | dict[str, float]] = Field(
        description="since the start of the process (worker: since step 0 of its lanes); dropped is by reason"
    )
    gauges: Gauges
    rates: dict[str, float] = Field(description="growth of the counters per second since the previous record")


def schema_text() -> str:
    """The JSON Schema as stored in docs/."""
    return json.dumps(StatsRecord.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
