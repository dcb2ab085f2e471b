"""The peers: what each is, what it does of KLAIS's work, and what it takes to have it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from klais.config.load import load
from klais.system.paths import cache_root

LINGER_MS = 10.0


@dataclass(frozen=True, slots=True)
class Does:
    """What a peer does as it is set up here; from its documentation, not measured."""

    keyed_by_device: str
    json_check: str
    binary_safe: str
    exactly_once: str
    survives_outage: str

    def public(self) -> dict[str, str]:
        """As one JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway or worker. ``debian`` and ``python`` are packages of its own folder; both empty: it comes with us.

    ``variant``: the same program with another linger; ``linger_ms``: None = the program's own default.
    """

    name: str
    title: str
    does: Does
    debian: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    program: str = ""  # a file below its folder that must be there
    text: bool = False  # it gets text of the same length instead of binary frames
    variant: str = ""
    linger_ms: float | None = LINGER_MS

    @property
    def label(self) -> str:
        """Its name in figures, for example ``syslog_ng`` or ``rsyslog_70ms``."""
        return "_".join(filter(None, (self.name, self.variant))).replace("-", "_")


_KLAIS = Peer(
    "klais", "KLAIS edge", Does("yes", "no, the worker does", "yes", "from acceptance on", "yes: spool on disk")
)
_RSYSLOG = Peer(
    "rsyslog",
    "rsyslog: imudp, omkafka",
    Does("no", "no", "no: escapes control characters", "no", "in memory only"),
    debian=("rsyslog", "rsyslog-kafka"),
    program="root/usr/sbin/rsyslogd",
    text=True,
)
GATEWAYS = (
    _KLAIS,
    _RSYSLOG,
    replace(_KLAIS, title="KLAIS edge, its defaults", variant="defaults", linger_ms=None),
    replace(_RSYSLOG, title="rsyslog, its default linger", variant="defaults", linger_ms=None),
    replace(_RSYSLOG, title="rsyslog, linger 70 ms", variant="70ms", linger_ms=70.0),
    Peer(
        "syslog-ng",
        "syslog-ng: network, kafka-c",
        Does("no", "no", "no: ends a message at NUL or LF", "no", "in memory only"),
        debian=("syslog-ng-core", "syslog-ng-mod-rdkafka"),
        program="root/usr/sbin/syslog-ng",
        text=True,
    ),
    Peer(
        "uvloop",
        "uvloop and confluent-kafka",
        Does("yes", "no", "yes", "no", "in memory only"),
        python=("uvloop", "confluent-kafka"),
        program="venv/bin/python",
    ),
    Peer(
        "asyncio",
        "asyncio and aiokafka",
        Does("yes", "no", "yes", "no", "in memory only"),
    ),
    Peer(
        "tenzir",
        "Tenzir: accept_udp, to_kafka",
        Does("no", "no", "yes: as a blob", "no", "in memory only"),
        python=("tenzir",),
        program="venv/bin/tenzir",
    ),
)
WORKERS = (
    Peer("klais", "KLAIS worker", Does("yes", "yes", "yes", "yes", "yes")),
    Peer("faust", "plain Faust agent", Does("yes", "yes", "yes", "no", "not tested")),
    Peer(
        "quixstreams",
        "QuixStreams, stateful count with changelog",
        Does("yes", "yes", "yes", "no: at least once", "not tested"),
        python=("quixstreams",),
        program="venv/bin/python",
    ),
    Peer(
        "bytewax",
        "Bytewax, stateful count with recovery store",
        Does("yes", "yes", "yes", "no: at least once", "not tested"),
        python=("bytewax[kafka]",),
        program="venv/bin/python",
    ),
)
ALL = tuple({(peer.name, peer.title): peer for peer in (*GATEWAYS, *WORKERS)}.values())


def folder(peer: Peer) -> Path:
    """Where a peer lies: a folder of its own in the cache."""
    return cache_root(load().cache_dir) / "bench-peers" / peer.name


def missing(peer: Peer) -> str | None:
    """Why a peer cannot be measured; None when it is there."""
    if not peer.program or (folder(peer) / peer.program).exists():
        return None
    why = folder(peer) / "why-not.txt"
    if why.exists():
        return why.read_text().strip()
    return "not installed: python -m bench peers --install"
