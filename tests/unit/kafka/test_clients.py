"""Settings of the three Kafka clients: the same way in for each, secrets in none of their texts."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from klais.config.load import Settings
from klais.errors import ConfigError
from klais.kafka.clients import aiokafka_config, confluent_config, faust_broker
from tests.support.needs import need_command

SECRET = "hunter2-hunter2"


def sasl(**more: Any) -> Settings:
    given = {"kafka_bootstrap": "a:1,[::1]:2", "kafka_security_protocol": "SASL_PLAINTEXT"}
    given |= {"kafka_sasl_username": "me", "kafka_sasl_password": SECRET, "kafka_sasl_mechanism": "SCRAM-SHA-256"}
    return Settings(**(given | more))


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key, encrypted with SECRET."""
    folder = tmp_path_factory.mktemp("pem")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        need_command("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-days",
        "1",
        "-subj",
        "/CN=test",
    ]
    command += ["-passout", f"pass:{SECRET}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, capture_output=True, check=True)
    return cert, key


def test_plaintext_names_only_the_brokers() -> None:
    settings = Settings(kafka_port=1234)
    assert confluent_config(settings) == {"bootstrap.servers": "127.0.0.1:1234"}
    assert aiokafka_config(settings) == {"bootstrap_servers": "127.0.0.1:1234"}
    assert faust_broker(settings) == (["kafka://127.0.0.1:1234"], None)


def test_sasl_reaches_each_client() -> None:
    assert confluent_config(sasl()) == {
        "bootstrap.servers": "a:1,[::1]:2",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": SECRET,
    }
    assert aiokafka_config(sasl())["sasl_plain_password"] == SECRET
    urls, made = faust_broker(sasl(), sasl_credentials=dict)
    assert urls == ["kafka://a:1", "kafka://[::1]:2"]
    assert made == {"username": "me", "password": SECRET, "ssl_context": None, "mechanism": "SCRAM-SHA-256"}
    with pytest.raises(ConfigError, match="SASLCredentials"):
        faust_broker(sasl())


def test_their_texts_hold_no_secret() -> None:
    for config in (confluent_config(sasl()), aiokafka_config(sasl())):
        assert SECRET not in f"{config} {config!r}"
        assert SECRET in config.values(), "masked in text only"


def test_the_clients_take_them() -> None:
    from confluent_kafka import Producer

    quiet = {"log_level": 0, "error_cb": lambda _: None}
    Producer(dict(confluent_config(sasl(kafka_bootstrap="127.0.0.1:1"))) | quiet)


def test_tls_with_a_client_certificate(pem: tuple[Path, Path]) -> None:
    cert, key = pem
    files = {"kafka_ssl_cafile": cert, "kafka_ssl_certfile": cert, "kafka_ssl_keyfile": key}
    settings = sasl(kafka_security_protocol="SASL_SSL", kafka_ssl_keyfile_password=SECRET, **files)
    context = aiokafka_config(settings)["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    config = confluent_config(settings)
    assert config["ssl.key.location"] == str(key) and config["ssl.key.password"] == SECRET
    plain = Settings(kafka_bootstrap="a:1", kafka_security_protocol="SSL", kafka_ssl_cafile=cert)
    assert isinstance(faust_broker(plain)[1], ssl.SSLContext)
    with pytest.raises(ConfigError, match="KLAIS_KAFKA_SSL_CERTFILE") as caught:
        aiokafka_config(settings.model_copy(update={"kafka_ssl_keyfile_password": None}))
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("not a certificate")
    settings = Settings(kafka_bootstrap="a:1", kafka_security_protocol="SSL", kafka_ssl_cafile=wrong)
    with pytest.raises(ConfigError, match="KLAIS_KAFKA_SSL_CAFILE"):
        aiokafka_config(settings)


def test_what_is_made_of_them_holds_no_secret_in_its_text_either() -> None:
    settings = Settings(
        kafka_bootstrap="a:1", kafka_security_protocol="SASL_SSL", kafka_sasl_username="u", kafka_sasl_password=SECRET
    )
    config = confluent_config(settings)
    for more in (config | {"group.id": "g"}, {"group.id": "g"} | config, config.copy()):
        assert more["sasl.password"] == SECRET and SECRET not in repr(more) + str(more)
    assert ({"sasl.username": "x"} | config)["sasl.username"] == "u"
    assert (config | {"sasl.username": "x"})["sasl.username"] == "x"
