"""What a setting must satisfy beyond its type: addresses, and the fields that must fit together (pure functions)."""

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klais.config.load import Settings

_HOST_NAME = re.compile(r"^(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?$")
_SSL_FIELDS = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile", "kafka_ssl_keyfile_password")
_SASL_FIELDS = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with several settings together; ``fields`` are the ones it speaks of."""

    fields: tuple[str, ...]
    text: str


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[IPv6]:port``.

    Raises
    ------
    ValueError
        Not an address; the message says what is wrong.

    Examples
    --------
    >>> split_address("[::1]:5000"), split_address("localhost:80")
    (('::1', 5000), ('localhost', 80))
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("must be host:port, as in 127.0.0.1:5000 or [::]:5000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host, 6):
            raise ValueError(f"{host!r} in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in [::]:5000")
    elif not _is_ip(host, 4) and not _HOST_NAME.match(host):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"port {port!r} is not a number from 0 to 65535")
    return host, int(port)


def check_address(text: str) -> str:
    """An address to listen on; port 0 lets the kernel choose."""
    split_address(text)
    return text


def check_host(text: str) -> str:
    """An IP address or host name without port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_ip(bare, 4) and not _is_ip(bare, 6) and not _HOST_NAME.match(text):
        raise ValueError("must be an IP address or a host name, without port")
    return bare


def check_servers(text: str) -> str:
    """A list of brokers ``host:port,host:port``; blanks around the commas are taken out."""
    servers = [server.strip() for server in text.split(",") if server.strip()]
    if not servers:
        raise ValueError("must name at least one broker as host:port")
    for server in servers:
        try:
            port = split_address(server)[1]
        except ValueError as error:
            raise ValueError(f"broker {server!r}: {error}") from None
        if port == 0:
            raise ValueError(f"broker {server!r}: port 0 is not a port to connect to")
    return ",".join(servers)


def lower(value: Any) -> Any:
    """Lower case, where it is text."""
    return value.lower() if isinstance(value, str) else value


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def cross_problems(s: "Settings") -> list[Problem]:
    """What is wrong with the fields of ``s`` taken together."""
    checks = (_sasl_problems, _ssl_problems, _broker_problems, _topic_problems, _source_problems, _worker_problems)
    return [problem for check in checks for problem in check(s)]


def _sasl_problems(s: "Settings") -> list[Problem]:
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


def _ssl_problems(s: "Settings") -> list[Problem]:
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
                "KLAIS_KAFKA_SSL_KEYFILE_PASSWORD is set, KLAIS_KAFKA_SSL_KEYFILE is not: the password of which key?",
            )
        )
    return out


def _source_problems(s: "Settings") -> list[Problem]:
    if s.source in ("af_xdp", "ringbuf") and s.iface is None:
        text = f"KLAIS_SOURCE={s.source} needs KLAIS_IFACE, which is not set: the interface that frames come in by"
        return [Problem(("source", "iface"), text)]
    return []


def _unused(s: "Settings", fields: tuple[str, ...], protocols: str) -> list[Problem]:
    """Someone who sets a CA file or a password believes that it is used: say that it is not."""
    return [
        Problem(
            (field, "kafka_security_protocol"),
            f"{_env(field)} is set, but KLAIS_KAFKA_SECURITY_PROTOCOL={s.kafka_security_protocol} does not use it: "
            f"set it to {protocols}",
        )
        for field in fields
        if getattr(s, field) is not None
    ]


def _broker_problems(s: "Settings") -> list[Problem]:
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


def _topic_problems(s: "Settings") -> list[Problem]:
    from klais.kafka.topics import Topics

    names = Topics.of(s)
    others = {names.raw, names.anomalies, names.journal, names.dead_letter, names.stats, names.control}
    if names.telemetry in others | {names.devices_changelog}:
        text = f"KLAIS_KAFKA_TOPIC={s.kafka_topic!r} is the name of another topic of klais: choose another"
        return [Problem(("kafka_topic",), text)]
    if names.telemetry in (".", ".."):
        return [Problem(("kafka_topic", "topic_prefix"), f"{names.telemetry!r} cannot be the name of a topic")]
    return []


def _worker_problems(s: "Settings") -> list[Problem]:
    n = s.edge_workers
    if n == 1:
        return []
    out = []
    if split_address(s.udp_bind)[1] == 0:
        text = f"KLAIS_EDGE_WORKERS={n} needs a KLAIS_UDP_BIND with a port to share"
        out.append(Problem(("edge_workers", "udp_bind"), text))
    if s.edge_id + n > 1 << 16:
        text = f"KLAIS_EDGE_WORKERS={n} from KLAIS_EDGE_ID={s.edge_id} on: ids end at 65535"
        out.append(Problem(("edge_workers", "edge_id"), text))
    if s.source in ("af_xdp", "ringbuf"):
        text = f"KLAIS_SOURCE={s.source} is read by one process, KLAIS_EDGE_WORKERS={n} want to share it: use udp or io_uring"
        out.append(Problem(("edge_workers", "source"), text))
    return out


def warnings(s: "Settings") -> list[str]:
    """What works but is seldom meant; for ``klais config check`` and the doctor."""
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
    host, port = split_address(s.api_bind)
    if s.api_token is None and not _is_loopback(host):
        out.append(f"KLAIS_API_BIND={s.api_bind} is not loopback and KLAIS_API_TOKEN is not set: anyone may change the rate")
    if s.api_token is not None and len(s.api_token.get_secret_value()) < 16:
        out.append("KLAIS_API_TOKEN has fewer than 16 characters: make one with `openssl rand -hex 16`")
    if not _is_loopback(s.web_bind):
        out.append(f"KLAIS_WEB_BIND={s.web_bind} is not loopback: the web views have no login")
    ports = [("KLAIS_API_BIND", port), ("KLAIS_WEB_PORT", s.web_port)]
    ports += [("KLAIS_KAFKA_PORT", s.kafka_port)] if s.embedded_kafka else []
    for i, (name, number) in enumerate(ports):
        for other, same in ports[i + 1 :]:
            if number == same:
                out.append(f"{name} and {other} both use port {number}: they cannot run on one machine")
    return out


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _env(field: str) -> str:
    return f"KLAIS_{field.upper()}"
