"""Whether the whole system works, in one sentence with its problems, and what the page shows of each process (pure)."""

from collections.abc import Mapping
from typing import Any

from klais.ui.sample import INTENDED, Record, leading, number, total

MOST_PROCESSES = 256  # shown of each kind; a larger fleet is in the sums
LAG_RECORDS = 1000.0  # batches that wait in klais_raw before the page calls it a problem
LAG_S = 10.0  # or one that waits for so long
CHECKPOINT_S = 60.0

_EDGE_GAUGES = (
    *("queue_depth", "waiting", "inflight", "inflight_bytes", "spooled", "spool_bytes", "breaker", "frames_per_s"),
    *("limit_per_s", "linger_ms", "cpu_share", "host_cpu_share", "processing_ms", "kafka_ms", "source", "xdp"),
)
_WORKER_GAUGES = (
    *("lanes", "lanes_live", "lane_restarts", "devices", "queue_depth", "pending_frames", "lag_records", "lag_s"),
    *("cpu_share", "host_cpu_share", "checkpoint_age_s", "processing_ms", "kafka_ms", "anomaly_devices", "rate_limit"),
)


def problems(
    sample: Mapping[str, float], edges: Mapping[str, Record], workers: Mapping[str, Record], partitions: int
) -> list[dict[str, str]]:
    """What an operator must know now, the most severe first: ``{"severity", "text", "page"}``.

    ``severity`` is ``critical`` (frames are lost, or will be) or ``warning``; ``page`` is where the page shows more.
    """
    found = [
        *_losses(sample),
        *_missing(sample, edges, workers, partitions),
        *_edge_problems(edges),
        *_worker_problems(sample, workers),
    ]
    return sorted(found, key=lambda problem: problem["severity"] != "critical")


def _problem(severity: str, page: str, text: str) -> dict[str, str]:
    return {"severity": severity, "page": page, "text": text}


def _losses(sample: Mapping[str, float]) -> list[dict[str, str]]:
    lost = sample["edge_dropped_unintended"] + sample["worker_dropped_unintended"]
    if lost <= 0:
        return []
    return [_problem("critical", "edges", f"{lost:,.0f} frames/s are lost for reasons that nobody intended")]


def _missing(
    sample: Mapping[str, float], edges: Mapping[str, Record], workers: Mapping[str, Record], partitions: int
) -> list[dict[str, str]]:
    out = []
    if not edges:
        out.append(_problem("critical", "edges", "no edge has reported in the last 3 s"))
    if not workers:
        out.append(_problem("critical", "topics", "no worker has reported in the last 3 s"))
    elif sample["lanes_live"] < partitions:
        live = f"{sample['lanes_live']:.0f} of {partitions} lanes are live"
        out.append(_problem("critical", "topics", f"{live}: the frames of the others wait in klais_raw"))
    return out


def _edge_problems(edges: Mapping[str, Record]) -> list[dict[str, str]]:
    out = []
    for name, record in edges.items():
        gauges = record["gauges"]
        if gauges.get("breaker") in ("open", "half_open"):
            held = f"{number(gauges.get('spooled')):,.0f} frames wait in its spool"
            out.append(_problem("warning", "edges", f"{name} does not reach Kafka; {held}"))
        elif number(gauges.get("spooled")) > 0:
            text = f"{name} replays its spool: {number(gauges.get('spooled')):,.0f} frames to go"
            out.append(_problem("warning", "edges", text))
    return out


def _worker_problems(sample: Mapping[str, float], workers: Mapping[str, Record]) -> list[dict[str, str]]:
    out = []
    if sample["lag_records"] > LAG_RECORDS or sample["lag_s"] > LAG_S:
        wait = f"{sample['lag_records']:,.0f} batches wait in klais_raw, the oldest for {sample['lag_s']:,.0f} s"
        text = f"{wait}: the workers take less than arrives, or did a moment ago"
        out.append(_problem("warning", "topics", text))
    for name, record in workers.items():
        age_s = number(record["gauges"].get("checkpoint_age_s"))
        if age_s > CHECKPOINT_S:
            text = f"the newest checkpoint of a lane of {name} is {age_s:.0f} s old: a restart would replay as much"
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


def process(name: str, record: Record) -> dict[str, Any]:
    """One edge or worker as the page lists it."""
    gauges = record["gauges"]
    wanted = _EDGE_GAUGES if record.get("kind") == "edge" else _WORKER_GAUGES
    return {
        "id": name,
        "host": record.get("host"),
        "uptime_s": number(record.get("uptime_s")),
        "received": total(record["counters"].get("received")),
        "passed": total(record["counters"].get("passed")) + total(record["counters"].get("released")),
        "rates": {key: number(value) for key, value in record["rates"].items()},
        "dropped": drops(record),
        "gauges": {key: gauges[key] for key in wanted if key in gauges},
    }


def drops(record: Record) -> list[dict[str, Any]]:
    """Drops of a process by reason, the most first: ``{"reason", "frames", "intended"}``."""
    dropped = record["counters"].get("dropped")
    if not isinstance(dropped, Mapping):
        return []
    rows = [
        {"reason": reason, "frames": number(frames), "intended": reason in INTENDED}
        for reason, frames in dropped.items()
        if number(frames)
    ]
    return sorted(rows, key=lambda row: -row["frames"])


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
        As ``StatsFollower.senders``: also processes that are silent now.
    partitions : int
        Lanes that there must be.
    control : mapping
        Mode, rate, newest decision and overrides, as this worker follows them.
    starting : bool
        Whether this worker has just begun to listen: then it cannot know yet who is missing.
    """
    edges, workers = records["edge"], records["worker"]
    found = problems(sample, edges, workers, partitions)
    if starting:
        found = [problem for problem in found if problem["severity"] != "critical"]
    leader = leading(records["controller"])
    return {
        "at_ms": at_ms,
        "status": "ok" if not found else found[0]["severity"],
        "sentence": "This worker starts: the first figures come in." if starting else sentence(found, sample),
        "problems": found,
        "sample": {name: round(value, 4) for name, value in sample.items()},
        "partitions": partitions,
        "leader": None if leader is None else leader.get("id"),
        "control": dict(control),
        "edges": [process(name, edges[name]) for name in sorted(edges)[:MOST_PROCESSES]],
        "workers": [process(name, workers[name]) for name in sorted(workers)[:MOST_PROCESSES]],
        "silent": {name: about["age_s"] for name, about in senders.items() if about.get("stale")},
    }
