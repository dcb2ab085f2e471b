"""The place of each setting in ``klais.toml``: a table, and a key in it that does not repeat the table's name."""

from klais.config.fields import FIELDS

# The first words of the settings of a table; the longest match applies.
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "kafka": ("kafka", "topic_prefix", "partitions", "replication"),
    "edge": ("edge", "udp", "source", "cpus", "frame", "batch", "publish", "breaker", "spool"),
    "worker": ("worker", "group_instance", "checkpoint", "lane", "session"),
    "dam": ("dam", "dead_letter", "json_strict"),
    "devices": ("devices", "sequence"),
    "auth": ("auth",),
    "anomaly": ("anomaly", "incident", "fingerprint"),
    "control": ("control", "pid", "forecast", "models_dir", "llm"),
    "xdp": ("xdp", "iface"),
    "api": ("api",),
    "web": ("web",),
    "process": ("state_dir", "cache_dir", "log", "latency"),
}
_TABLE_OF = {words: table for table, all_words in BEGINNINGS.items() for words in all_words}
MEANINGS = {
    "kafka": "the cluster, or the embedded broker; topics",
    "edge": "receives frames, batches them, and spools them while Kafka is not available",
    "worker": "admits frames and sends them to the clean topic",
    "dam": "rates, bursts and queues",
    "devices": "known devices; duplicates and gaps",
    "auth": "authenticated frames",
    "anomaly": "anomaly flags; incidents; types of devices",
    "control": "the controller, its forecast and its explanations",
    "xdp": "the XDP filter in the kernel",
    "api": "the edge's REST API; tokens of all HTTP servers",
    "web": "the worker's page and views",
    "process": "folders, logs and the latency target of every process",
}
ENVIRONMENT_ONLY = ("config", "profile", "env_file", "fault_point")
"""Settings that cannot be in a file: they select the file, or kill a process under test."""


def has_table(name: str) -> bool:
    """Whether a setting can be in ``klais.toml``."""
    return name not in ENVIRONMENT_ONLY and _table(name) is not None


def table_of(name: str) -> str:
    """The table of a setting: ``kafka`` for ``kafka_port`` and ``partitions``.

    Raises
    ------
    KeyError
        If no table contains it: add its first word to :data:`BEGINNINGS`.
    """
    table = _table(name)
    if table is None:
        raise KeyError(f"no table of klais.toml contains the setting {name!r}: add its first word to BEGINNINGS")
    return table


def key_of(name: str) -> str:
    """The key of a setting in its table: ``port`` for ``kafka_port``, ``mode`` for ``auth``."""
    table = table_of(name)
    return "mode" if name == table else name.removeprefix(f"{table}_")


def place_of(name: str) -> str:
    """Table and key: ``[kafka] port`` for ``kafka_port``."""
    return f"[{table_of(name)}] {key_of(name)}"


def _table(name: str) -> str | None:
    words = name.split("_")
    found = (_TABLE_OF.get("_".join(words[:k])) for k in range(len(words), 0, -1))
    return next((table for table in found if table is not None), None)


NAMES = {(table_of(name), key_of(name)): name for name in FIELDS if has_table(name)}
"""(table, key) -> setting."""
