"""State of the whole system in one sentence with its problems, and the rows of processes on the page (pure)."""

from collections.abc import Mapping
from typing import Any

from klais.telemetry.landing import missed_target
from klais.telemetry.view import ProcessView, Record, SystemView
from klais.ui.sample import INTENDED
from klais.xdp.layout import Verdict

MOST_PROCESSES = 256  # shown of each kind; sums include all of a larger fleet
LAG_RECORDS = 1000.0  # batches that wait in klais_raw from which the page shows a problem
LAG_S = 10.0  # or age of the oldest one
CHECKPOINT_S = 60.0

_EDGE_GAUGES = (
    *("queue_depth", "waiting", "inflight", "inflight_bytes", "spooled", "spool_bytes", "breaker", "frames_per_s"),
    *("limit_per_s", "linger_ms", "cpu_share", "host_cpu_share", "processing_ms", "kafka_ms", "source", "xdp"),
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
    lost = sample["edge_dropped_unintended"] + sample["worker_dropped_unintended"]
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
        out.append(_problem("critical", "topics", f"{live}: the frames of the others wait in klais_raw"))
    return out


def _edge_problems(edges: Mapping[str, ProcessView]) -> list[dict[str, str]]:
    out = []
    for name, edge in edges.items():
        spooled = edge.gauges.spooled or 0.0
        if edge.gauges.breaker in ("open", "half_open"):
            text = f"{name} does not reach Kafka; {spooled:,.0f} frames wait in its spool"
            out.append(_problem("warning", "edges", text))
        elif spooled > 0:
            out.append(_problem("warning", "edges", f"{name} replays its spool: {spooled:,.0f} frames to go"))
    return out


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


def sentence(found: list[dict[str, str]], sample: Mapping[str, float]) -> str:
    """The state of the system in one sentence."""
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return found[0]["text"][:1].upper() + found[0]["text"][1:] + more + "."
    return (
        f"All is well: {sample['edge_received']:,.0f} frames/s arrive and {sample['worker_passed']:,.0f} pass; "
        f"{sample['devices']:,.0f} devices are known."
    )


def process(name: str, seen: ProcessView, record: Record) -> dict[str, Any]:
    """One edge or worker as in the page's list: its parsed record, and some gauges as sent."""
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
        "gauges": {key: gauges[key] for key in wanted if key in gauges},
    }


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
    return [process(name, seen[name], records[name]) for name in sorted(seen)[:MOST_PROCESSES]]


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
) -> dict[str, Any]:
    """One event of the stream.

    Parameters
    ----------
    at_ms : int
        Epoch ms of the sample.
    sample : mapping
        Values of :data:`klais.ui.sample.SERIES`.
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
    """
    system = SystemView.of(records.__getitem__)
    found = problems(sample, system, partitions)
    if starting:
        found = [problem for problem in found if problem["severity"] != "critical"]
    return {
        "at_ms": at_ms,
        "status": "ok" if not found else found[0]["severity"],
        "sentence": "This worker is starting and receives the first figures." if starting else sentence(found, sample),
        "problems": found,
        "sample": {name: round(value, 4) for name, value in sample.items()},
        "partitions": partitions,
        "leader": system.leader(),
        "control": dict(control),
        "edges": _processes(system.edges, records["edge"]),
        "workers": _processes(system.workers, records["worker"]),
        "silent": {name: about["age_s"] for name, about in senders.items() if about.get("stale")},
    }
