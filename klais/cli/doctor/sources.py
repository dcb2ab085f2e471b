"""Which sources of the edge work on this machine, for ``klais doctor``: each source answers.

Nothing is loaded or bound.
"""

from collections.abc import Iterator

from klais.cli.doctor.checks import Finding
from klais.config.load import Settings
from klais.edge.sources import af_xdp, io_uring, ringbuf, udp

SOURCES = {"udp": udp, "io_uring": io_uring, "af_xdp": af_xdp, "ringbuf": ringbuf}


def check_sources(settings: Settings) -> Iterator[Finding]:
    """One finding for all sources; a failure when the configured one does not work."""
    reasons = {name: source.unavailable(settings) for name, source in SOURCES.items()}
    works = [name for name, reason in reasons.items() if reason is None]
    text = ", ".join(works) + "".join(f"; not {name}: {reason}" for name, reason in reasons.items() if reason)
    asked = settings.source
    if asked in ("auto", *works):
        yield Finding("sources", "ok", f"{asked} is set; here work {text}")
    else:
        yield Finding("sources", "fail", f"{asked} is set; here work {text}", "fix that, or set KLAIS_SOURCE=auto")
