"""Checks of settings that depend on each other, and warnings about rare combinations (pure functions)."""

from typing import NamedTuple

from klais.config.fields import FIELDS
from klais.config.settings import EDGE_IDS, SettingsFields
from klais.system.address import is_loopback, split_address

_SSL_FIELDS = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile", "kafka_ssl_keyfile_password")
_SASL_FIELDS = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")


class Problem(NamedTuple):
    """One thing that is wrong with several settings together; ``fields`` are those it concerns."""

    fields: tuple[str, ...]
    text: str


def cross_problems(s: SettingsFields) -> list[Problem]:
    """Problems of the fields of ``s`` in combination."""
    checks = (_sasl_problems, _ssl_problems, _broker_problems, _topic_problems, _source_problems, _worker_problems)
    return [problem for check in checks for problem in check(s)]


def _sasl_problems(s: SettingsFields) -> list[Problem]:
    out = []
    protocol = s.kafka_security_protocol
    if protocol.startswith("SASL"):
        for field in ("kafka_sasl_username", "kafka_sasl_password"):
            if getattr(s, field) is None:
                text = f"KLAIS_KAFKA_SECURITY_PROTOCOL={protocol} needs {_env(field)}, which is not set"
                out.append(Problem(("kafka_security_protocol", field), text))
    else:
        out += _unused(s, _SASL_FIELDS, "SASL_PLAINTEXT or SASL_SSL")
    return out


def _ssl_problems(s: SettingsFields) -> list[Problem]:
    if not s.kafka_security_protocol.endswith("SSL"):
        return _unused(s, _SSL_FIELDS, "SSL or SASL_SSL")
    out = []
    pair = ("kafka_ssl_certfile", "kafka_ssl_keyfile")
    if (s.kafka_ssl_certfile is None) != (s.kafka_ssl_keyfile is None):
        have, lacks = pair if s.kafka_ssl_certfile else pair[::-1]
        out.append(Problem(pair, f"{_env(have)} is set, {_env(lacks)} is not: certificate and key go together"))
    if s.kafka_ssl_keyfile_password is not None and s.kafka_ssl_keyfile is None:
        out.append(
            Problem(
                ("kafka_ssl_keyfile_password", "kafka_ssl_keyfile"),
                "KLAIS_KAFKA_SSL_KEYFILE_PASSWORD is set, KLAIS_KAFKA_SSL_KEYFILE is not: set the key too",
            )
        )
    return out


def _source_problems(s: SettingsFields) -> list[Problem]:
    if s.source in ("af_xdp", "ringbuf") and s.iface is None:
        text = f"KLAIS_SOURCE={s.source} needs KLAIS_IFACE, which is not set: the interface that receives the frames"
        return [Problem(("source", "iface"), text)]
    return []


def _unused(s: SettingsFields, fields: tuple[str, ...], protocols: str) -> list[Problem]:
    """Settings without effect: a user who sets a CA file or a password expects that it is used."""
    return [
        Problem(
            (field, "kafka_security_protocol"),
            f"{_env(field)} is set, but KLAIS_KAFKA_SECURITY_PROTOCOL={s.kafka_security_protocol} does not use it: "
            f"set it to {protocols}",
        )
        for field in fields
        if getattr(s, field) is not None
    ]


def _broker_problems(s: SettingsFields) -> list[Problem]:
    if not s.embedded_kafka:
        return []
    out = []
    if s.kafka_security_protocol != "PLAINTEXT":
        text = (
            f"KLAIS_KAFKA_SECURITY_PROTOCOL={s.kafka_security_protocol} needs KLAIS_KAFKA_BOOTSTRAP: "
            "the embedded broker speaks PLAINTEXT on loopback only"
        )
        out.append(Problem(("kafka_security_protocol", "kafka_bootstrap"), text))
    if s.replication > 1:
        text = (
            f"KLAIS_REPLICATION={s.replication} needs KLAIS_KAFKA_BOOTSTRAP: the embedded broker is one node, "
            "which holds 1 replica"
        )
        out.append(Problem(("replication", "kafka_bootstrap"), text))
    return out


def _topic_problems(s: SettingsFields) -> list[Problem]:
    if s.kafka_topic == FIELDS["kafka_topic"].default:
        return []  # like no other topic, whatever the prefix
    from klais.config.topic_names import TopicNames

    names = TopicNames.of(s)
    # Kafka has no two topics whose names differ in . and _ only: the names of its metrics would be the same.
    if names.telemetry.replace(".", "_") in {name.replace(".", "_") for name in names.others}:
        text = f"KLAIS_KAFKA_TOPIC={s.kafka_topic!r} is the name of another topic of klais: choose another"
        return [Problem(("kafka_topic",), text)]
    if names.telemetry in (".", ".."):
        return [Problem(("kafka_topic", "topic_prefix"), f"{names.telemetry!r} cannot be the name of a topic")]
    return []


def _worker_problems(s: SettingsFields) -> list[Problem]:
    n = s.edge_workers
    if n == 1:
        return []
    out = []
    if split_address(s.udp_bind)[1] == 0:
        text = f"KLAIS_EDGE_WORKERS={n} needs a KLAIS_UDP_BIND with a port to share"
        out.append(Problem(("edge_workers", "udp_bind"), text))
    if s.edge_id + n > EDGE_IDS:
        text = f"KLAIS_EDGE_WORKERS={n} from KLAIS_EDGE_ID={s.edge_id} on: ids end at {EDGE_IDS - 1}"
        out.append(Problem(("edge_workers", "edge_id"), text))
    if s.source in ("af_xdp", "ringbuf"):
        text = f"KLAIS_SOURCE={s.source} serves one process, not KLAIS_EDGE_WORKERS={n}: use udp or io_uring"
        out.append(Problem(("edge_workers", "source"), text))
    return out


def warnings(s: SettingsFields) -> list[str]:
    """Combinations that work but are rarely intended, for ``klais config check`` and ``klais doctor``."""
    out = []
    if s.dam_device_burst > s.dam_burst_size:
        out.append(
            f"KLAIS_DAM_DEVICE_BURST={s.dam_device_burst:g} is above KLAIS_DAM_BURST_SIZE={s.dam_burst_size:g}: "
            "one device may use up the whole global burst"
        )
    if s.dam_device_rate > s.dam_max_rate:
        out.append(
            f"KLAIS_DAM_DEVICE_RATE={s.dam_device_rate:g} is above KLAIS_DAM_MAX_RATE={s.dam_max_rate:g}: "
            "one device may use up the whole global rate"
        )
    if s.batch_linger_ms is not None and {"batch_linger_ms", "latency_ms"} <= s.model_fields_set:
        out.append(
            f"KLAIS_BATCH_LINGER_MS={s.batch_linger_ms:g} sets the linger: KLAIS_LATENCY_MS={s.latency_ms:g} only "
            "serves as the reference for measured latency"
        )
    host, port = split_address(s.api_bind)
    out += _http_warnings(s, host)
    if s.kafka_security_protocol == "SASL_PLAINTEXT" and (s.kafka_sasl_mechanism or "PLAIN") == "PLAIN":
        out.append(
            "KLAIS_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT with KLAIS_KAFKA_SASL_MECHANISM=PLAIN sends the password "
            "unencrypted: use SASL_SSL, or SCRAM-SHA-512"
        )
    ports = [("KLAIS_API_BIND", port), ("KLAIS_WEB_PORT", s.web_port)]
    ports += [("KLAIS_KAFKA_PORT", s.kafka_port)] if s.embedded_kafka else []
    for i, (name, number) in enumerate(ports):
        for other, same in ports[i + 1 :]:
            if number == same:
                out.append(f"{name} and {other} both use port {number}: they cannot run on one machine")
    return out


def _http_warnings(s: SettingsFields, api_host: str) -> list[str]:
    out = []
    away = [
        name for name, host in (("KLAIS_API_BIND", api_host), ("KLAIS_WEB_BIND", s.web_bind)) if not is_loopback(host)
    ]
    for name in away:
        if s.api_open_reads and s.api_read_token is None:
            out.append(f"{name} is not loopback and KLAIS_API_OPEN_READS is set: anyone who reaches it may read")
        else:
            out.append(
                f"{name} is not loopback: tokens and responses are not encrypted, put a proxy with TLS in front of it"
            )
    if "KLAIS_API_BIND" in away and s.api_token is None:
        out.append(
            "KLAIS_API_BIND is not loopback and KLAIS_API_TOKEN is not set: a token is created in the state folder"
        )
    if "KLAIS_WEB_BIND" in away and s.api_read_token is None and not s.api_open_reads:
        out.append(
            "KLAIS_WEB_BIND is not loopback, KLAIS_API_READ_TOKEN is not set: workers with other state folders get 401"
        )
    return out


def _env(field: str) -> str:
    return f"KLAIS_{field.upper()}"
