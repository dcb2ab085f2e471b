"""``python -m bench flags DIR [--tier light|full] [--json]``: false flags of normal series, and recall of faults.

``DIR/normal/<kind>-<n>.csv`` has timestamp,value, ``DIR/faults/<fault>-<kind>-<n>.csv`` a label as well, 1 within the
fault; timestamps are seconds since the epoch or ISO 8601. Every file is one device with one field: its value and its
rhythm (the times between rows) are scored; values that equal those times are scored as rhythm only. A flag is a hit
from the fault's first row until 30 minutes after its last. ``--generate`` first writes such files to DIR, from kinds
and faults of this package with a fixed seed; ``--kinds second`` and ``third`` use normal kinds that were not used in
development.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases.anomaly.faults import all_faults
from bench.cases.anomaly.kinds import DAY_S, normal
from bench.cases.anomaly.second_kinds import second
from bench.cases.anomaly.third_kinds import third
from klais.core.anomaly.record import Cause
from klais.core.anomaly.samples import Samples, read_samples
from klais.core.anomaly.series import Tier, rhythm_flags, score_series

SEED = 1
KINDS = {"first": normal, "second": second, "third": third}
HIT_AFTER_S = 1800.0
SIZES = ("payload_bytes",)  # kinds whose lengths are in rows, such as payload sizes


def flags_of(samples: Samples, tier: Tier, kind: str) -> np.ndarray:
    """Times of the flags of one device (s since the epoch), those of its value and those of its rhythm."""
    rhythm = samples.t[rhythm_flags(samples.t) > Cause.NONE]
    if is_interval(samples):
        return rhythm
    value = samples.t[score_series(samples.t, samples.x, tier, by_rows=kind in SIZES)["cause"] > Cause.NONE]
    return np.sort(np.concatenate((value, rhythm)))


def is_interval(samples: Samples) -> bool:
    """Whether the values are the times between the rows: then only the rhythm is scored."""
    between = np.diff(samples.t)
    return len(between) > 0 and bool(np.median(np.abs(samples.x[1:] - between)) < 0.01 * np.median(between))


def of_normal(files: dict[str, list[Samples]], tier: Tier) -> dict[str, float]:
    """Flags per device and day of each kind."""
    out = {}
    for kind, devices in files.items():
        days = sum(float(one.t[-1] - one.t[0]) / DAY_S for one in devices)
        out[kind] = sum(len(flags_of(one, tier, kind)) for one in devices) / days
    return out


def of_faults(files: dict[str, list[tuple[str, Samples]]], tier: Tier) -> dict[str, Any]:
    """Recall, median delay (s) and flags per hit of each fault."""
    out: dict[str, Any] = {}
    for fault, devices in files.items():
        delays, per_hit = [], []
        for kind, one in devices:
            inside = one.t[one.label] if one.label is not None else one.t[:0]
            if not len(inside):
                raise SystemExit(f"{fault}-{kind}: no row is labelled")
            at = flags_of(one, tier, kind)
            hits = at[(at >= inside[0] - 1e-6) & (at <= inside[-1] + HIT_AFTER_S)]
            if len(hits):
                delays.append(float(hits[0] - inside[0]))
                per_hit.append(len(hits))
        out[f"recall_{fault}"] = round(len(delays) / len(devices), 4)
        out[f"delay_s_{fault}"] = round(statistics.median(delays), 1) if delays else None
        out[f"flags_per_hit_{fault}"] = round(statistics.mean(per_hit), 2) if per_hit else None
    return out


def read(folder: Path) -> tuple[dict[str, list[Samples]], dict[str, list[tuple[str, Samples]]]]:
    """Normal files by kind, faults by name; `<kind>-<n>.csv` and `<fault>-<kind>-<n>.csv`."""
    kinds: dict[str, list[Samples]] = defaultdict(list)
    faults: dict[str, list[tuple[str, Samples]]] = defaultdict(list)
    for path in sorted(folder.glob("normal/*.csv")):
        with path.open() as lines:
            kinds[path.stem.rpartition("-")[0] or path.stem].append(read_samples(lines))
    for path in sorted(folder.glob("faults/*.csv")):
        fault, _, rest = path.stem.partition("-")
        with path.open() as lines:
            faults[fault].append((rest.rpartition("-")[0], read_samples(lines)))
    if not kinds and not faults:
        raise SystemExit(f"{folder}: neither normal/*.csv nor faults/*.csv; --generate makes some")
    return kinds, faults


def measure(folder: Path, tier: Tier) -> dict[str, Any]:
    """All figures."""
    kinds, faults = read(folder)
    by_kind = of_normal(kinds, tier)
    out: dict[str, Any] = {"tier": tier, "kinds": len(by_kind), "by_kind": {k: round(v, 4) for k, v in by_kind.items()}}
    if by_kind:
        out["flags_per_device_day"] = round(statistics.mean(by_kind.values()), 4)
    return out | of_faults(faults, tier)


def write(path: Path, **columns: np.ndarray) -> None:
    """One CSV file."""
    with path.open("w") as out:
        out.write(",".join(columns) + "\n")
        for row in zip(*(column.tolist() for column in columns.values()), strict=True):
            out.write(",".join(map(repr, row)) + "\n")


def generate(folder: Path, devices: int, days: float, step_s: float, repeats: int, kinds: str = "first") -> None:
    """Write normal devices and faults."""
    (folder / "normal").mkdir(parents=True, exist_ok=True)
    (folder / "faults").mkdir(parents=True, exist_ok=True)
    for n in range(devices):
        for kind, (t, x) in KINDS[kinds](np.random.default_rng([SEED, n]), days, step_s).items():
            write(folder / "normal" / f"{kind}-{n}.csv", timestamp=t, value=np.asarray(x, float))
    for k, (fault, kind, make) in enumerate(all_faults()):
        for n in range(repeats):
            t, x, label = make(np.random.default_rng([SEED, 1000 + k, n]), days, step_s)
            write(folder / "faults" / f"{fault}-{kind}-{n}.csv", timestamp=t, value=np.asarray(x, float), label=label)


def main(arguments: list[str]) -> int:
    """Run the benchmark that the module describes."""
    parser = argparse.ArgumentParser("python -m bench flags", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tier", choices=("light", "full"), default="full")
    parser.add_argument("--generate", action="store_true", help="write synthetic files to the folder first")
    parser.add_argument("--devices", type=int, default=3, help="with --generate: normal devices of each kind")
    parser.add_argument("--repeats", type=int, default=5, help="with --generate: files of each fault and kind")
    parser.add_argument("--kinds", choices=tuple(KINDS), default="first", help="with --generate: normal kinds")
    parser.add_argument("--days", type=float, default=14.0)
    parser.add_argument("--step-s", type=float, default=60.0, help="seconds between rows")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    if options.generate:
        generate(options.folder, options.devices, options.days, options.step_s, options.repeats, options.kinds)
    found = measure(options.folder, options.tier)
    for name, value in found.items():
        print(f"{name:32} {value}")
    if options.json:
        print(json.dumps({"name": "flags", **found}))
    return 0
