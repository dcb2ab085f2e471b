"""TLS and SASL reach a real broker through each of the three clients; a wrong password or CA does not."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable, KlaisError, SetupMissing
from klais.kafka.clients import aiokafka_config, confluent_config, faust_broker
from klais.kafka.probe import need_kafka
from tests.support.broker_with_users import broker_with_listener
from tests.support.needs import need_missing
from tests.support.process import PATIENCE, wait_for
from tests.support.topics import create_topics

USER, SECRET, TOPIC = "me", "hunter2-hunter2", "secured"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with a self-signed certificate for 127.0.0.1 and its key; it is its own CA."""
    folder = tmp_path_factory.mktemp("pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        need_missing("broker", "no openssl command to make a certificate with")
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return both


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, pem: Path) -> Iterator[dict[str, Any]]:
    """Settings that get into a broker with a SASL_SSL listener: one user, PLAIN and SCRAM-SHA-512."""
    jaas = "org.apache.kafka.common.security"
    properties = [
        "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
        f'listener.name.sasl_ssl.plain.sasl.jaas.config={jaas}.plain.PlainLoginModule required user_{USER}="{SECRET}";',
        f"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={jaas}.scram.ScramLoginModule required;",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={pem}",
    ]
    try:
        with broker_with_listener(tmp_path_factory.mktemp("secured"), "SASL_SSL", properties) as (plain, address):
            _add_user(plain)
            yield {
                "kafka_bootstrap": address,
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_username": USER,
                "kafka_sasl_password": SECRET,
                "kafka_ssl_cafile": pem,
            }
    except SetupMissing as error:
        need_missing("broker", str(error))


def _add_user(plain: Settings) -> None:
    admin = AdminClient(dict(confluent_config(plain)))
    create_topics(admin, NewTopic(TOPIC, 1, 1))
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    user = UserScramCredentialUpsertion(USER, info, SECRET.encode())
    admin.alter_user_scram_credentials([user])[USER].result()


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-512"])
async def test_all_clients_get_in(secured: dict[str, Any], mechanism: str | None) -> None:
    import faust
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    settings = Settings(**secured, kafka_sasl_mechanism=mechanism)
    assert TOPIC in AdminClient(dict(confluent_config(settings))).list_topics(timeout=20 * PATIENCE).topics
    urls, credentials = faust_broker(settings, faust.SASLCredentials)
    as_faust_does = credentials_to_aiokafka_auth(credentials) | {"bootstrap_servers": urls[0].removeprefix("kafka://")}
    for config in (aiokafka_config(settings), as_faust_does):
        producer = AIOKafkaProducer(**config)
        await producer.start()
        try:
            await producer.send_and_wait(TOPIC, b"x")
        finally:
            await producer.stop()
    assert SECRET not in repr(credentials)


def test_a_wrong_password_does_not(secured: dict[str, Any]) -> None:
    settings = Settings(**secured | {"kafka_sasl_password": "wrong"})
    errors: list[Any] = []
    admin = AdminClient(dict(confluent_config(settings)) | {"log_level": 0, "error_cb": errors.append})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=3)

    def refused() -> bool:
        admin.poll(0.1)
        return any("authentication" in error.str().lower() for error in errors)

    wait_for(refused, 3, lambda: f"word of the refused authentication, not {errors}")


def test_a_broker_that_no_known_ca_signed_is_refused(secured: dict[str, Any]) -> None:
    settings = Settings(**{name: value for name, value in secured.items() if name != "kafka_ssl_cafile"})
    admin = AdminClient(dict(confluent_config(settings)) | {"log_level": 0, "error_cb": lambda _: None})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=3)


def test_a_command_says_which_part_of_the_security_is_wrong(secured: dict[str, Any]) -> None:
    need_kafka(Settings(**secured))
    plain = {"kafka_bootstrap": secured["kafka_bootstrap"]}
    login = {name: value for name, value in secured.items() if name.startswith("kafka_sasl")}
    cases: list[tuple[dict[str, Any], type[KlaisError], str]] = [
        (plain, KafkaUnavailable, "TLS.* KLAIS_KAFKA_SECURITY_PROTOCOL"),
        (plain | login | {"kafka_security_protocol": "SASL_PLAINTEXT"}, KafkaUnavailable, "TLS"),
        (secured | {"kafka_ssl_cafile": None}, KafkaUnavailable, "certificate is refused.* KLAIS_KAFKA_SSL_CAFILE"),
        (secured | {"kafka_sasl_password": "wrong"}, KafkaForbidden, "(?i)authentication"),
    ]
    for given, kind, says in cases:
        with pytest.raises(kind, match=says):
            need_kafka(Settings(**given))
