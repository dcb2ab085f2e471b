"""The name that identifies a machine to its processes."""

import socket

from klais.config.settings import SettingsFields


def host_of(settings: SettingsFields) -> str:
    """Name of the machine and the folder of its pinned maps, which identify the XDP filter that its processes share."""
    return f"{socket.gethostname()}:{settings.xdp_pin_dir}"
