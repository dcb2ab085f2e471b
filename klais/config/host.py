"""The name under which the processes of one machine find each other."""

import socket

from klais.config.settings import SettingsFields


def host_of(settings: SettingsFields) -> str:
    """Name of the machine and the folder of its pinned maps: whose filter it is that a process and its neighbours
    share."""
    return f"{socket.gethostname()}:{settings.xdp_pin_dir}"
