"""Common part of the sources behind the XDP filter."""

import os

from klais.config.load import Settings


def unavailable(settings: Settings) -> str | None:
    """Why no source behind the filter works here, or None if the filter is, or can be, loaded."""
    from klais.errors import KlaisError
    from klais.xdp import build, netlink

    if os.geteuid() != 0:
        return "the XDP filter needs root"
    if settings.iface is None:
        return "no interface is named (KLAIS_IFACE)"
    try:
        netlink.link(settings.iface)
    except KlaisError as error:
        return str(error)
    return None if build.ready() else "bcc is missing (`bin/setup` as root installs it)"
