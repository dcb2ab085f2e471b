"""Connection settings for the three Kafka clients, from one place: confluent-kafka, aiokafka and Faust.

They hold secrets: the mappings returned here mask them when printed. Do not log their values.
"""

from collections.abc import Callable
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from klais.config.load import Settings
from klais.errors import ConfigError

if TYPE_CHECKING:
    import ssl

_SECRET_KEYS = frozenset({"sasl.password", "ssl.key.password", "sasl_plain_password"})


class ClientConfig(dict[str, Any]):
    """A dict whose ``repr`` masks passwords, so that no log line or traceback shows one; copies and unions mask them
    too."""

    def __repr__(self) -> str:
        return repr({key: "***" if key in _SECRET_KEYS else value for key, value in self.items()})

    __str__ = __repr__

    def __or__(self, other: Any) -> "ClientConfig":  # type: ignore[override]
        """A union that masks too."""
        return ClientConfig({**self, **other})

    def __ror__(self, other: Any) -> "ClientConfig":  # type: ignore[override]
        """A union from the right-hand side: the keys of this mapping win."""
        return ClientConfig({**other, **self})

    def copy(self) -> "ClientConfig":
        """A copy that masks too."""
        return ClientConfig(self)


_HEADERS = methodcaller("headers")


def confluent_config(settings: Settings) -> dict[str, Any]:
    """Addresses and credentials of the cluster, in librdkafka's configuration names.

    It sets only what the settings name: without a CA file librdkafka finds the system's certificates itself.
    """
    config = ClientConfig({"bootstrap.servers": settings.bootstrap})
    protocol = settings.kafka_security_protocol
    if protocol != "PLAINTEXT":
        config["security.protocol"] = protocol
    if protocol.startswith("SASL"):
        config["sasl.mechanism"] = _mechanism(settings)
        config["sasl.username"], config["sasl.password"] = _login(settings)
    if protocol.endswith("SSL"):
        files = {
            "ssl.ca.location": settings.kafka_ssl_cafile,
            "ssl.certificate.location": settings.kafka_ssl_certfile,
            "ssl.key.location": settings.kafka_ssl_keyfile,
        }
        config.update({key: str(path) for key, path in files.items() if path})
        if settings.kafka_ssl_keyfile_password:
            config["ssl.key.password"] = settings.kafka_ssl_keyfile_password.get_secret_value()
    return config


def headers_of(message: Any) -> tuple[tuple[str, bytes | None], ...]:
    """Headers of a message of confluent-kafka; none if the name of one is not UTF-8, which it cannot read.

    Then ``headers`` returns a result although it has raised an error. Only a call from C checks for that: Python 3.11
    would raise the error at some later call.
    """
    try:
        return tuple(_HEADERS(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ()


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """The same as keyword arguments of ``AIOKafkaProducer`` and ``AIOKafkaConsumer``, including a TLS context.

    Raises
    ------
    ConfigError
        If a certificate or key file cannot be read.
    """
    config = ClientConfig({"bootstrap_servers": settings.bootstrap})
    protocol = settings.kafka_security_protocol
    if protocol != "PLAINTEXT":
        config["security_protocol"] = protocol
    if protocol.startswith("SASL"):
        config["sasl_mechanism"] = _mechanism(settings)
        config["sasl_plain_username"], config["sasl_plain_password"] = _login(settings)
    if protocol.endswith("SSL"):
        config["ssl_context"] = ssl_context(settings)
    return config


def faust_broker(settings: Settings, sasl_credentials: Callable[..., Any] | None = None) -> tuple[list[str], Any]:
    """``broker`` and ``broker_credentials`` of a Faust app.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    sasl_credentials : callable, optional
        ``faust.SASLCredentials``, passed in because this library does not import Faust. Needed only for SASL.

    Returns
    -------
    list of str
        One ``kafka://host:port`` URL for each broker.
    object or None
        None for PLAINTEXT, an ``ssl.SSLContext`` for SSL, else the result of ``sasl_credentials``.

    Raises
    ------
    ConfigError
        If SASL is configured without ``sasl_credentials``, or a certificate cannot be read.
    """
    urls = [f"kafka://{server}" for server in settings.bootstrap.split(",")]
    protocol = settings.kafka_security_protocol
    context = ssl_context(settings) if protocol.endswith("SSL") else None
    if not protocol.startswith("SASL"):
        return urls, context
    if sasl_credentials is None:
        raise ConfigError(
            f"KLAIS_KAFKA_SECURITY_PROTOCOL={protocol} needs faust.SASLCredentials passed to faust_broker()"
        )
    username, password = _login(settings)
    made = sasl_credentials(username=username, password=password, ssl_context=context, mechanism=_mechanism(settings))
    return urls, made


def ssl_context(settings: Settings) -> "ssl.SSLContext":
    """TLS context of a client: server certificates are always checked, against the CA file or the system's store.

    Raises
    ------
    ConfigError
        If a file is missing, unreadable or not PEM, or the key's password is wrong.
    """
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    except OSError as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"KLAIS_KAFKA_SSL_CAFILE={settings.kafka_ssl_cafile} cannot be read: {error}") from error
    if settings.kafka_ssl_certfile:
        secret = settings.kafka_ssl_keyfile_password
        # "" instead of None: with None OpenSSL would ask on the terminal for the password of an encrypted key.
        password = secret.get_secret_value() if secret else ""
        try:
            context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile, password)
        except OSError as error:
            names = f"KLAIS_KAFKA_SSL_CERTFILE={settings.kafka_ssl_certfile} KEYFILE={settings.kafka_ssl_keyfile}"
            raise ConfigError(f"{names} cannot be read: {error}") from error
    return context


def _mechanism(settings: Settings) -> str:
    return settings.kafka_sasl_mechanism or "PLAIN"


def _login(settings: Settings) -> tuple[str, str]:
    if not settings.kafka_sasl_username or settings.kafka_sasl_password is None:
        raise ConfigError(
            f"KLAIS_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs KLAIS_KAFKA_SASL_USERNAME and "
            "KLAIS_KAFKA_SASL_PASSWORD"
        )
    return settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
