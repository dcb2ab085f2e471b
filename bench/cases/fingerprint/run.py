"""``python -m bench fingerprint [--devices N] [--days D] [--seed S] [--json]``: changes of type and impersonations.

A fleet of at least 12 types trains a model as a worker does. Then, for types and seeds not used in development: normal
days measure false flags; recall and delay are measured with a device whose frames come from a device of another type
from some time on (change), or whose own frames continue in between (impersonation). The delay counts frames under its
id from the first foreign one. Both types of an impersonation send about equally often; one that sends far less is not
detectable within 50 frames.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.cases.fingerprint.fleet import Device, Trace, make_device
from bench.cases.fingerprint.kinds import DEVELOPMENT, HELD_OUT, Kind
from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.record import Cause
from klais.core.fingerprint.record import DeviceTypes
from klais.core.fingerprint.typed import Typed, TypesInUse
from klais.fingerprint.model import FILE, load_types
from klais.fingerprint.snapshot import snapshot_of
from klais.fingerprint.training import train
from klais.models.card import read_card, read_file
from klais.worker.detector import detector_maker

WITHIN = 50  # frames
BATCH = 4096
DAY_S = 86_400.0
SEED = 7001  # never used in development
OF_TYPE = (Cause.TYPE, Cause.IMPERSONATION, Cause.ODD)
WARM_FRAMES = 400  # of a device before it changes


def detector(in_use: TypesInUse) -> Typed:
    """A detector as in a lane."""
    found = detector_maker(Settings(), CpuBudget(1.0, lambda: 0), in_use)()
    if not isinstance(found, Typed):
        raise TypeError("fingerprints are off")
    return found


def play(typed: Typed, devices: Sequence[Device], trace: Trace, rows: int) -> list[tuple[int, int, int]]:
    """Score all frames; flags about types as (index of the frame in the trace, row, cause)."""
    typed.make_room(rows)
    last_s = np.full(rows, np.nan)
    out = []
    for begin in range(0, len(trace.row), BATCH):
        frames = trace.frames(devices, begin, begin + BATCH, last_s)
        found = typed.score(frames, rows, 1_000_000, lambda path: None)
        for flag in found.flags[np.isin(found.flags["cause"], OF_TYPE)]:
            i = begin + int(flag["frame"])
            out.append((i, int(trace.row[i]), int(flag["cause"])))
    return out


def fleet(kinds: Sequence[Kind], count: int, rng: np.random.Generator) -> tuple[list[Device], dict[int, str]]:
    """Devices of all kinds in turn."""
    names: dict[int, str] = {}
    return [make_device(kinds[k % len(kinds)], rng, names) for k in range(count)], names


def learn(devices: Sequence[Device], names: dict[int, str], rng: np.random.Generator) -> tuple[DeviceTypes, Any]:
    """A model from some hours of the fleet, trained as a worker does."""
    typed = detector(TypesInUse())
    parts = [(k, k, 0.0, 60.0 * device.interval_s + 60.0) for k, device in enumerate(devices)]
    play(typed, devices, Trace.of(devices, rng, parts), len(devices))
    snapshot = snapshot_of(typed.samples(len(devices)), names)
    with TemporaryDirectory() as folder:
        card = train(snapshot, lambda version: Path(folder) / version)
        made = Path(folder) / card.version
        return load_types(read_file(made, read_card(made), FILE), card.version), card.about


def normal_days(
    types: DeviceTypes, devices: Sequence[Device], days: float, rng: np.random.Generator
) -> dict[str, float]:
    """False flags of a fleet without events."""
    in_use = TypesInUse(types)
    typed = detector(in_use)
    parts = [(k, k, 0.0, days * DAY_S) for k in range(len(devices))]
    trace = Trace.of(devices, rng, parts)
    flags = play(typed, devices, trace, len(devices))
    kinds = [devices[row].kind.name for _, row, _ in flags]
    facts = [typed.facts(k, b"dev-%d" % k) for k in range(len(devices))]
    named = {(device.kind.name, one.type) for device, one in zip(devices, facts, strict=True) if one is not None}
    return {
        "device_days": round(days * len(devices), 1),
        "frames": len(trace.row),
        "false_flags": len(flags),
        "false_per_1000_device_days": round(1000.0 * len(flags) / (days * len(devices)), 3),
        "sampled_share": round(in_use.sampled / len(trace.row), 4),
        "compared_share": round(in_use.compared / len(trace.row), 4),
        "types_per_kind": round(len(named) / len({d.kind.name for d in devices}), 3),
        **({"of": sorted(set(kinds))} if kinds else {}),  # type: ignore[dict-item]
    }


def changed(
    types: DeviceTypes, devices: Sequence[Device], mixed: bool, rng: np.random.Generator, intruders: Sequence[Device]
) -> dict[str, Any]:
    """Recall and delay if each device changes once, or another one also sends under its id (``mixed``)."""
    typed = detector(TypesInUse(types))
    both = [*devices, *intruders]
    parts, begins = [], np.empty(len(devices))
    for k, device in enumerate(devices):
        begin_s = WARM_FRAMES * device.interval_s + rng.random() * 60.0
        others = [j for j, other in enumerate(intruders) if other.kind.name != device.kind.name]
        j = len(devices) + int(rng.choice(others))
        if mixed:
            intruder = both[j]
            both.append(Device(intruder.kind, device.interval_s * float(rng.uniform(0.7, 1.5)), intruder.sizes,
                               intruder.paths, intruder.values))  # fmt: skip
            j = len(both) - 1
        until_s = begin_s + 3 * WITHIN * both[j].interval_s + (3 * WITHIN * device.interval_s if mixed else 0.0)
        parts += [(k, k, 0.0, until_s if mixed else begin_s), (k, j, begin_s, until_s)]
        begins[k] = begin_s
    trace = Trace.of(both, rng, parts)
    flags = play(typed, both, trace, len(devices))
    delays, right, early, causes = [], 0, 0, []
    order = [np.flatnonzero(trace.row == k) for k in range(len(devices))]
    for k, mine in enumerate(order):
        first = int(np.searchsorted(trace.at_s[mine], begins[k]))
        hits = [(int(np.searchsorted(mine, i)) - first + 1, cause) for i, row, cause in flags if row == k]
        early += sum(delay <= 0 for delay, _ in hits)
        after = [(delay, cause) for delay, cause in hits if delay > 0]
        if after and after[0][0] <= WITHIN:
            delays.append(after[0][0])
            causes.append(after[0][1])
            right += after[0][1] == (Cause.IMPERSONATION if mixed else Cause.TYPE)
    found = len(delays)
    return {
        "devices": len(devices), "recall": round(found / len(devices), 4), "early_flags": early,
        "named_rightly": round(right / max(1, found), 4),
        "delay_frames_p50": float(np.median(delays)) if delays else None,
        "delay_frames_p95": float(np.percentile(delays, 95)) if delays else None,
    }  # fmt: skip


def cost(types: DeviceTypes, devices: Sequence[Device], rng: np.random.Generator) -> dict[str, float]:
    """Time of a frame in addition to a lane's scorer (ns): median of pairs with and without, and their quartiles.

    All devices send once a second, a rate that was not in the training, and already have their types.
    """
    fast = [Device(d.kind, 1.0, d.sizes, d.paths, d.values) for d in devices]
    trace = Trace.of(fast, rng, [(k, k, 0.0, 150.0) for k in range(len(fast))])
    typed, rows = detector(TypesInUse(types)), len(devices)
    typed.make_room(rows)
    last_s = np.full(rows, np.nan)
    batches = [trace.frames(fast, at, at + BATCH, last_s) for at in range(0, len(trace.row), BATCH)]
    for frames in batches:
        typed.score(frames, rows, 1_000_000, lambda path: None)
    pairs = []
    for _ in range(15):
        took = []
        for scorer in (typed, typed.inner):
            began = time.thread_time_ns()
            for frames in batches:
                scorer.score(frames, rows, 1_000_000, lambda path: None)
            took.append((time.thread_time_ns() - began) / len(trace.row))
        pairs.append(took[0] - took[1])
    q1, median, q3 = np.percentile(pairs, [25, 50, 75]).tolist()
    return {"ns_per_frame": round(median, 1), "ns_per_frame_q1": round(q1, 1), "ns_per_frame_q3": round(q3, 1)}


def judge(kinds: Sequence[Kind], count: int, days: float, seed: int) -> dict[str, Any]:
    """All figures of one set of types."""
    rng = np.random.default_rng(seed)
    devices, names = fleet(kinds, count, rng)
    intruders, _ = fleet(kinds, 3 * len(kinds), rng)
    types, about = learn(devices, names, rng)
    return {
        "types": len(kinds), "types_found": len(types.names), "names": list(types.names), "test": about["test"],
        "normal": normal_days(types, devices, days, rng),
        "change": changed(types, devices, False, rng, intruders),
        "impersonation": changed(types, devices, True, rng, intruders),
        "cost": cost(types, devices, rng),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench fingerprint", description="Device types that change or are feigned.")
    parser.add_argument("--devices", type=int, default=280)
    parser.add_argument("--days", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--development", action="store_true", help="only the types that development used")
    given = parser.parse_args(arguments)
    sets = {"development": DEVELOPMENT} if given.development else {"development": DEVELOPMENT, "held_out": HELD_OUT}
    figures: dict[str, Any] = {"seed": given.seed, "within_frames": WITHIN}
    for name, kinds in sets.items():
        figures[name] = judge(kinds, given.devices, given.days, given.seed)
        if not given.json:
            print(name, json.dumps(figures[name], indent=1))
    last = figures[list(sets)[-1]]
    figures["recall"] = min(last["change"]["recall"], last["impersonation"]["recall"])
    figures["false_per_1000_device_days"] = last["normal"]["false_per_1000_device_days"]
    print(json.dumps(figures))
    return 0
