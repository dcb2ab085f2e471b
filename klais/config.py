"""The configuration: ``KLAIS_*`` from the environment, frozen, typed, read once.

Every field states unit and range. :func:`load` reports all problems together and refuses unknown ``KLAIS_`` names.
``Settings(topic_prefix="x", ...)`` built directly takes what it is given and the defaults, never the environment.
"""

import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from klais import config_checks as checks
from klais.errors import ConfigError
from klais.text import escape

PREFIX = "KLAIS_"
# Read by tests and tools; not settings, and not mistakes either.
ENV_EXTRA = ("KLAIS_REQUIRE", "KLAIS_FAULT_ROUNDS")
ENV_EXTRA_PREFIX = "KLAIS_TEST_"
_MASK = "***"
_FILES = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
_WRONG = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is none of the choices",
    "string_pattern_mismatch": "has characters that are not allowed, or too many",
    "too_short": "is too short",
}
_MIB = 1 << 20


def _number(default: float, unit: str, low: float, high: float, description: str) -> Any:
    """A numeric field with its unit and range (both ends allowed)."""
    extra: dict[str, Any] = {"unit": unit}
    return Field(default=default, ge=low, le=high, allow_inf_nan=False, description=description, json_schema_extra=extra)


def _text(default: str | None, description: str, pattern: str | None = None) -> Any:
    return Field(default=default, description=description, pattern=pattern)


Address = Annotated[str, AfterValidator(checks.check_address)]
Host = Annotated[str, AfterValidator(checks.check_host)]
Servers = Annotated[str, AfterValidator(checks.check_servers)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(checks.lower)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class Settings(BaseSettings):
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
    api_token: SecretStr | None = Field(default=None, min_length=1, description="bearer token that changes by REST need")
    edge_id: int = _number(1, "", 0, 65_535, "number of this edge, unique in the deployment")
    batch_max_bytes: int = _number(131_072, "bytes", 1024, 900_000, "a frame batch closes at this size")
    batch_linger_ms: float = _number(10.0, "ms", 0, 1000, "a frame batch closes at latest after this; sooner at low rates")
    batch_sources: bool = Field(default=False, description="put each frame's source address into the frame batch")
    publish_max_inflight_bytes: int = _number(
        64 * _MIB, "bytes", _MIB, 4 << 30, "handed to Kafka and not acknowledged yet; above: backpressure"
    )
    # Kafka
    kafka_bootstrap: Servers | None = _text(None, "host:port,... of a cluster; unset = the embedded broker")
    kafka_port: int = _number(9092, "port", 1, 65_535, "the embedded broker's port")
    kafka_heap_mb: int = _number(512, "MiB", 128, 65_536, "heap of the embedded broker")
    kafka_topic: str = _text("iot_telemetry", "topic of the clean records", r"^[a-zA-Z0-9._-]{1,180}$")
    topic_prefix: str = _text("", "put before every topic and group name", r"^[a-zA-Z0-9._-]{0,60}$")
    partitions: int = _number(4, "", 1, 1024, "partitions of every topic that is split by device")
    replication: int = _number(1, "", 1, 10, "replicas of the topics that klais creates")
    kafka_security_protocol: Protocol = Field(default="PLAINTEXT", description="how clients talk to the cluster")
    kafka_sasl_mechanism: Mechanism | None = _text(None, "how to log in with SASL; unset = PLAIN")
    kafka_sasl_username: str | None = _text(None, "name to log in with")
    kafka_sasl_password: SecretStr | None = _text(None, "password to log in with")
    kafka_ssl_cafile: Folder | None = _text(None, "PEM file of the CA that signed the brokers' certificates")
    kafka_ssl_certfile: Folder | None = _text(None, "PEM file of the client's certificate")
    kafka_ssl_keyfile: Folder | None = _text(None, "PEM file of the client's key")
    kafka_ssl_keyfile_password: SecretStr | None = _text(None, "password of the client's key")
    # dam
    dam_max_rate: float = _number(10_000, "frames/s", 1, 100_000_000, "global rate, all lanes together")
    dam_burst_size: float = _number(50_000, "frames", 1, 1e9, "global burst, all lanes together")
    dam_device_rate: float = _number(1000, "frames/s", 0.001, 1e9, "rate of one device; above: dropped")
    dam_device_burst: float = _number(5000, "frames", 1, 1e9, "burst of one device")
    dam_queue_limit: int = _number(1_000_000, "frames", 0, 100_000_000, "queued above the global rate, all lanes together")
    dead_letter_rate: float = _number(1000, "records/s", 0, 1e6, "dead letters of one process; above: only counted")
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
    lane_max_pending_bytes: int = _number(32 * _MIB, "bytes", _MIB, 1 << 30, "decided and not acknowledged yet, a lane")
    lane_refence_s: float = _number(72_000.0, "s", 1, 80_000, "between renewals of a lane's epoch (idle ones expire in a day)")
    session_timeout_s: float = _number(10.0, "s", 1, 300, "without heartbeat until a worker is replaced")
    # all
    state_dir: Folder = Field(default=Path(".klais"), description="folder of the embedded broker's data, sockets and logs")
    cache_dir: Folder | None = _text(None, "folder for what can be made again: jars, kernels; unset = ~/.cache/klais")
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

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Settings":
        problems = checks.cross_problems(self)
        if problems:
            text = "; ".join(problem.text for problem in problems)
            raise PydanticCustomError("settings", "{text}", {"text": text, "problems": problems})
        return self


@dataclass(frozen=True, slots=True)
class Row:
    """One setting for people: its name in the environment, values as text (secrets masked), and what it means."""

    name: str
    value: str | None
    default: str | None
    range: str
    description: str
    source: Literal["env", "default"]


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment (``os.environ`` unless another is given); an empty variable counts as not set.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The variables to read.
    overrides : Any
        Fields that win over the environment (options of a command); None leaves a field as it is.

    Raises
    ------
    klais.errors.ConfigError
        With every problem at once, one line each: name, value (secrets masked), what is wrong, unit and range.

    Examples
    --------
    >>> load({"KLAIS_PARTITIONS": "8"}, kafka_port=9999).partitions
    8
    """
    env = os.environ if environ is None else environ
    given: dict[str, Any] = _given(env) | {name: value for name, value in overrides.items() if value is not None}
    lines = [_unknown(name) for name in sorted(env) if name.startswith(PREFIX) and not _known(name)]
    lines += _unreadable(given)
    values = dict(given)
    bad: set[str] = set()
    while True:
        try:
            settings = Settings(**values)
            break
        except ValidationError as error:
            found = error.errors(include_url=False)
        lines += [line for detail in found for line in _lines(detail, given, bad)]
        worse = {str(detail["loc"][0]) for detail in found if detail["loc"]}
        if not worse:  # only fields that do not fit together: all is said
            break
        bad |= worse
        values = {name: value for name, value in values.items() if name not in worse}
    if lines:
        raise ConfigError("\n".join(lines))
    return settings


def environ_of(settings: Settings) -> dict[str, str]:
    """The variables that make :func:`load` give ``settings`` again, secrets included: for the environment of a child.

    Examples
    --------
    >>> environ_of(Settings(partitions=8))
    {'KLAIS_PARTITIONS': '8'}
    """
    out = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value is not None and value != field.default:
            out[PREFIX + name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return out


def describe(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Row]:
    """All settings in the order of their declaration; ``source`` says whether the environment names them."""
    given = _given(os.environ if environ is None else environ)
    rows = []
    for name, field in Settings.model_fields.items():
        row = Row(
            name=PREFIX + name.upper(),
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            range=range_of(field),
            description=field.description or "",
            source="env" if name in given else "default",
        )
        rows.append(row)
    return rows


def range_of(field: FieldInfo) -> str:
    """Unit and range, or choices, of a field: ``1 to 65535 port``; empty where anything goes."""
    choices = _choices(field.annotation)
    if choices:
        return " | ".join(choices)
    if field.annotation is bool:
        return "true | false"
    unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), None)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    if low is None and high is None:
        least = next((m.min_length for m in field.metadata if getattr(m, "min_length", None)), None)
        return f"at least {least} characters" if least else ""
    return f"{_digits(low)} to {_digits(high)} {unit}".rstrip()


def is_secret(name: str) -> bool:
    """Whether the field of that name holds a secret."""
    return SecretStr in _members(Settings.model_fields[name].annotation)


def _given(env: Mapping[str, str]) -> dict[str, str]:
    exact = {name: value for name, value in env.items() if name.startswith(PREFIX) and name == name.upper()}
    source = EnvSettingsSource(Settings, case_sensitive=False, env_ignore_empty=True)
    source.env_vars = {name.lower(): value for name, value in exact.items() if value != ""}
    return source()


def _known(name: str) -> bool:
    fields = {PREFIX + field.upper() for field in Settings.model_fields}
    return name in fields or name in ENV_EXTRA or name.startswith(ENV_EXTRA_PREFIX)


def _unknown(name: str) -> str:
    fields = [field.upper() for field in Settings.model_fields]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), fields, n=1, cutoff=0.6)
    hint = f": did you mean {PREFIX}{near[0]}?" if near else ": `klais config show` lists them all"
    return f"{escape(name)}: is not a setting of klais{hint}"


def _lines(detail: ErrorDetails, given: Mapping[str, Any], bad: set[str]) -> list[str]:
    if detail["type"] == "settings":
        problems = detail["ctx"]["problems"]
        return [problem.text for problem in problems if not bad.intersection(problem.fields)]
    name = str(detail["loc"][0])
    field = Settings.model_fields[name]
    value = _MASK if is_secret(name) else _clip(str(given[name]))
    kind = detail["type"]
    wrong = str(detail["ctx"]["error"]) if kind == "value_error" else _WRONG.get(kind, detail["msg"])
    pattern = detail.get("ctx", {}).get("pattern") if kind == "string_pattern_mismatch" else None
    allowed = f"must match {pattern}" if pattern else range_of(field)
    return [f"{PREFIX}{name.upper()}={value}: {wrong} ({'; '.join(filter(None, (allowed, field.description)))})"]


def _unreadable(given: Mapping[str, Any]) -> list[str]:
    """Files that are named and cannot be read: better said now than at the first connection."""
    out = []
    for name in _FILES:
        path = Path(given[name]).expanduser() if name in given else None
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            out.append(f"{PREFIX}{name.upper()}={_clip(str(path))}: is not a readable file")
    return out


def _clip(value: str) -> str:
    text = escape(value)
    return repr(text if len(text) <= 80 else text[:77] + "...") if text.strip() != text or not text else text[:80]


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, bool):
        return str(value).lower()
    return _digits(value) if isinstance(value, int | float) else str(value)


def _digits(value: float | None) -> str:
    if value is None:
        return "any"
    return str(int(value)) if float(value).is_integer() else repr(value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def _choices(annotation: Any) -> list[str]:
    literals = [part for part in _members(annotation) if typing.get_origin(part) is Literal]
    return [str(choice) for literal in literals for choice in typing.get_args(literal)]
