"""One device for people: its row as JSON, with the names of its fields."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from klais.core.devices.layout import FEATURE_INTERVAL, FEATURE_SIZE, FEATURES, WINDOW, Rows, row_key
from klais.worker.rows import STATES, DeviceLimits
from klais.worker.web.times import iso

COUNTERS = (
    *("received", "admitted", "duplicate", "blocked", "device_rate", "queue_full", "malformed"),
    *("gaps", "late", "resets", "flags"),
)


def device_id_text(row: Any) -> str:
    """The device_id as text (it is valid UTF-8: the header check saw to that)."""
    return row_key(row).decode(errors="replace")


def last_seen(row: Any) -> int:
    """Receive time (ns) of the newest well-formed frame."""
    return max(int(row["refilled_ns"]), int(row["last_ns"]))


def tokens_of(row: Any, limits: DeviceLimits) -> float:
    """Frames the device might send at once now."""
    passed_s = max(0, limits.now_ns - int(row["refilled_ns"])) * 1e-9
    return min(limits.burst, float(row["tokens"]) + passed_s * limits.rate)


def summaries(rows: Rows, partitions: list[int], states: list[int], limits: DeviceLimits) -> list[dict[str, Any]]:
    """The lines of ``/devices/`` for ROW [k]; their keys are what the page can be sorted by. Column by column: a field of
    one numpy record costs a microsecond, and a thousand rows would hold up the lanes."""
    passed_s = np.maximum(limits.now_ns - rows["refilled_ns"], 0) * 1e-9
    tokens = np.minimum(rows["tokens"] + passed_s * limits.rate, limits.burst)
    columns: dict[str, list[Any]] = {
        "device_id": [name.decode(errors="replace") for name in np.ascontiguousarray(rows["id"]).view("S16").ravel().tolist()],
        "partition": partitions,
        "state": [STATES[state] for state in states],
        "first_seen": list(map(iso, rows["first_ns"].tolist())),
        "last_seen": list(map(iso, np.maximum(rows["refilled_ns"], rows["last_ns"]).tolist())),
        "tokens": np.round(tokens, 3).tolist(),
        "score": np.round(rows["score"].astype(np.float64), 3).tolist(),
        "flag_z": np.round(rows["flag_z"].astype(np.float64), 3).tolist(),
        "flagged_at": list(map(iso, rows["flag_ns"].tolist())),
        **{name: rows[name].tolist() for name in COUNTERS},
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def feature_name(row: Any, feature: int, names: Mapping[int, str]) -> str:
    """Name of a feature: ``interval_s``, ``payload_bytes``, or the path of a payload field (its hash where unnamed)."""
    if feature == FEATURE_INTERVAL:
        return "interval_s"
    if feature == FEATURE_SIZE:
        return "payload_bytes"
    path = int(row["path"][feature - 2])
    return names.get(path, f"#{path:08x}")


def newest_flag(row: Any, names: Mapping[int, str]) -> dict[str, Any] | None:
    """The newest anomaly flag of the device, None without one."""
    if not row["flags"]:
        return None
    return {
        "at": iso(int(row["flag_ns"])),
        "feature": feature_name(row, int(row["flag_feature"]), names),
        "value": float(row["flag_value"]),
        "expected": float(row["flag_expected"]),
        "z": round(float(row["flag_z"]), 3),
        "at_newest_frame": int(row["flag_ns"]) >= int(row["last_ns"]),
    }


def window(row: Any) -> dict[str, Any]:
    """The sequence window: its highest number, and which of the last 32 were received."""
    top, seen = int(row["top"]), int(row["seen"])
    last = [(top - back) % (1 << 32) for back in range(WINDOW) if seen >> back & 1]
    return {"highest": top, "size": WINDOW, "received": len(last), "numbers": last[::-1]}


def profile(row: Any, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Running mean and standard deviation of every feature that has samples."""
    count = min(FEATURES, 2 + int(row["field_count"]))
    return [
        {
            "feature": feature_name(row, k, names),
            "mean": float(row["mean"][k]),
            "deviation": float(np.sqrt(row["var"][k])),
            "samples": int(row["samples"][k]),
        }
        for k in range(count)
        if row["samples"][k]
    ]


def detail(row: Any, partition: int, state: int, limits: DeviceLimits, names: Mapping[int, str]) -> dict[str, Any]:
    """Everything the lane knows of a device (``/devices/{device_id}/``)."""
    return {
        "device_id": device_id_text(row),
        "partition": partition,
        "state": STATES[state],
        "first_seen": iso(int(row["first_ns"])),
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
        "score": round(float(row["score"]), 3),
        "flag": newest_flag(row, names),
        "profile": profile(row, names),
        "changed_at_step": int(row["stamp"]),
    }
