"""Which worker and which edge a command asks."""

from klais.config.load import Settings
from klais.errors import ConfigError
from klais.system.address import split_address, url_of


def worker_of(settings: Settings, url: str | None) -> tuple[str, str | None]:
    """The worker that ``--url`` or the settings name.

    Returns
    -------
    str
        ``http://host:port``.
    str or None
        Address at which it listens when it is the one that these settings run: only that one gets the token of the
        state folder.
    """
    if named := url or settings.web_url:
        return named.rstrip("/"), None
    return url_of(settings.web_bind, settings.web_port), settings.web_bind


def edge_of(settings: Settings, url: str | None) -> tuple[str, str | None]:
    """The same for an edge.

    Raises
    ------
    klais.errors.ConfigError
        A profile is in force and names no edge: the one of this machine is not meant.
    """
    if named := url or settings.api_url:
        return named.rstrip("/"), None
    if settings.profile is not None:
        raise ConfigError(f"the profile {settings.profile!r} has no edge_url: add it, or name an edge with --url")
    host, port = split_address(settings.api_bind)
    return url_of(host, port), host
