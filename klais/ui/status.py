"""State of the whole system in one sentence with its problems, and the rows of processes on the page (pure)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from klais.core.anomaly.explain import span
from klais.telemetry.landing import missed_target
from klais.telemetry.schema import Gauges
from klais.telemetry.view import ProcessView, Record, SystemView, restoring_of
from klais.ui.history import PATH
from klais.ui.sample import INTENDED
from klais.xdp.layout import Verdict

MAX_PROCESSES = 256  # shown of each kind; sums include all of a larger fleet
LAG_RECORDS = 1000.0  # batches that wait in klais_raw from which the page shows a problem
LAG_S = 10.0  # or age of the oldest one
CHECKPOINT_S = 60.0
FULL_SOON_S = 600.0  # an operator must act now
MAX_RESTORING = 3  # lanes named in one text

_EDGE_GAUGES = (
    *("queue_depth", "waiting", "inflight", "inflight_bytes", "spooled", "spool_bytes", "breaker", "frames_per_s"),
    *("limit_per_s", "linger_ms", "cpu_share", "host_cpu_share", "processing_ms", "kafka_ms", "source", "xdp"),
    *("spool_max_bytes", "spool_full_s", "blocked_sources", "source_drops"),
)
_WORKER_GAUGES = (
    *("lanes", "lanes_live", "lane_restarts", "devices", "queue_depth", "pending_frames", "lag_records", "lag_s"),
    *("cpu_share", "host_cpu_share", "checkpoint_age_s", "processing_ms", "kafka_ms", "anomaly_devices", "rate_limit"),
    *("landed_ms", "latency_target_ms", "late_share"),
)


def problems(sample: Mapping[str, float], system: SystemView, partitions: int) -> list[dict[str, str]]:
    """Present problems for operators, most severe first: ``{"severity", "text", "page"}``.

    ``severity`` is ``critical`` (frames are lost, or will be) or ``warning``; ``page`` shows details.
    """
    found = [
        *_losses(sample),
        *_missing(sample, system, partitions),
        *_edge_problems(system.edges),
        *_worker_problems(sample, system.workers),
    ]
    return sorted(found, key=lambda problem: problem["severity"] != "critical")


def _problem(severity: str, page: str, text: str) -> dict[str, str]:
    return {"severity": severity, "page": page, "text": text}


def _losses(sample: Mapping[str, float]) -> list[dict[str, str]]:
    rates = (sample["edge_dropped_unintended"], sample["worker_dropped_unintended"])
    lost = sum(rate for rate in rates if not math.isnan(rate))
    if lost <= 0:
        return []
    return [_problem("critical", "edges", f"{lost:,.0f} frames/s are dropped unintentionally")]


def _missing(sample: Mapping[str, float], system: SystemView, partitions: int) -> list[dict[str, str]]:
    out = []
    if not system.edges:
        out.append(_problem("critical", "edges", "no edge has reported in the last 3 s"))
    if not system.workers:
        out.append(_problem("critical", "topics", "no worker has reported in the last 3 s"))
    elif sample["lanes_live"] < partitions:
        live = f"{sample['lanes_live']:.0f} of {partitions} lanes are live"
        text = f"{live}: the frames of the others wait in klais_raw{restoring_text(system.restoring())}"
        out.append(_problem("critical", "topics", text))
    return out


def restoring_text(lanes: Mapping[int, str]) -> str:
    """Progress of recovering lanes as the end of a sentence; empty if none recovers.

    Examples
    --------
    >>> restoring_text({2: "61 % of the journal replayed"})
    '; lane 2: 61 % of the journal replayed'
    """
    named = [f"lane {p}: {text}" for p, text in list(lanes.items())[:MAX_RESTORING]]
    more = [f"{len(lanes) - len(named)} more lanes recover"] if len(lanes) > len(named) else []
    return "; " + ", ".join([*named, *more]) if lanes else ""


def _edge_problems(edges: Mapping[str, ProcessView]) -> list[dict[str, str]]:
    out = []
    for name, edge in edges.items():
        gauges, spooled = edge.gauges, edge.gauges.spooled or 0.0
        if gauges.breaker in ("open", "half_open"):
            soon = gauges.spool_full_s is not None and gauges.spool_full_s < FULL_SOON_S
            text = f"{name} does not reach Kafka; {spooled:,.0f} frames wait in its spool{fill_text(gauges)}"
            out.append(_problem("critical" if soon else "warning", "edges", text))
        elif spooled > 0:
            out.append(_problem("warning", "edges", f"{name} replays its spool: {spooled:,.0f} frames to go"))
    return out


def fill_text(gauges: Gauges) -> str:
    """Fill of a spool against its limit, and when it will be full, as the end of a sentence.

    Examples
    --------
    >>> fill_text(Gauges(spool_bytes=41.0, spool_max_bytes=100.0, spool_full_s=5400.0))
    ', which is 41 % full, and full in about 1.5 h at its present growth'
    >>> fill_text(Gauges(spool_bytes=100.0, spool_max_bytes=100.0, spool_full_s=0.0)), fill_text(Gauges())
    (', which is full: new frames are dropped', '')
    """
    share = fill_share(gauges)
    if share is None:
        return ""
    if gauges.spool_full_s == 0:
        return ", which is full: new frames are dropped"
    grows = gauges.spool_full_s is not None
    soon = f", and full in about {span(gauges.spool_full_s or 0.0)} at its present growth" if grows else ""
    return f", which is {int(100 * share)} % full{soon}"


def fill_share(gauges: Gauges) -> float | None:
    """Bytes of a spool as a share of its limit; None without a spool, or if the limit is unknown."""
    limit = gauges.spool_max_bytes or 0.0
    return (gauges.spool_bytes or 0.0) / limit if limit >= 1 else None


def _worker_problems(sample: Mapping[str, float], workers: Mapping[str, ProcessView]) -> list[dict[str, str]]:
    out = []
    if sample["lag_records"] > LAG_RECORDS or sample["lag_s"] > LAG_S:
        wait = f"{sample['lag_records']:,.0f} batches wait in klais_raw, the oldest for {sample['lag_s']:,.0f} s"
        text = f"{wait}: the workers are slower than the arrivals, or were a moment ago"
        out.append(_problem("warning", "topics", text))
    for name, worker in workers.items():
        if late := missed_target(worker.gauges.late_share, worker.gauges.latency_target_ms):
            out.append(_problem("warning", "topics", f"{name}: {late}"))
        age_s = worker.gauges.checkpoint_age_s or 0.0
        if age_s > CHECKPOINT_S:
            text = f"the newest checkpoint of a lane of {name} is {age_s:.0f} s old: a restart would replay that time"
            out.append(_problem("warning", "topics", text))
    return out


def sentence(found: list[dict[str, str]], sample: Mapping[str, float], path: Mapping[str, float]) -> str:
    """The state of the system in one sentence; ``path`` has its mean rates."""
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return _begun(found[0]["text"]) + more + "."
    return (
        f"All is well: {path['edge_received']:,.0f} frames/s arrive and {path['worker_passed']:,.0f} pass; "
        f"{sample['devices']:,.0f} devices are known."
    )


def _begun(text: str) -> str:
    """A text as the beginning of a sentence; the id of a process (``edge-1``) stays as it is.

    Examples
    --------
    >>> _begun("no edge has reported"), _begun("edge-1 does not reach Kafka")
    ('No edge has reported', 'edge-1 does not reach Kafka')
    """
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def process(name: str, seen: ProcessView, record: Record) -> dict[str, Any]:
    """One edge or worker as in the page's list: its parsed record with some gauges."""
    gauges = record["gauges"]
    wanted = _EDGE_GAUGES if record.get("kind") == "edge" else _WORKER_GAUGES
    return {
        "id": name,
        "host": seen.host,
        "uptime_s": seen.uptime_s,
        "received": seen.counters.get("received", 0.0),
        "passed": seen.counters.get("passed", 0.0) + seen.counters.get("released", 0.0),
        "rates": dict(seen.rates),
        "dropped": drops(seen),
        "kernel_dropped": kernel_drops(seen),
        "restoring": [{"partition": p, "text": text} for p, text in restoring_of(seen.gauges).items()],
        "gauges": _checked(seen, gauges, wanted),
    }


def _checked(seen: ProcessView, sent: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """The wanted gauges: those of the schema without invalid parts, the others as sent."""
    known = Gauges.model_fields.keys() & set(wanted)
    checked = seen.gauges.model_dump(include=known, exclude_none=True)
    return checked | {key: sent[key] for key in wanted if key in sent and key not in known}


KERNEL_DROPS = {verdict.label for verdict in Verdict if verdict.drops}
KERNEL_LOSSES = {Verdict.GLOBAL_RATE.label, Verdict.RING_FULL.label}
"""Verdicts of the XDP filter that are unintended losses."""


def kernel_drops(seen: ProcessView) -> list[dict[str, Any]]:
    """Packets that the XDP filter of an edge's host dropped since it was loaded, as :func:`drops`."""
    packets = seen.gauges.xdp.packets if seen.gauges.xdp is not None else {}
    rows = [
        {"reason": verdict, "frames": count, "intended": verdict not in KERNEL_LOSSES}
        for verdict, count in packets.items()
        if count and verdict in KERNEL_DROPS
    ]
    return sorted(rows, key=lambda row: -float(row["frames"]))


def _processes(seen: Mapping[str, ProcessView], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    return [process(name, seen[name], records[name]) for name in sorted(seen)[:MAX_PROCESSES]]


def drops(seen: ProcessView) -> list[dict[str, Any]]:
    """Drops of a process by reason, largest first: ``{"reason", "frames", "intended"}``."""
    rows = [
        {"reason": reason, "frames": frames, "intended": reason in INTENDED}
        for reason, frames in seen.dropped.items()
        if frames
    ]
    return sorted(rows, key=lambda row: -float(row["frames"]))


def body(
    at_ms: int,
    sample: Mapping[str, float],
    records: Mapping[str, Mapping[str, Record]],
    senders: Mapping[str, Mapping[str, Any]],
    partitions: int,
    control: Mapping[str, Any],
    starting: bool = False,
    path: Mapping[str, float] | None = None,
    read: Callable[[str, Record], ProcessView] = ProcessView.of,
) -> dict[str, Any]:
    """One event of the stream.

    Parameters
    ----------
    at_ms : int
        Epoch ms of the sample.
    sample : mapping
        Values of :data:`klais.ui.sample.SERIES`; NaN (``null`` in JSON) = no process reports it.
    records : mapping
        ``edge``, ``worker`` and ``controller`` -> newest records by id.
    senders : mapping
        As ``StatsFollower.senders``: includes processes that are silent now.
    partitions : int
        Expected number of lanes.
    control : mapping
        Mode, rate, newest decision and overrides, as followed by this worker.
    starting : bool
        Whether this worker has just started to listen, and cannot know yet which processes are missing.
    path : mapping, optional
        Mean rates over the last seconds, of :meth:`klais.ui.history.History.path`; by default those of the sample.
    read : callable
        Parses a record; one that keeps what it has parsed saves 0.3 ms a process.
    """
    system = SystemView.of(records.__getitem__, read)
    found = problems(sample, system, partitions)
    if starting:
        found = [problem for problem in found if problem["severity"] != "critical"]
    rates = {name: sample[name] for name in PATH} | dict(path or {})
    return {
        "at_ms": at_ms,
        "status": "ok" if not found else found[0]["severity"],
        "sentence": "This worker is starting and receives the first figures."
        if starting
        else sentence(found, sample, rates),
        "problems": found,
        "sample": {name: round(value, 4) for name, value in sample.items()},
        "path": rates,
        "partitions": partitions,
        "leader": system.leader(),
        "control": dict(control),
        "edges": _processes(system.edges, records["edge"]),
        "workers": _processes(system.workers, records["worker"]),
        "silent": {name: about["age_s"] for name, about in senders.items() if about.get("stale")},
    }
