"""The token that a client sends, found without what only servers need."""

from klais.config.secret import Secret
from klais.config.secret_file import read_secret
from klais.config.settings import SettingsFields
from klais.system.address import is_loopback

TOKEN_FILE = "api.token"


def token_to_read(settings: SettingsFields, host: str | None = None) -> str | None:
    """The token that a client of these settings sends to read, None where there is none.

    With ``host``, the bind address of a server of the same state folder, also the token that this server made for
    itself.

    Raises
    ------
    klais.errors.ConfigError
        The token's file is there and cannot be used.
    """
    return text_of_secret(settings.api_read_token) or token_to_change(settings, host)


def token_to_change(settings: SettingsFields, host: str | None = None) -> str | None:
    """The token that a client of these settings sends to change something; ``host`` and errors as above."""
    token = text_of_secret(settings.api_token)
    if token is None and host is not None and not is_loopback(host):
        path = settings.state_dir / TOKEN_FILE
        token = read_secret(path, "token file") if path.exists() else None
    return token


def text_of_secret(secret: Secret | None) -> str | None:
    """The text of a setting that may be unset."""
    return secret.get_secret_value() if secret is not None else None
