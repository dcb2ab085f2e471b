"""All settings of all processes: name, type, default, unit, range, meaning. :mod:`klais.config.load` reads them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from klais.config import checks
from klais.config.checked import After, Before
from klais.config.secret import Secret

if TYPE_CHECKING:
    from pydantic import BaseModel as _Fields  # type checkers know the keywords of a model, and these become one
else:
    _Fields = object

_MIB = 1 << 20
_LONG = {"note": "at least 16 characters"}
LANDING_MS = 30.0
"""Time from a batch leaving the edge until its frames are readable, on a busy host (ms)."""
EDGE_IDS = 65_520
"""Edges have lower numbers; numbers from here on are frames that ``klais redrive`` sends again."""


def _number(default: float | None, unit: str, low: float, high: float, description: str) -> Any:
    """A numeric field with its unit and range (both ends allowed)."""
    extra = {"unit": unit}
    return _field(default, description, ge=low, le=high, allow_inf_nan=False, json_schema_extra=extra)


def _text(default: str | None, description: str, pattern: str | None = None) -> Any:
    return _field(default, description, pattern=pattern)


def _field(default: Any, description: str, **more: Any) -> Any:
    """What pydantic makes a field of, and what commands without pydantic read (:mod:`klais.config.quick`)."""
    return dataclasses.field(default=default, metadata={"description": description, **more})


Address = Annotated[str, After(checks.check_address)]
Host = Annotated[str, After(checks.check_host)]
Hosts = Annotated[str, After(checks.check_hosts)]
Networks = Annotated[str, After(checks.check_networks)]
Token = Annotated[Secret, After(checks.check_token)]
Url = Annotated[str, After(checks.check_url)]
Link = Annotated[str, After(checks.check_link)]
Servers = Annotated[str, After(checks.check_servers)]
Folder = Annotated[Path, After(checks.check_folder)]
Prefixes = Annotated[str, After(checks.check_prefixes)]
Queues = Annotated[str, After(checks.check_queues)]
HashKey = Annotated[Secret, After(checks.check_hash_key)]
Level = Annotated[Literal["debug", "info", "warning", "error"], Before(checks.lower)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def linger_of(latency_ms: float) -> float:
    """The linger (ms) for a latency target: half of the target, at most 30 ms, is reserved for Kafka and the worker.

    Examples
    --------
    >>> linger_of(10.0), linger_of(100.0)
    (5.0, 70.0)
    """
    return max(0.5 * latency_ms, latency_ms - LANDING_MS)


class SettingsFields(_Fields):
    """All settings of all processes; names in the environment are ``KLAIS_`` + the field's name in capitals.

    :class:`klais.config.load.Settings` makes a pydantic model of them, :mod:`klais.config.quick` reads them without.
    """

    # edge
    udp_bind: Address = _text("0.0.0.0:5000", "address and port on which the edge receives frames; [::]:5000 for IPv6")
    udp_rcvbuf_bytes: int = _number(
        64 * _MIB, "bytes", 65_536, 1 << 30, "socket buffer that the edge requests from the kernel"
    )
    udp_share_port: bool = _field(False, "whether several edge processes of one user share the UDP port")
    udp_timestamps: bool = _field(
        False, "whether `ts` of a frame is when the kernel received it, also from the UDP socket"
    )
    api_bind: Address = _text("127.0.0.1:8080", "address and port of the edge's REST API")
    api_token: Token | None = _text(
        None, "bearer token for changes over HTTP, 16 characters or more; it also allows reading"
    )
    api_token_file: Folder | None = _text(None, "file that holds KLAIS_API_TOKEN (0600)")
    api_read_token: Token | None = _text(None, "bearer token for reading over HTTP, 16 characters or more")
    api_read_token_file: Folder | None = _text(None, "file that holds KLAIS_API_READ_TOKEN (0600)")
    api_open_reads: bool = _field(False, "whether anyone may read on a server that does not listen on loopback")
    api_hosts: Hosts = _text("", "further host names of the HTTP servers, a,b; .example.org = all names below it")
    api_proxies: Networks = _text("", "proxies whose X-Forwarded-For counts: addresses or networks, a,b")
    api_connections: int = _number(
        64, "connections", 4, 10_000, "HTTP connections of one server; one client may have a quarter"
    )
    api_url: Url | None = _text(
        None, "edge that commands query, like http://host:8080; unset = the one at KLAIS_API_BIND"
    )
    edge_id: int = _number(1, "", 0, EDGE_IDS - 1, "number of this edge, unique in the deployment")
    edge_id_from: Literal["number", "name", "claim"] = _field(
        "number",
        "where the number comes from: KLAIS_EDGE_ID, the end of KLAIS_EDGE_NAME, a claim in klais_control",
    )
    edge_name: str | None = _text(
        None, "name of this edge, like klais-edge-3; unset = from machine and state folder", r"^[a-zA-Z0-9._-]{1,253}$"
    )
    frame_max_bytes: int = _number(2072, "bytes", 64, 65_507, "longest frame; the edge drops longer ones as too_long")
    batch_max_bytes: int = _number(131_072, "bytes", 1024, 900_000, "size at which a frame batch closes")
    latency_ms: float = _number(
        100.0, "ms", 5, 1000, "target from a frame's arrival until it is on iot_telemetry; longer costs less CPU"
    )
    batch_linger_ms: float | None = _number(
        None, "ms", 0, 1000, "age at which a batch closes, longer under load; unset = follows KLAIS_LATENCY_MS"
    )
    batch_sources: bool = _field(False, "whether a frame batch holds the source address of each frame")
    publish_max_inflight_bytes: int = _number(
        64 * _MIB,
        "bytes",
        _MIB,
        4 << 30,
        "memory for batches that Kafka has not acknowledged; above: spool, or drops as backpressure",
    )
    # Kafka
    kafka_bootstrap: Servers | None = _text(
        None, "bootstrap servers of your cluster, host:port,...; unset = the embedded broker"
    )
    kafka_port: int = _number(9092, "port", 1, 65_535, "port of the embedded broker")
    kafka_heap_mb: int = _number(512, "MiB", 128, 65_536, "heap of the embedded broker")
    kafka_jit: Literal["quick", "full"] = _field(
        "quick", "JIT of the embedded broker's JVM: full needs less CPU after some minutes"
    )
    kafka_topic: str = _text("iot_telemetry", "topic for clean records", r"^[a-zA-Z0-9._-]{1,180}$")
    topic_prefix: str = _text("", "prefix of every topic, group and transactional id", r"^[a-zA-Z0-9._-]{0,60}$")
    partitions: int = _number(
        4, "", 1, 1024, "partitions of every topic that is keyed by device; you cannot change it later"
    )
    replication: int = _number(1, "", 1, 10, "minimum number of replicas of every topic")
    kafka_flush: Literal["os", "each"] = _field(
        "os",
        "when brokers flush klais_raw and klais_journal: `os` = when the kernel does, `each` = before they "
        "acknowledge; with one broker only `each` survives a power cut",
    )
    kafka_security_protocol: Protocol = _field("PLAINTEXT", "security protocol of all Kafka clients")
    kafka_sasl_mechanism: Mechanism | None = _text(None, "SASL mechanism; unset = PLAIN")
    kafka_sasl_username: str | None = _text(None, "SASL user name")
    kafka_sasl_password: Secret | None = _text(None, "SASL password")
    kafka_sasl_password_file: Folder | None = _text(None, "file that holds KLAIS_KAFKA_SASL_PASSWORD (0600)")
    kafka_ssl_cafile: Folder | None = _text(None, "PEM file with the CA of the brokers' certificates")
    kafka_ssl_certfile: Folder | None = _text(None, "PEM file with the client's certificate")
    kafka_ssl_keyfile: Folder | None = _text(None, "PEM file with the client's private key")
    kafka_ssl_keyfile_password: Secret | None = _text(None, "password of the client's key")
    kafka_ssl_keyfile_password_file: Folder | None = _text(
        None, "file that holds KLAIS_KAFKA_SSL_KEYFILE_PASSWORD (0600)"
    )
    # kernel side (XDP) and the edge's source
    source: Literal["auto", "udp", "io_uring", "af_xdp", "ringbuf"] = _field(
        "udp", "how the edge receives frames; auto = the fastest source that works here"
    )
    iface: str | None = _text(
        None, "network interface of the XDP filter and of the sources af_xdp and ringbuf", r"^[^\s/]{1,15}$"
    )
    xdp_queues: Queues | None = _text(None, "receive queues of the interface for af_xdp, like 0-3,8; unset = all")
    xdp_pin_dir: Folder = _field(Path("/sys/fs/bpf/klais"), "bpffs folder for the pinned program and maps")
    xdp_heartbeat_s: float = _number(
        10.0,
        "s",
        0.1,
        3600,
        "age of the controller's set-points at which the filter returns to the limits given at load",
    )
    xdp_devices: int = _number(
        1_048_576, "devices", 1024, 16_777_216, "entries of the filter's device table, rounded up to a power of two"
    )
    xdp_ring_bytes: int = _number(
        16 * _MIB, "bytes", 65_536, 1 << 30, "size of the filter's ring, rounded up to a power of two"
    )
    # breaker and spool of the edge
    breaker_timeout_s: float = _number(5.0, "s", 0.1, 600, "time without acknowledgement after which the breaker opens")
    breaker_wait_min_s: float = _number(0.5, "s", 0.01, 600, "first wait of an open breaker before it sends a probe")
    breaker_wait_max_s: float = _number(10.0, "s", 0.01, 3600, "longest wait between two probes")
    spool_dir: Folder | None = _text(
        None, "folder in which the edge creates its spool-<edge id>; unset = the state folder"
    )
    spool_max_bytes: int = _number(4 << 30, "bytes", 0, 1 << 44, "largest size of the spool; 0 = no spool")
    spool_sync: Literal["batch", "interval", "none"] = _field(
        "interval", "when the edge syncs the spool: before each poll, at an interval, or never"
    )
    spool_sync_interval_ms: float = _number(100.0, "ms", 1, 60_000, "interval of syncs with KLAIS_SPOOL_SYNC=interval")
    edge_workers: int = _number(1, "processes", 1, 256, "edge processes that `klais edge` starts on one port")
    cpus: str | None = _text(
        None, "CPUs to which edge processes are pinned: auto, or a list like 0-3,8; unset = none", r"^(auto|[0-9,-]+)$"
    )
    # controller
    # Gains and the set-point of the lag go together. With these values, a loop with up to 0.4 s of delay around a
    # worker of 300,000 frames/s settles. With a lag of 20,000 frames, or with kp 0.5, it oscillates: docs/control.md.
    pid_kp: float = _number(0.2, "", 0, 1000, "proportional gain")
    pid_ki: float = _number(0.1, "1/s", 0, 1000, "integral gain")
    pid_kd: float = _number(0.05, "s", 0, 1000, "derivative gain, on the filtered measurement")
    pid_filter_s: float = _number(0.5, "s", 0, 60, "time constant of the filter before the derivative")
    pid_period_s: float = _number(0.1, "s", 0.02, 10, "interval of decisions")
    pid_lag_setpoint: float = _number(100_000, "frames", 1, 1e9, "set-point of the lag, all workers together")
    pid_cpu_setpoint: float = _number(0.8, "", 0.01, 1, "set-point of the CPU share of the busiest process")
    pid_rate_min: float = _number(1000, "frames/s", 1, 100_000_000, "lowest global rate that the controller sets")
    pid_rate_max: float = _number(1_000_000, "frames/s", 1, 100_000_000, "highest global rate that the controller sets")
    control_auto: bool | None = _field(
        None,
        "whether the controller sets the global rate; unset = yes, unless KLAIS_DAM_MAX_RATE is set",
    )
    control_auto_block: Literal["off", "monitor", "on", "all"] = _field(
        "off",
        "whether the controller blocks repeat offenders: no, log only, those that the lanes have known for "
        "less than a day, all",
    )
    forecast: Literal["learned", "trend", "none"] = _field(
        "learned", "forecast of the traffic: a learned model, the trend of the last minute, none"
    )
    models_dir: Folder | None = _text(None, "folder of your own models; unset = models in KLAIS_STATE_DIR")
    llm: str = _field("own", "language model for explanations: own (the small one), none, or a GGUF file's path")
    # dam
    dam_max_rate: float = _number(10_000, "frames/s", 1, 100_000_000, "global rate, all lanes together")
    dam_burst_size: float = _number(50_000, "frames", 1, 1e9, "global burst, all lanes together")
    dam_device_rate: float = _number(1000, "frames/s", 0.001, 1e9, "rate of one device; the lane drops frames above it")
    dam_device_burst: float = _number(5000, "frames", 1, 1e9, "burst of one device")
    dam_queue_limit: int = _number(
        1_000_000, "frames", 0, 100_000_000, "length of the queues above the global rate, all lanes together"
    )
    dam_queue_bytes: int = _number(512 * _MIB, "bytes", 0, 1 << 40, "memory of the queues, all lanes together")
    dead_letter_rate: float = _number(1000, "records/s", 0, 1e6, "dead letters of one process; above: only counted")
    dead_letter_bytes: float = _number(1 << 20, "bytes/s", 0, 1e10, "frame bytes in dead letters of one edge process")
    json_strict: bool = _field(False, "whether lanes refuse duplicate keys, lone surrogates and numbers above 40 bytes")
    # devices and anomalies
    devices_max: int = _number(
        2_000_000, "devices", 1, 100_000_000, "maximum number of known devices, all lanes together"
    )
    devices_forget_s: float = _number(2_592_000.0, "s", 60, 1e9, "silence after which a lane forgets a device")
    devices_new_rate: float = _number(10_000.0, "devices/s", 0.001, 1e9, "new devices of one lane; above: dropped")
    sequence: Literal["on", "off"] = _field("on", "drop duplicates by number and bytes; off = never")
    sequence_off: Prefixes = _text("", "first bytes of the ids of devices without a counter, a,b")
    sequence_window_s: float = _number(60.0, "s", 1, 600, "time after which a lane forgets a frame for duplicates")
    sequence_key: HashKey | None = _field(
        None, "secret of the frame hash, the same for all workers; unset = none", json_schema_extra=_LONG
    )
    sequence_key_file: Folder | None = _text(None, "file that holds KLAIS_SEQUENCE_KEY (0600)")
    sequence_strict: bool = _field(
        False, "whether lanes refuse unsigned frames with a number far behind; false = count them"
    )
    # authenticated frames
    auth: Literal["off", "monitor", "sticky", "require"] = _field(
        "off",
        "authenticated frames: not known, counted, required of devices that were seen to sign, of all",
    )
    auth_key_file: Folder | None = _text(None, "file with the secret of each key generation (0600), see `klais auth`")
    auth_keys_file: Folder | None = _text(None, "JSON file with devices' own keys, device_id: hex or null (0600)")
    auth_exempt: Prefixes = _text(
        "", "first bytes of the ids that may send unsigned frames with KLAIS_AUTH=require, a,b"
    )
    auth_max_skew_s: float = _number(
        0.0, "s", 0, 1e9, "how far ahead of the edge's clock an epoch in Unix seconds may be; 0 = any epoch"
    )
    auth_xdp_bytes: int = _number(512, "bytes", 64, 512, "longest signed frame that the XDP filter checks itself")
    anomaly_detector: Literal["two_tier", "zscore"] = _field(
        "two_tier", "what scores frames: see docs/intelligence.md; zscore = the running z-score"
    )
    anomaly_threshold: float = _number(5.0, "", 1, 1000, "two_tier: score from which a report is flagged")
    anomaly_period_s: float = _number(10.0, "s", 0.1, 3600, "two_tier: minimum interval of a device's regular scores")
    anomaly_bytes: int = _number(256 * _MIB, "bytes", _MIB, 1 << 40, "two_tier: memory of a worker for profiles")
    anomaly_cpu_share: float = _number(0.2, "", 0.001, 1, "two_tier: share of a core that scores may take in a worker")
    anomaly_save_bytes: int = _number(
        2_000_000, "bytes/s", 0, 1 << 30, "two_tier: profiles saved by one worker; 0 = none"
    )
    anomaly_z: float = _number(6.0, "", 1, 1000, "zscore: threshold of |z| above which a feature is flagged")
    anomaly_min_samples: int = _number(30, "samples", 2, 60_000, "zscore: samples of a feature before its first score")
    anomaly_window: int = _number(500, "samples", 2, 60_000, "zscore: samples over which mean and variance are taken")
    anomaly_rate: float = _number(1000, "records/s", 0, 1e6, "anomaly records of one process; above: only counted")
    incident_window_s: float = _number(
        30.0, "s", 1, 3600, "window within which flags of several devices form one incident"
    )
    incident_devices: int = _number(
        3, "devices", 2, 100_000, "devices with flags of one feature within the window that form an incident"
    )
    incident_score: float = _number(10.0, "", 1, 1e6, "score from which a flag of one device is an incident")
    incident_quiet_s: float = _number(600.0, "s", 1, 86_400, "time without a flag after which an incident is over")
    fingerprint: Literal["on", "off"] = _field(
        "on", "find the types of devices and flag those that change; off = no fingerprints"
    )
    fingerprint_train_s: float = _number(3600.0, "s", 0, 1e9, "interval at which a worker trains the types; 0 = never")
    fingerprint_bytes: int = _number(
        4 << 30, "bytes", 64 * _MIB, 1 << 40, "maximum address space of the process that trains types"
    )
    # worker
    worker_id: str | None = _text(None, "name of this worker; unset = host-pid", r"^[a-zA-Z0-9._-]{1,100}$")
    web_port: int = _number(6066, "port", 1, 65_535, "port of the worker's web views")
    web_bind: Host = _text("127.0.0.1", "address of the worker's web views, without port")
    web_advertise: Address | None = _text(
        None, "address and port at which other workers reach this one; unset = KLAIS_WEB_BIND and KLAIS_WEB_PORT"
    )
    web_url: Url | None = _text(
        None, "worker that commands query, like http://host:6066; unset = the one at KLAIS_WEB_BIND and KLAIS_WEB_PORT"
    )
    web_grafana_url: Link | None = _text(None, "Grafana that the live page links to; unset = none")
    group_instance: str | None = _text(
        None, "static name of this worker in the group, unique in it; unset = none", r"^[a-zA-Z0-9._-]{1,100}$"
    )
    checkpoint_interval_s: float = _number(5.0, "s", 0.05, 3600, "interval of a lane's checkpoints")
    lane_max_pending_bytes: int = _number(
        8 * _MIB, "bytes", _MIB, 1 << 30, "maximum bytes that a lane has decided and Kafka has not acknowledged"
    )
    lane_refence_s: float = _number(
        72_000.0, "s", 1, 80_000, "interval at which a lane renews its epoch; brokers forget unused ones after a day"
    )
    session_timeout_s: float = _number(
        10.0, "s", 1, 300, "time without heartbeat after which the group replaces a worker"
    )
    # all
    state_dir: Folder = _field(Path(".klais"), "folder for the embedded broker's data, spools, sockets and logs")
    cache_dir: Folder | None = _text(
        None, "folder for jars and, if the environment sets it, compiled kernels; unset = ~/.cache/klais"
    )
    config: str | None = _text(
        None, "TOML file of settings; none = read none; unset = ./klais.toml, else /etc/klais/klais.toml"
    )
    profile: str | None = _text(
        None, "profile of ~/.config/klais/profiles.toml: the system that commands query", r"^[A-Za-z0-9_-]{1,60}$"
    )
    env_file: Folder | None = _text(
        None, "file of KLAIS_NAME=value lines, read at start and at SIGHUP; overrides the environment"
    )
    log_level: Level = _field("info", "lowest severity that is logged")
    log_format: Literal["text", "json"] = _field("text", "format of log lines")
    fault_point: str | None = _text(
        None,
        "for tests: NAME[:N], the process kills itself when it passes that point for the N-th time",
        r"^[A-Za-z0-9_.-]+(:[1-9][0-9]*)?$",
    )

    @property
    def labels(self) -> Mapping[str, str]:
        """How messages refer to the given settings."""
        return {}

    def origin(self, *names: str) -> str:
        """Where the value of these settings comes from, for a message: those that are given, or the defaults.

        Examples
        --------
        >>> from klais.config.load import load
        >>> load({"KLAIS_WEB_PORT": "6067"}).origin("web_bind", "web_port"), load({}).origin("web_port")
        ('KLAIS_WEB_PORT', 'the default of KLAIS_WEB_PORT')
        """
        given = [name for name in names if name in self.model_fields_set]
        labels = " and ".join(self.labels.get(name, f"KLAIS_{name.upper()}") for name in given or names)
        return labels if given else f"the default of {labels}"

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers in force: the named cluster, else the embedded broker."""
        return self.kafka_bootstrap or f"127.0.0.1:{self.kafka_port}"

    @property
    def linger_ms(self) -> float:
        """Age at which a batch closes (ms) if the workers are not busy."""
        if self.batch_linger_ms is not None:
            return self.batch_linger_ms
        return linger_of(self.latency_ms)

    @property
    def auto_control(self) -> bool:
        """Whether the controller sets the global rate from the start. An explicit rate is kept, the default is a start
        value."""
        return "dam_max_rate" not in self.model_fields_set if self.control_auto is None else self.control_auto

    @property
    def embedded_kafka(self) -> bool:
        """Whether KLAIS runs its own broker."""
        return self.kafka_bootstrap is None

    @property
    def frame_hash_key(self) -> bytes:
        """Key of the frame hash (16 bytes): BLAKE2b of ``KLAIS_SEQUENCE_KEY``, or of the topic prefix."""
        from hashlib import blake2b  # OpenSSL, which few commands need

        secret = self.sequence_key.get_secret_value() if self.sequence_key is not None else self.topic_prefix
        return blake2b(secret.encode(), digest_size=16, person=b"klais-sequence").digest()

    @property
    def uncounted_prefixes(self) -> tuple[bytes, ...]:
        """First bytes of the ids whose sequence numbers are ignored; the empty prefix = all ids."""
        if self.sequence == "off":
            return (b"",)
        return tuple(sorted({prefix.encode() for prefix in self.sequence_off.split(",") if prefix}))
