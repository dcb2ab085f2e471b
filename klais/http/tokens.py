"""The token that a client sends. Separate from :mod:`klais.http.access`, so that commands start fast."""

from klais.config.secret import Secret
from klais.config.secret_file import read_secret
from klais.config.settings import SettingsFields
from klais.system.address import is_loopback

TOKEN_FILE = "api.token"


def token_to_read(settings: SettingsFields, host: str | None = None) -> str | None:
    """The token that a client with these settings sends to read; None if there is none.

    ``host`` is the bind address of a server with the same state folder; the token that this server generated counts
    too.

    Raises
    ------
    klais.errors.ConfigError
        If the token's file exists and cannot be used.
    """
    return text_of_secret(settings.api_read_token) or token_to_change(settings, host)


def token_to_change(settings: SettingsFields, host: str | None = None) -> str | None:
    """The token that a client of these settings sends to make changes; ``host`` and errors as above."""
    token = text_of_secret(settings.api_token)
    if token is None and host is not None and not is_loopback(host):
        path = settings.state_dir / TOKEN_FILE
        token = read_secret(path, "token file") if path.exists() else None
    return token


def text_of_secret(secret: Secret | None) -> str | None:
    """The text of a setting that may be unset."""
    return secret.get_secret_value() if secret is not None else None
