"""Sources of the edge that work on this machine, for ``klais doctor``; each source checks itself.

No program is loaded and no port is bound.
"""

from collections.abc import Iterator

from klais.cli.doctor.checks import Finding
from klais.config.load import Settings
from klais.edge.sources import af_xdp, io_uring, ringbuf, udp

SOURCES = {"udp": udp, "io_uring": io_uring, "af_xdp": af_xdp, "ringbuf": ringbuf}


def check_sources(settings: Settings) -> Iterator[Finding]:
    """One finding for all sources, a failure if the configured one does not work."""
    reasons = {name: source.unavailable(settings) for name, source in SOURCES.items()}
    works = [name for name, reason in reasons.items() if reason is None]
    text = ", ".join(works) + "".join(f"; not {name}: {reason}" for name, reason in reasons.items() if reason)
    asked = settings.source
    if asked in ("auto", *works):
        yield Finding("sources", "ok", f"{asked} is set; available here: {text}")
    else:
        yield Finding(
            "sources", "fail", f"{asked} is set; available here: {text}", "fix the cause, or set KLAIS_SOURCE=auto"
        )
