"""Which worker and which edge a command asks."""

from dataclasses import dataclass

from klais.config.settings import SettingsFields
from klais.errors import ConfigError
from klais.system.address import split_address, url_of


@dataclass(frozen=True, slots=True)
class Server:
    """A server that a command asks.

    Attributes
    ----------
    url : str
        ``http://host:port``.
    own : str or None
        Address at which it listens when it is the one that these settings run: only that one gets the token of the
        state folder.
    origin : str
        Which option or setting names it, for messages.
    """

    url: str
    own: str | None
    origin: str


def worker_of(settings: SettingsFields, url: str | None) -> Server:
    """The worker that ``--url`` or the settings name."""
    if url:
        return Server(url.rstrip("/"), None, "--url")
    if settings.web_url:
        return Server(settings.web_url.rstrip("/"), None, settings.origin("web_url"))
    where = url_of(settings.web_bind, settings.web_port)
    return Server(where, settings.web_bind, settings.origin("web_bind", "web_port"))


def edge_of(settings: SettingsFields, url: str | None) -> Server:
    """The same for an edge.

    Raises
    ------
    klais.errors.ConfigError
        A profile is in force and names no edge: the one of this machine is not meant.
    """
    if url:
        return Server(url.rstrip("/"), None, "--url")
    if settings.api_url:
        return Server(settings.api_url.rstrip("/"), None, settings.origin("api_url"))
    if settings.profile is not None:
        raise ConfigError(f"the profile {settings.profile!r} has no edge_url: add it, or name an edge with --url")
    host, port = split_address(settings.api_bind)
    return Server(url_of(host, port), host, settings.origin("api_bind"))


def token_fix(status: int) -> str:
    """What to do about a refusal."""
    if status == 401:
        return "; set KLAIS_API_READ_TOKEN or KLAIS_API_TOKEN to the server's token"
    return ""
