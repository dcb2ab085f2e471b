"""One device in readable form: its row as JSON with field names."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from klais.core.anomaly.detector import Feature
from klais.core.anomaly.explain import FlagFacts, explain
from klais.core.dam.bucket import refill, refill_column
from klais.core.devices.layout import FEATURE_INTERVAL, FEATURE_SIZE, FEATURE_TYPE, WINDOW, Rows, row_key
from klais.core.fingerprint.record import TypeFacts
from klais.telemetry.snapshots import STATES
from klais.worker.rows import DeviceLimits, dropped_of
from klais.worker.web.times import iso

SECOND_NS = 1_000_000_000
COUNTERS = (
    *("received", "admitted", "duplicate", "blocked", "device_rate", "queue_full", "malformed"),
    *("replayed", "unsigned"),
    *("gaps", "jumps", "late", "resets", "source_turns", "flags"),
)


def device_id_text(row: Any) -> str:
    """The device_id as text (valid UTF-8, because the header check verified it)."""
    return row_key(row).decode(errors="replace")


def last_seen(row: Any) -> int:
    """Receive time (ns) of the newest well-formed frame, by the edge's clock, at most the time the lane took it."""
    last_seen_s = int(row["last_seen_s"])
    return min(int(row["refilled_ns"]), (last_seen_s + 1) * SECOND_NS) if last_seen_s else 0


def first_seen(row: Any) -> int:
    """When the lane took the device's first admitted frame (ns)."""
    return int(row["created_s"]) * SECOND_NS


def tokens_of(row: Any, limits: DeviceLimits) -> float:
    """Frames that the device may send immediately."""
    return float(refill(float(row["tokens"]), int(row["refilled_ns"]), limits.now_ns, limits.rate, limits.burst))


def summaries(rows: Rows, partitions: list[int], states: list[int], limits: DeviceLimits) -> list[dict[str, Any]]:
    """The lines of ``/devices/`` for ROW [k]; their keys are the sort columns of the page.

    Computed column by column: reading a field of a numpy record costs a microsecond, and a thousand rows would delay
    the lanes.
    """
    tokens = refill_column(rows["tokens"], rows["refilled_ns"], limits.now_ns, limits.rate, limits.burst)
    seen_ns = np.minimum(rows["refilled_ns"], (rows["last_seen_s"].astype(np.int64) + 1) * SECOND_NS)
    columns: dict[str, list[Any]] = {
        "device_id": [
            name.decode(errors="replace") for name in np.ascontiguousarray(rows["id"]).view("S16").ravel().tolist()
        ],
        "partition": partitions,
        "state": [STATES[state] for state in states],
        "first_seen": list(map(iso, (rows["created_s"].astype(np.int64) * SECOND_NS).tolist())),
        "last_seen": list(map(iso, seen_ns.tolist())),
        "tokens": np.round(tokens, 3).tolist(),
        "score": np.round(rows["flag_score"].astype(np.float64), 3).tolist(),
        "flagged_at": list(map(iso, rows["flag_ns"].tolist())),
        "dropped": dropped_of(rows).tolist(),
        **{name: rows[name].tolist() for name in COUNTERS},
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def feature_name(feature: int, path: int, names: Mapping[int, str]) -> str:
    """Name of a feature: ``interval_s``, ``payload_bytes``, or the path of a payload field (its hash if unnamed)."""
    if feature == FEATURE_INTERVAL:
        return "interval_s"
    if feature == FEATURE_SIZE:
        return "payload_bytes"
    return names.get(path, f"#{path:08x}")


def newest_flag(row: Any, names: Mapping[int, str]) -> dict[str, Any] | None:
    """The newest anomaly flag of the device, None if it has none."""
    if not row["flags"]:
        return None
    if row["flag_feature"] == FEATURE_TYPE:
        facts = FlagFacts.of_type(row, int(row["flag_ns"]), names, "flag_")
    else:
        facts = FlagFacts.of_row(row, feature_name(int(row["flag_feature"]), int(row["flag_path"]), names))
    return {
        "at": iso(int(row["flag_ns"])),
        "feature": facts.name,
        "cause": facts.kind.name.lower(),
        "value": facts.value,
        "expected": facts.expected,
        "score": round(facts.score, 3),
        "explanation": explain(facts),
        "at_newest_frame": int(row["flag_ns"]) >= int(row["last_ns"]),
    }


def window(row: Any) -> dict[str, Any]:
    """The sequence window: its highest number, and which of the last 32 were received."""
    main = int(row["main"])
    top, seen = int(row["top"][main]), int(row["seen"][main])
    last = [(top - back) % (1 << 32) for back in range(WINDOW) if seen >> back & 1]
    return {"highest": top, "size": WINDOW, "received": len(last), "numbers": last[::-1]}


def profile(features: Iterable[Feature], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The detector's expectation for each feature: its mean and its usual deviation."""
    return [
        {
            "feature": feature_name(at.place, at.path, names),
            "mean": at.mean,
            "deviation": at.deviation,
            "samples": at.samples,
        }
        for at in features
    ]


def type_of(facts: TypeFacts | None) -> dict[str, Any] | None:
    """The type of the device and its fingerprint; None if fingerprints are off or there is none."""
    if facts is None:
        return None
    return {
        "name": facts.type or None,
        "since": iso(facts.since_s * SECOND_NS) if facts.since_s else None,
        "before": facts.before or None,
        "suspect": facts.candidate or None,
        "model": facts.model or None,
        "samples": facts.samples,
        "interval_s": round(facts.interval_s, 4),
        "interval_cv": round(facts.interval_cv, 4),
        "payload_bytes": round(facts.bytes, 1),
        "payload_cv": round(facts.bytes_cv, 4),
    }


def detail(
    row: Any,
    partition: int,
    state: int,
    limits: DeviceLimits,
    names: Mapping[int, str],
    features: Iterable[Feature],
) -> dict[str, Any]:
    """All that the lane knows of a device (``/devices/{device_id}/``); ``features``: those of its detector."""
    return {
        "device_id": device_id_text(row),
        "partition": partition,
        "state": STATES[state],
        "first_seen": iso(first_seen(row)),
        "last_seen": iso(last_seen(row)),
        "last_admitted": iso(int(row["last_ns"])),
        "counters": {name: int(row[name]) for name in COUNTERS},
        "bucket": {
            "tokens": round(tokens_of(row, limits), 3),
            "rate_per_s": limits.rate,
            "burst": limits.burst,
            "refilled": iso(int(row["refilled_ns"])),
        },
        "window": window(row),
        "mean_interval_s": float(row["interval_s"]) if row["intervals"] else None,
        "flag": newest_flag(row, names),
        "profile": profile(features, names),
        "changed_at_step": int(row["stamp"]),
    }
