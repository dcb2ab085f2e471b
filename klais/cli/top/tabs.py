"""The rows of each tab of ``klais top``, from an event of the page's stream and a page of devices (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from klais.cli.blocked import SOURCE, blocks_of
from klais.cli.output import Column, Row

Event = Mapping[str, Any]

_PIPELINE = (
    ("arriving at the edges", "edge_received", "frames/s"),
    ("published by the edges", "edge_passed", "frames/s"),
    ("dropped by the edges", "edge_dropped", "frames/s"),
    ("arriving at the workers", "worker_received", "frames/s"),
    ("lands clean", "worker_passed", "frames/s"),
    ("dropped by the workers", "worker_dropped", "frames/s"),
    ("dropped by the edges, unintended", "edge_dropped_unintended", "frames/s"),
    ("dropped by the workers, unintended", "worker_dropped_unintended", "frames/s"),
    ("to klais_dead_letter", "dead_letters", "frames/s"),
    ("flagged", "flags", "flags/s"),
    ("rate limit in force", "rate_limit", "frames/s"),
    ("waiting in the queues", "queue_depth", "frames"),
    ("waiting in spools", "spool_frames", "frames"),
    ("waiting in klais_raw", "lag_records", "batches"),
    ("devices known", "devices", "devices"),
    ("lanes live", "lanes_live", "lanes"),
    ("edge to Kafka, p99", "edge_p99_ms", "ms"),
    ("worker, p99", "worker_p99_ms", "ms"),
    ("busiest process", "cpu_share", "of a core"),
)


def pipeline(event: Event) -> list[Row]:
    """Figures of the whole system, from the devices to the clean records; None = no process reports it now."""
    sample = event["sample"]
    rows = [{"figure": text, "value": _known(sample.get(name)), "unit": unit} for text, name, unit in _PIPELINE]
    overrides = (event.get("control") or {}).get("overrides") or ()
    blocked = len(blocks_of(overrides, SOURCE, event.get("at_ms", 0)))
    return [*rows, {"figure": "sources blocked", "value": float(blocked), "unit": "prefixes"}]


def _known(value: Any) -> float | None:
    return None if value is None else float(value)


def processes(event: Event) -> list[Row]:
    """A row per edge and worker."""
    rows = []
    for kind in ("edge", "worker"):
        for one in event[f"{kind}s"]:
            rates, gauges = one["rates"], one["gauges"]
            lag = gauges.get("lag_records")
            rows.append(
                {
                    "process": one["id"],
                    "kind": kind,
                    "received": rates.get("received"),
                    "passed": rates["passed"] + rates.get("released", 0.0) if "passed" in rates else None,
                    "dropped": rates.get("dropped"),
                    "lanes_live": gauges.get("lanes_live"),
                    "lanes": gauges.get("lanes"),
                    "lag": sum(lag.values()) if isinstance(lag, Mapping) else None,
                    "queue": gauges.get("queue_depth"),
                    "spool": gauges.get("spooled"),
                    "spool_percent": _spool_percent(gauges),
                    "spool_full_s": gauges.get("spool_full_s"),
                    "restoring": _restoring(one),
                    "cpu_percent": 100 * gauges["cpu_share"] if "cpu_share" in gauges else None,
                    "p99_ms": (gauges.get("processing_ms") or {}).get("p99"),
                    "host": one.get("host"),
                    "uptime_s": one.get("uptime_s"),
                }
            )
    return rows


def _spool_percent(gauges: Mapping[str, Any]) -> float | None:
    """Bytes of a spool in percent of its limit; None without a spool or in the record of an older edge."""
    limit = gauges.get("spool_max_bytes") or 0
    return 100 * gauges.get("spool_bytes", 0.0) / limit if limit >= 1 else None


def _restoring(process: Mapping[str, Any]) -> str | None:
    """Progress of the lanes of a worker that recover; None if none does."""
    return "; ".join(f"lane {at['partition']}: {at['text']}" for at in process.get("restoring", ())) or None


def drops(event: Event) -> list[Row]:
    """A row per process and reason, frames since the start of the process; then those of the kernel filters."""
    counted = [(one["id"], one["dropped"]) for kind in ("edges", "workers") for one in event[kind]]
    # The edges of a host report its filter, by the host's name and the folder of the maps, except those that may not
    # read them.
    kernels = {edge.get("host") or edge["id"]: rows for edge in event["edges"] if (rows := edge.get("kernel_dropped"))}
    counted += [(f"kernel of {host.partition(':')[0]}", rows) for host, rows in kernels.items()]
    return [
        {"reason": drop["reason"], "frames": drop["frames"], "intended": drop["intended"], "process": name}
        for name, rows in counted
        for drop in rows
    ]


@dataclass(frozen=True, slots=True)
class Tab:
    """One tab: its name, its columns, its rows of an event; ``rows`` is None if a worker pages and sorts them."""

    name: str
    columns: tuple[Column, ...]
    rows: Callable[[Event], list[Row]] | None


TABS = (
    Tab("pipeline", (Column("figure", "FIGURE", 24), Column("value", width=12), Column("unit")), pipeline),
    Tab(
        "processes",
        (
            Column("process", width=12),
            Column("kind"),
            Column("received", "IN/S"),
            Column("passed", "PASS/S"),
            Column("dropped", "DROP/S"),
            Column("lanes_live", "LIVE"),
            Column("lanes"),
            Column("lag"),
            Column("queue"),
            Column("spool"),
            Column("cpu_percent", "CPU %"),
            Column("p99_ms", "P99 MS"),
            Column("spool_percent", "SPOOL %"),
            Column("spool_full_s", "FULL IN S"),
            Column("restoring"),
            Column("host"),
        ),
        processes,
    ),
    Tab(
        "devices",
        (
            Column("device_id", width=16),
            Column("state", width=7),
            Column("received"),
            Column("admitted"),
            Column("dropped"),
            Column("score"),
            Column("flags"),
            Column("last_seen", width=24),
            Column("partition"),
        ),
        None,
    ),
    Tab(
        "drops",
        (Column("reason", width=16), Column("frames", width=12), Column("intended"), Column("process", width=12)),
        drops,
    ),
)
DEVICES = next(i for i, tab in enumerate(TABS) if tab.rows is None)
