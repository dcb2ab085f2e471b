"""The configuration: ``KLAIS_*`` from the environment, frozen, typed, read once.

Every field states unit and range. :func:`load` reports all problems together and refuses unknown ``KLAIS_`` names.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings of all processes; names in the environment are ``KLAIS_`` + the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="KLAIS_", frozen=True, extra="ignore")

    # edge
    udp_bind: str = Field("0.0.0.0:5000", description="host:port the edge receives frames on ([::]:5000 for IPv6)")
    udp_rcvbuf_bytes: int = Field(64 << 20, ge=65_536, le=1 << 30, description="bytes, receive buffer asked for")
    api_bind: str = Field("127.0.0.1:8080", description="host:port of the edge's REST API")
    api_token: SecretStr | None = Field(None, description="bearer token that changes through the REST API need")
    edge_id: int = Field(1, ge=0, le=65_535, description="number of this edge, unique in the deployment")
    batch_max_bytes: int = Field(131_072, ge=1024, le=900_000, description="bytes, a frame batch closes at this size")
    batch_linger_ms: float = Field(5.0, ge=0, le=1000, description="ms, a frame batch closes at latest after this")
    batch_sources: bool = Field(False, description="put each frame's source address into the frame batch")
    publish_max_inflight_bytes: int = Field(
        64 << 20, ge=1 << 20, le=4 << 30, description="bytes handed to Kafka and not acknowledged; above: backpressure"
    )
    # Kafka
    kafka_bootstrap: str | None = Field(None, description="host:port,... of a cluster; unset = the embedded broker")
    kafka_port: int = Field(9092, ge=1, le=65_535, description="port of the embedded broker")
    kafka_heap_mb: int = Field(512, ge=128, le=65_536, description="MiB, heap of the embedded broker")
    kafka_topic: str = Field("iot_telemetry", description="topic of the clean records")
    topic_prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]{0,60}$", description="put before every topic and group name")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of every topic that is split by device")
    replication: int = Field(1, ge=1, le=10, description="replicas of the topics that klais creates")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_ssl_keyfile_password: SecretStr | None = None
    # dam
    dam_max_rate: float = Field(10_000, ge=1, le=100_000_000, description="frames/s, global rate, all lanes together")
    dam_burst_size: float = Field(50_000, ge=1, le=1e9, description="frames, global burst, all lanes together")
    dam_device_rate: float = Field(1000, ge=0.001, le=1e9, description="frames/s of one device")
    dam_device_burst: float = Field(5000, ge=1, le=1e9, description="frames, burst of one device")
    dam_queue_limit: int = Field(1_000_000, ge=0, le=100_000_000, description="frames queued, all lanes together")
    dead_letter_rate: float = Field(1000, ge=0, le=1e6, description="dead letters/s of one process; above: only counted")
    # devices and anomalies
    devices_max: int = Field(2_000_000, ge=1, le=100_000_000, description="devices known, all lanes together")
    anomaly_z: float = Field(6.0, ge=1, le=1000, description="a feature is flagged when |z| is above this")
    anomaly_min_samples: int = Field(30, ge=2, le=60_000, description="samples of a feature before it is scored")
    anomaly_window: int = Field(500, ge=2, le=60_000, description="samples the running mean and variance remember")
    anomaly_rate: float = Field(1000, ge=0, le=1e6, description="anomaly records/s of one process; above: only counted")
    # worker
    worker_id: str | None = Field(None, description="name of this worker; default host-pid")
    web_port: int = Field(6066, ge=1, le=65_535, description="port of the worker's web views")
    web_bind: str = Field("127.0.0.1", description="address of the worker's web views")
    checkpoint_interval_s: float = Field(5.0, ge=0.05, le=3600, description="s between checkpoints of a lane")
    lane_max_pending_bytes: int = Field(32 << 20, ge=1 << 20, le=1 << 30, description="bytes decided, not yet acknowledged")
    session_timeout_s: float = Field(10.0, ge=1, le=300, description="s without heartbeat until a worker is replaced")
    # all
    state_dir: Path = Field(Path(".klais"), description="folder for the embedded broker's data, sockets and logs")
    cache_dir: Path | None = Field(None, description="folder for what can be made again: jars, compiled kernels")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    fault_point: str | None = Field(None, description="tests only: NAME[:N], the process kills itself at the N-th pass")

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers in force: the named cluster, else the embedded broker."""
        return self.kafka_bootstrap or f"127.0.0.1:{self.kafka_port}"

    @property
    def embedded_kafka(self) -> bool:
        """Whether klais runs the broker itself."""
        return self.kafka_bootstrap is None


def load() -> Settings:
    """Settings from the environment.

    Raises
    ------
    klais.errors.ConfigError
        With every problem at once.
    """
    return Settings()
