"""Which sources of the edge work on this machine, for ``klais doctor``: asked of the kernel, nothing is loaded or bound."""

import os
import socket
from collections.abc import Iterator

from klais.cli.doctor.checks import Finding
from klais.config.load import Settings

_AF_XDP = 44


def check_sources(settings: Settings) -> Iterator[Finding]:
    """One finding for all; what the settings ask for and cannot have is a failure."""
    works, fails = ["udp"], []
    for name, why_not in (("io_uring", _why_not_io_uring), ("af_xdp", _why_not_af_xdp), ("ringbuf", _why_not_filter)):
        if why := why_not(settings):
            fails.append((name, why))
        else:
            works.append(name)
    text = ", ".join(works) + "".join(f"; not {name}: {why}" for name, why in fails)
    asked = settings.source
    if asked in ("auto", *works):
        yield Finding("sources", "ok", f"{asked} is set; here work {text}")
    else:
        yield Finding("sources", "fail", f"{asked} is set; here work {text}", "mend that, or KLAIS_SOURCE=auto")


def _why_not_io_uring(settings: Settings) -> str:
    from klais.edge.sources.io_uring.ring import Uring

    try:
        Uring(2).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _why_not_filter(settings: Settings) -> str:
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
    return "" if build.ready() else "bcc is missing (`bin/setup` as root installs it)"


def _why_not_af_xdp(settings: Settings) -> str:
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW).close()
    except PermissionError:
        return "AF_XDP needs root (CAP_NET_RAW)"
    except OSError:
        return "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
    return _why_not_filter(settings)
