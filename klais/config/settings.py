"""All settings of all processes: name, type, default, unit, range, meaning. :mod:`klais.config.load` reads them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from klais.config import checks

_MIB = 1 << 20


def _number(default: float, unit: str, low: float, high: float, description: str) -> Any:
    """A numeric field with its unit and range (both ends allowed)."""
    extra: dict[str, Any] = {"unit": unit}
    return Field(default=default, ge=low, le=high, allow_inf_nan=False, description=description, json_schema_extra=extra)


def _text(default: str | None, description: str, pattern: str | None = None) -> Any:
    return Field(default=default, description=description, pattern=pattern)


_NUMBERS = r"^\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*$"

Address = Annotated[str, AfterValidator(checks.check_address)]
Host = Annotated[str, AfterValidator(checks.check_host)]
Hosts = Annotated[str, AfterValidator(checks.check_hosts)]
Networks = Annotated[str, AfterValidator(checks.check_networks)]
Token = Annotated[SecretStr, AfterValidator(checks.check_token)]
Servers = Annotated[str, AfterValidator(checks.check_servers)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(checks.lower)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SettingsFields(BaseSettings):
    """All settings of all processes; names in the environment are ``KLAIS_`` + the field's name in capitals.

    Raises
    ------
    pydantic.ValidationError
        When built directly with values that do not fit (inputs are left out of its text: they may be secrets).
    """

    model_config = SettingsConfigDict(env_prefix="KLAIS_", frozen=True, extra="forbid", hide_input_in_errors=True)

    # edge
    udp_bind: Address = _text("0.0.0.0:5000", "address the edge receives frames on ([::]:5000 for IPv6)")
    udp_rcvbuf_bytes: int = _number(64 * _MIB, "bytes", 65_536, 1 << 30, "receive buffer asked of the kernel")
    udp_share_port: bool = Field(default=False, description="let several edge processes of one user share the UDP port")
    api_bind: Address = _text("127.0.0.1:8080", "address of the edge's REST API")
    api_token: Token | None = _text(None, "bearer token (16 characters or more) that changes over HTTP need; it may read too")
    api_token_file: Folder | None = _text(None, "file that holds KLAIS_API_TOKEN (0600)")
    api_read_token: Token | None = _text(None, "bearer token (16 characters or more) that reading over HTTP needs")
    api_read_token_file: Folder | None = _text(None, "file that holds KLAIS_API_READ_TOKEN (0600)")
    api_open_reads: bool = Field(default=False, description="let anyone read where a server does not listen on loopback")
    api_hosts: Hosts = _text("", "more names that the HTTP servers answer to, with commas; .example.org: all below it")
    api_proxies: Networks = _text("", "addresses or networks, with commas, whose X-Forwarded-For is believed")
    api_connections: int = _number(64, "connections", 4, 10_000, "HTTP connections of one server at once; a client: a quarter")
    edge_id: int = _number(1, "", 0, 65_535, "number of this edge, unique in the deployment")
    frame_max_bytes: int = _number(2072, "bytes", 64, 65_507, "longest frame that the edge takes; longer: too_long")
    batch_max_bytes: int = _number(131_072, "bytes", 1024, 900_000, "a frame batch closes at this size")
    batch_linger_ms: float = _number(10.0, "ms", 0, 1000, "age at which a batch closes; busy workers: up to 4 times")
    batch_sources: bool = Field(default=False, description="put each frame's source address into the frame batch")
    publish_max_inflight_bytes: int = _number(
        64 * _MIB, "bytes", _MIB, 4 << 30, "handed to Kafka and not acknowledged yet; above: backpressure"
    )
    # Kafka
    kafka_bootstrap: Servers | None = _text(None, "host:port,... of a cluster; unset = the embedded broker")
    kafka_port: int = _number(9092, "port", 1, 65_535, "the embedded broker's port")
    kafka_heap_mb: int = _number(512, "MiB", 128, 65_536, "heap of the embedded broker")
    kafka_jit: Literal["quick", "full"] = Field(
        default="quick", description="compiler of the embedded broker: full needs less CPU, but minutes to get there"
    )
    kafka_topic: str = _text("iot_telemetry", "topic of the clean records", r"^[a-zA-Z0-9._-]{1,180}$")
    topic_prefix: str = _text("", "put before every topic and group name", r"^[a-zA-Z0-9._-]{0,60}$")
    partitions: int = _number(4, "", 1, 1024, "partitions of every topic that is split by device")
    replication: int = _number(1, "", 1, 10, "replicas that every topic must have at least")
    kafka_flush: Literal["os", "each"] = Field(
        default="os",
        description="when brokers flush klais_raw and klais_journal to disk: `os` leaves it to the kernel, `each` before "
        "they acknowledge; with one broker only `each` survives a power cut",
    )
    kafka_security_protocol: Protocol = Field(default="PLAINTEXT", description="how clients talk to the cluster")
    kafka_sasl_mechanism: Mechanism | None = _text(None, "how to log in with SASL; unset = PLAIN")
    kafka_sasl_username: str | None = _text(None, "name to log in with")
    kafka_sasl_password: SecretStr | None = _text(None, "password to log in with")
    kafka_sasl_password_file: Folder | None = _text(None, "file that holds KLAIS_KAFKA_SASL_PASSWORD (0600)")
    kafka_ssl_cafile: Folder | None = _text(None, "PEM file of the CA that signed the brokers' certificates")
    kafka_ssl_certfile: Folder | None = _text(None, "PEM file of the client's certificate")
    kafka_ssl_keyfile: Folder | None = _text(None, "PEM file of the client's key")
    kafka_ssl_keyfile_password: SecretStr | None = _text(None, "password of the client's key")
    kafka_ssl_keyfile_password_file: Folder | None = _text(None, "file that holds KLAIS_KAFKA_SSL_KEYFILE_PASSWORD (0600)")
    # kernel side (XDP) and the edge's source
    source: Literal["auto", "udp", "io_uring", "af_xdp", "ringbuf"] = Field(
        default="udp", description="what the edge receives through; auto = the fastest that works here"
    )
    iface: str | None = _text(None, "interface of the XDP filter and of the sources behind it", r"^[^\s/]{1,15}$")
    xdp_queues: str | None = _text(
        None, "queues that this edge takes of the interface with af_xdp, as 0-3,8; unset = all", _NUMBERS
    )
    xdp_pin_dir: Folder = Field(default=Path("/sys/fs/bpf/klais"), description="bpffs folder of the pinned program and maps")
    xdp_heartbeat_s: float = _number(10.0, "s", 0.1, 3600, "set-points older than this give way to the limits given at load")
    xdp_devices: int = _number(
        1_048_576, "devices", 1024, 16_777_216, "devices the kernel filter's table is for; rounded up to a power of two"
    )
    xdp_ring_bytes: int = _number(16 * _MIB, "bytes", 65_536, 1 << 30, "the filter's ring; rounded up to a power of two")
    # breaker and spool of the edge
    breaker_timeout_s: float = _number(5.0, "s", 0.1, 600, "without acknowledgement until the breaker opens")
    breaker_wait_min_s: float = _number(0.5, "s", 0.01, 600, "first wait of an open breaker before it probes")
    breaker_wait_max_s: float = _number(10.0, "s", 0.01, 3600, "longest wait between two probes")
    spool_dir: Folder | None = _text(None, "folder for the edge's disk spool, spool-<edge id>; unset = the state folder")
    spool_max_bytes: int = _number(4 << 30, "bytes", 0, 1 << 44, "size of the spool at most; 0 = no spool")
    spool_sync: Literal["batch", "interval", "none"] = Field(default="interval", description="when the spool is synced")
    spool_sync_interval_ms: float = _number(100.0, "ms", 1, 60_000, "between syncs with KLAIS_SPOOL_SYNC=interval")
    edge_workers: int = _number(1, "processes", 1, 256, "edge processes that share one port")
    cpus: str | None = _text(None, "CPUs of the edge: auto, or a list as 0-3,8; unset = not pinned", r"^(auto|[0-9,-]+)$")
    # controller
    # Gains and the set-point of the lag go together: at up to 0.4 s of delay a loop around a worker of 300,000 frames/s
    # settles with them, with a lag of 20,000 frames or with kp 0.5 it swings (see docs/control.md).
    pid_kp: float = _number(0.2, "", 0, 1000, "proportional gain")
    pid_ki: float = _number(0.1, "1/s", 0, 1000, "integral gain")
    pid_kd: float = _number(0.05, "s", 0, 1000, "derivative gain, on the filtered measurement")
    pid_filter_s: float = _number(0.5, "s", 0, 60, "time constant of the derivative's filter")
    pid_period_s: float = _number(0.1, "s", 0.02, 10, "between two decisions")
    pid_lag_setpoint: float = _number(100_000, "frames", 1, 1e9, "lag of all workers that the controller aims at")
    pid_cpu_setpoint: float = _number(0.8, "", 0.01, 1, "share of its CPU at which the busiest process is aimed")
    pid_rate_min: float = _number(1000, "frames/s", 1, 100_000_000, "global rate that the controller never goes below")
    pid_rate_max: float = _number(1_000_000, "frames/s", 1, 100_000_000, "global rate that the controller never goes above")
    control_auto: bool | None = Field(
        default=None, description="let the controller set the global rate; unset = unless KLAIS_DAM_MAX_RATE fixes it"
    )
    control_auto_block: Literal["off", "monitor", "on"] = Field(default="off", description="blocks of repeat offenders")
    # dam
    dam_max_rate: float = _number(10_000, "frames/s", 1, 100_000_000, "global rate, all lanes together")
    dam_burst_size: float = _number(50_000, "frames", 1, 1e9, "global burst, all lanes together")
    dam_device_rate: float = _number(1000, "frames/s", 0.001, 1e9, "rate of one device; above: dropped")
    dam_device_burst: float = _number(5000, "frames", 1, 1e9, "burst of one device")
    dam_queue_limit: int = _number(1_000_000, "frames", 0, 100_000_000, "queued above the global rate, all lanes together")
    dead_letter_rate: float = _number(1000, "records/s", 0, 1e6, "dead letters of one process; above: only counted")
    json_strict: bool = Field(
        default=False, description="refuse payloads with duplicate keys, lone surrogates, numbers of over 40 bytes"
    )
    # devices and anomalies
    devices_max: int = _number(2_000_000, "devices", 1, 100_000_000, "known at once, all lanes together")
    anomaly_z: float = _number(6.0, "", 1, 1000, "a feature is flagged when |z| is above this")
    anomaly_min_samples: int = _number(30, "samples", 2, 60_000, "of a feature before it is scored")
    anomaly_window: int = _number(500, "samples", 2, 60_000, "that the running mean and variance remember")
    anomaly_rate: float = _number(1000, "records/s", 0, 1e6, "anomalies of one process; above: only counted")
    # worker
    worker_id: str | None = _text(None, "name of this worker; unset = host-pid", r"^[a-zA-Z0-9._-]{1,100}$")
    web_port: int = _number(6066, "port", 1, 65_535, "the worker's web views")
    web_bind: Host = _text("127.0.0.1", "host address of the worker's web views, without port")
    checkpoint_interval_s: float = _number(5.0, "s", 0.05, 3600, "between checkpoints of a lane")
    lane_max_pending_bytes: int = _number(8 * _MIB, "bytes", _MIB, 1 << 30, "decided and not acknowledged yet, a lane")
    lane_refence_s: float = _number(72_000.0, "s", 1, 80_000, "between renewals of a lane's epoch (idle ones expire in a day)")
    session_timeout_s: float = _number(10.0, "s", 1, 300, "without heartbeat until a worker is replaced")
    # all
    state_dir: Folder = Field(default=Path(".klais"), description="folder of the embedded broker's data, sockets and logs")
    cache_dir: Folder | None = _text(None, "folder for what can be made again: jars, kernels; unset = ~/.cache/klais")
    env_file: Folder | None = _text(None, "file of KLAIS_NAME=value lines, read at the start and at SIGHUP; it wins")
    log_level: Level = Field(default="info", description="least severity that is written")
    log_format: Literal["text", "json"] = Field(default="text", description="form of a log line")
    fault_point: str | None = _text(
        None, "tests only: NAME[:N], the process kills itself at the N-th pass", r"^[A-Za-z0-9_.-]+(:[1-9][0-9]*)?$"
    )

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers in force: the named cluster, else the embedded broker."""
        return self.kafka_bootstrap or f"127.0.0.1:{self.kafka_port}"

    @property
    def auto_control(self) -> bool:
        """Whether the controller sets the global rate from the start: a rate that somebody set holds, the default is a
        start."""
        return "dam_max_rate" not in self.model_fields_set if self.control_auto is None else self.control_auto

    @property
    def embedded_kafka(self) -> bool:
        """Whether klais runs the broker itself."""
        return self.kafka_bootstrap is None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: the environment is read by :func:`load` and nowhere else."""
        return (init_settings,)
