"""What a command says about a Kafka that it cannot reach: real sockets on loopback, no broker."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from klais.config.load import Settings, load
from klais.errors import KafkaUnavailable
from klais.kafka.probe import Answer, need_kafka, no_kafka, probe


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that lets ``talk`` handle each connection; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                with one:
                    one.settimeout(30)
                    with suppress(OSError):
                        talk(one)

        threading.Thread(target=run, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def broker(one: socket.socket) -> None:
    size, key, version, correlation = struct.unpack(">ihhi", one.recv(12))
    assert (key, version) == (18, 0) and size > 8
    one.sendall(struct.pack(">iihi", 10, correlation, 0, 0))


def web(one: socket.socket) -> None:
    got = b""
    while b"\n" not in got:
        got += one.recv(100)
    one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def tls_alert(one: socket.socket) -> None:
    one.recv(100)
    one.sendall(b"\x15\x03\x03\x00\x02\x02\x46")


def hang_up(one: socket.socket) -> None:
    one.recv(100)


def silent(one: socket.socket) -> None:
    while one.recv(100):
        pass


def asked(address: str, protocol: str = "PLAINTEXT") -> tuple[Answer, str]:
    return probe(Settings(kafka_bootstrap=address, kafka_security_protocol=protocol), 0.5)


def test_a_broker_is_found_among_servers_that_are_none() -> None:
    with server(broker) as good, server(web) as other:
        answers = [probe(Settings(kafka_bootstrap=one), 30) for one in (good, f"{other},{good}", f"127.0.0.1:1,{good}")]
    assert answers == [(Answer.KAFKA, "")] * 3


@pytest.mark.parametrize(
    ("talk", "protocol", "says"),
    [
        (web, "PLAINTEXT", "is not Kafka"),
        (tls_alert, "PLAINTEXT", "it speaks TLS: set KLAIS_KAFKA_SECURITY_PROTOCOL"),
        (hang_up, "PLAINTEXT", "it expects TLS"),
        (web, "SSL", "not speak TLS, which KLAIS_KAFKA_SECURITY_PROTOCOL requires"),
        (hang_up, "SSL", "not speak TLS, which KLAIS_KAFKA_SECURITY_PROTOCOL requires"),
    ],
)
def test_what_answers_and_is_no_broker_is_named(talk: Callable[..., None], protocol: str, says: str) -> None:
    with server(talk) as address:
        found, why = probe(Settings(kafka_bootstrap=address, kafka_security_protocol=protocol), 30)
    assert found is Answer.NONE and says in why


def test_silence_is_another_answer_than_nobody() -> None:
    with server(silent) as address:
        assert asked(address) == (Answer.SILENCE, "it accepts the connection and does not answer")
    assert asked("127.0.0.1:1") == (Answer.NONE, "connection refused")
    assert asked("kafka.invalid:9092")[0] is Answer.NONE


def test_a_refused_handshake_is_no_missing_tls() -> None:
    """A broker that wants a client certificate speaks TLS: the message must not say that it does not."""
    from klais.system.connect import reason_of

    error = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert reason_of(error) == "TLS fails: tlsv13_alert_certificate_required"


def test_the_error_names_the_setting_that_gives_the_address() -> None:
    named = load({"KLAIS_KAFKA_BOOTSTRAP": "127.0.0.1:1"})
    with pytest.raises(KafkaUnavailable) as caught:
        need_kafka(named)
    assert str(caught.value).startswith("no Kafka answers at 127.0.0.1:1 (KLAIS_KAFKA_BOOTSTRAP): connection refused.")
    assert "127.0.0.1:9092 (the default of KLAIS_KAFKA_PORT): x. To fix it, start one" in str(no_kafka(load({}), "x"))
