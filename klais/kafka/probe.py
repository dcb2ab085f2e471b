"""Check within about two seconds whether a Kafka broker answers at the bootstrap servers, and if not, why.

librdkafka retries all errors until a time-out and then only reports that no broker answered. This module sends one
protocol request, ``ApiVersions``, which every broker answers without authentication, and examines the response.
"""

import socket
import struct
import sys
import time
from enum import Enum
from typing import TYPE_CHECKING

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.clients import ssl_context
from klais.system.address import split_address
from klais.system.connect import CONNECT_S, connect, reason_of

if TYPE_CHECKING:
    import ssl

BUSY_BROKER_S = 5.0  # for a broker that is running but busy
_CORRELATION = 0x4B4C4149
_CLIENT = b"klais"
# size, api key 18 (ApiVersions), version 0, correlation id, client id
_BODY = struct.pack(">hhih", 18, 0, _CORRELATION, len(_CLIENT)) + _CLIENT
_QUESTION = struct.pack(">i", len(_BODY)) + _BODY
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake


class Answer(Enum):
    """The response of the bootstrap servers."""

    KAFKA = "a broker answers"
    SILENCE = "it accepts the connection and does not answer"
    NONE = "no broker answers"


def need_kafka(settings: Settings, patient: bool = True) -> None:
    """Return when a broker answers and accepts the login: commands check this before they wait for more.

    If a server accepts the connection and does not answer within two seconds, prints that on stderr and waits three
    more, for a busy broker; unless ``patient`` is False.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no broker answers; the message has the address, the setting with that address, the reason, and what to do.
    klais.errors.KafkaForbidden
        If the broker refuses the login.
    """
    found, why = probe(settings)
    if found is Answer.SILENCE and patient:
        where = f"{settings.bootstrap} ({settings.origin(*_names(settings))})"
        notice = f"klais: no answer yet from Kafka at {where}: waiting up to {BUSY_BROKER_S:g} s"
        print(notice, file=sys.stderr, flush=True)
        found, why = probe(settings, BUSY_BROKER_S - CONNECT_S)
    if found is not Answer.KAFKA:
        raise no_kafka(settings, why)
    if settings.kafka_security_protocol.startswith("SASL"):
        from klais.kafka.admin import wait_for_broker

        wait_for_broker(settings, BUSY_BROKER_S)


def listens(settings: Settings) -> bool:
    """Whether a bootstrap server accepts connections."""
    return probe(settings)[0] is not Answer.NONE


def no_kafka(settings: Settings, why: str) -> KafkaUnavailable:
    """The error of a command that needs Kafka: address, setting, reason, and what to do."""
    origin = settings.origin(*_names(settings))
    fix = "start one with `klais up` or `klais kafka start`, or name yours with KLAIS_KAFKA_BOOTSTRAP"
    if not settings.embedded_kafka:
        fix = "correct that setting, or unset it and start one with `klais up` or `klais kafka start`"
    return KafkaUnavailable(f"no Kafka answers at {settings.bootstrap} ({origin}): {why}. To fix it, {fix}")


def _names(settings: Settings) -> tuple[str, ...]:
    return ("kafka_port",) if settings.embedded_kafka else ("kafka_bootstrap",)


def probe(settings: Settings, timeout_s: float = CONNECT_S) -> tuple[Answer, str]:
    """The best response of the bootstrap servers, and why it is not a broker's.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster and its security.
    timeout_s : float
        Limit for all servers together.

    Raises
    ------
    klais.errors.ConfigError
        If a certificate cannot be read.
    """
    tls = ssl_context(settings) if settings.kafka_security_protocol.endswith("SSL") else None
    servers = settings.bootstrap.split(",")
    until_s = time.monotonic() + timeout_s
    best, why = Answer.NONE, ""
    for k, server in enumerate(servers):
        share_s = max(0.1, (until_s - time.monotonic()) / (len(servers) - k))
        found, said = _ask(server, tls, share_s)
        if found is Answer.KAFKA:
            return found, ""
        if not why or found is Answer.SILENCE:
            best, why = found, said
    return best, why


def _ask(server: str, tls: "ssl.SSLContext | None", timeout_s: float) -> tuple[Answer, str]:
    host, port = split_address(server)
    until_s = time.monotonic() + timeout_s
    try:
        raw = connect(host, port, timeout_s)
    except OSError as error:
        return Answer.NONE, reason_of(error)
    with raw:
        raw.settimeout(max(0.1, until_s - time.monotonic()))
        try:
            if tls is None:
                return _talk(raw)
            with tls.wrap_socket(raw, server_hostname=host) as secured:
                return _talk(secured)
        except TimeoutError:
            return Answer.SILENCE, Answer.SILENCE.value
        except OSError as error:
            wanted = ", which KLAIS_KAFKA_SECURITY_PROTOCOL requires" if tls is not None else ""
            if getattr(error, "verify_message", None):
                wanted = ": KLAIS_KAFKA_SSL_CAFILE names the CA that is trusted"
            return Answer.NONE, reason_of(error, tls is not None) + wanted


def _talk(server: socket.socket) -> tuple[Answer, str]:
    server.sendall(_QUESTION)
    patience_s = server.gettimeout() or CONNECT_S
    server.settimeout(patience_s / 2)
    try:
        got = server.recv(8)
    except TimeoutError:
        # A web server waits for the end of a line. A broker answers the request before it refuses this.
        server.sendall(b"\r\n\r\n")
        got = server.recv(8)
    while 0 < len(got) < 8 and (more := server.recv(8 - len(got))):
        got += more
    if len(got) == 8 and struct.unpack(">i", got[4:])[0] == _CORRELATION:
        return Answer.KAFKA, ""
    if got[:2] in _TLS_RECORDS:
        return Answer.NONE, "it speaks TLS: set KLAIS_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    if got:
        return Answer.NONE, "the server there is not Kafka"
    return Answer.NONE, "it closes the connection: not Kafka, or it expects TLS, see KLAIS_KAFKA_SECURITY_PROTOCOL"
