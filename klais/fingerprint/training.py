"""Train the types of devices from a snapshot of samples: cluster the devices, then describe each type.

    python -m klais.fingerprint.training SNAPSHOT MODELS BYTES

is the command that a worker starts, at the lowest priority and with BYTES of address space, whenever training is due.
It reads the snapshot and writes a model into the folder MODELS; the data path never waits for it.
"""

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.fingerprint.record import MAX_TYPES, NO_TYPES, DeviceTypes
from klais.errors import KlaisError, ModelRefused
from klais.fingerprint.carrying import INTERVAL_SCALE, SIZE_SCALE, TYPE_DISTANCE, carry_over, same_as
from klais.fingerprint.model import FILE, KIND, dump_types, types_of
from klais.fingerprint.naming import name_types
from klais.fingerprint.snapshot import NO_TYPES_FOUND, Snapshot, read_snapshot
from klais.models.card import Card, write_model
from klais.system.processes import limit_memory

SCRIPT = "klais/fingerprint/training.py"
MIN_DEVICES, MIN_SHARE = 3, 0.003  # minimum size of a type
MIN_DEVIATIONS = 0.25, 0.08  # minimum deviations of ln(interval) and ln(size) within a type
SAME_SHARE = 0.1  # if more than this share of a type's samples also fits another type, both become one
THRESHOLD = 12.0
Say = Callable[[str], None]
Column = npt.NDArray[np.float64]


class NoTypesFound(ModelRefused):
    """The devices do not form types, now: no fault of the training."""


class Devices:
    """Fingerprints of devices: ``rates`` [n, 64], ``interval`` and ``size`` [n, 2] (mean, deviation), ``weight`` [n]
    samples."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        n, of = snapshot.devices, snapshot.device
        self.weight = np.bincount(of, minlength=n).astype(np.float64)
        bits = np.unpackbits(snapshot.samples["mask"].copy().view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        self.bits = bits.astype(np.float64)
        self.rates = np.zeros((n, 64))
        np.add.at(self.rates, of, self.bits)
        self.rates /= np.maximum(1.0, self.weight)[:, None]
        self.interval = _moments(snapshot.samples["interval"].astype(np.float64), of, n)
        self.size = _moments(snapshot.samples["size"].astype(np.float64), of, n)

    def vectors(self) -> Column:
        """The points to cluster: a distance of 1 separates two types."""
        interval = np.nan_to_num(self.interval[:, 0]) / INTERVAL_SCALE
        return np.column_stack([self.rates, interval, self.size[:, 0] / SIZE_SCALE])


def _moments(x: Column, of: npt.NDArray[np.int32], n: int) -> Column:
    """Mean and deviation of each device's finite values; NaN if it has none."""
    good = np.isfinite(x)
    count = np.bincount(of[good], minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(of[good], x[good], minlength=n) / count
        square = np.bincount(of[good], x[good] ** 2, minlength=n) / count
    return np.column_stack([mean, np.sqrt(np.maximum(0.0, square - mean**2))])


def cluster(devices: Devices) -> npt.NDArray[np.int64]:
    """Number of each device's cluster, -1 if it is similar to too few others (scikit-learn)."""
    from sklearn.cluster import AgglomerativeClustering

    found = AgglomerativeClustering(n_clusters=None, distance_threshold=TYPE_DISTANCE, linkage="average")
    labels: npt.NDArray[np.int64] = found.fit_predict(devices.vectors()).astype(np.int64)
    counts = np.bincount(labels)
    minimum = max(MIN_DEVICES, MIN_SHARE * len(labels))
    kept = [k for k in np.argsort(-counts).tolist() if counts[k] >= minimum][:MAX_TYPES]
    number = np.full(len(counts), -1)
    number[kept] = np.arange(len(kept))
    return number[labels]


def types_from(devices: Devices, labels: npt.NDArray[np.int64], threshold: float = THRESHOLD) -> DeviceTypes:
    """The type of each cluster."""
    of = devices.snapshot.device
    samples = devices.snapshot.samples
    rates: list[Column] = []
    normals: dict[str, list[tuple[float, float]]] = {"interval": [], "size": []}
    for k in range(int(labels.max(initial=-1)) + 1):
        mine = labels[of] == k
        rates.append((devices.bits[mine].sum(axis=0) + 0.5) / (mine.sum() + 1.0))
        for (name, found), minimum in zip(normals.items(), MIN_DEVIATIONS, strict=True):
            x = samples[name][mine].astype(np.float64)
            x = x[np.isfinite(x)]
            found.append((float(np.median(x)), max(minimum, float(x.std()))) if len(x) else (0.0, 5.0))
    names = tuple(f"{k}" for k in range(len(rates)))
    bounded = np.clip(np.array(rates).reshape(-1, 64), 0.002, 0.998)
    both = [np.array(normals[name], np.float64).reshape(-1, 2) for name in ("interval", "size")]
    return DeviceTypes("new", names, bounded, both[0], both[1], threshold)


def fits(types: DeviceTypes, devices: Devices) -> Column:
    """Log-likelihood of each sample under each type, [samples, T], as computed by the lanes."""
    samples = devices.snapshot.samples
    out = devices.bits @ np.log(types.rates).T + (1.0 - devices.bits) @ np.log1p(-types.rates).T
    for name, normal in (("interval", types.interval), ("size", types.size)):
        x = samples[name].astype(np.float64)[:, None]
        z = (x - normal[:, 0]) / normal[:, 1]
        found = -0.5 * np.minimum(16.0, z * z) - np.log(normal[:, 1])
        out += np.where(np.isfinite(x), found, 0.0)
    return np.asarray(out)


def merge(devices: Devices, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Merge two types whose samples fit either, because their devices cannot be distinguished."""
    while labels.max(initial=-1) > 0:
        types = types_from(devices, labels)
        found, own = fits(types, devices), labels[devices.snapshot.device]
        worst = (0.0, 0, 0)
        for k in range(len(types.names)):
            mine = found[own == k]
            share = (mine >= mine[:, k : k + 1]).mean(axis=0)
            share[k] = 0.0
            worst = max(worst, (float(share.max()), k, int(share.argmax())))
        if worst[0] < SAME_SHARE:
            break
        low, high = sorted(worst[1:])
        labels = np.where(labels == high, low, np.where(labels > high, labels - 1, labels))
    return labels


def fields_of(labels: npt.NDArray[np.int64], snapshot: Snapshot) -> list[list[str]]:
    """Names of the fields that most devices of a type send, those that few other types send first."""
    often: list[set[int]] = []
    for k in range(int(labels.max(initial=-1)) + 1):
        mine = snapshot.paths[labels == k]
        paths, counts = np.unique(mine, return_counts=True)
        often.append({p for p, n in zip(paths.tolist(), counts.tolist(), strict=True) if p and 2 * n > len(mine)})
    spread = Counter(path for mine in often for path in mine)
    names = snapshot.names
    return [
        [names[path] for path in sorted(mine, key=lambda path: (spread[path], names.get(path, ""))) if names.get(path)]
        for mine in often
    ]


def train(
    snapshot: Snapshot,
    folder: Callable[[str], Path],
    say: Say = lambda text: None,
    before: DeviceTypes = NO_TYPES,
) -> Card:
    """Cluster, merge, name, evaluate on half of the devices, write; ``before``: the model in use.

    Raises
    ------
    NoTypesFound
        If the snapshot has too few devices for types.
    """
    began_s = time.monotonic()
    if snapshot.devices < MIN_DEVICES:
        raise NoTypesFound(f"samples of {snapshot.devices} devices are too few to find types: wait for more")
    devices = Devices(snapshot)
    labels = merge(devices, cluster(devices))
    if labels.max(initial=-1) < 0:
        raise NoTypesFound("no devices are similar enough to form a type")
    types = types_from(devices, labels)
    fields = fields_of(labels, snapshot)
    same = same_as(types, before) if before.names else [-1] * len(types.names)
    fresh = iter(name_types([sent for sent, old in zip(fields, same, strict=True) if old < 0], before.names))
    types = replace(types, names=tuple(before.names[old] if old >= 0 else next(fresh) for old in same))
    types, carried = carry_over(types, before)
    figures = judge(devices, labels)
    data = dump_types(types)
    version = f"{KIND}-" + hashlib.sha256(data).hexdigest()[:10]
    counts = np.bincount(labels[labels >= 0], minlength=len(types.names)).tolist()
    fields += [[]] * carried
    about = {
        "kind": KIND, "version": version, "title": "Types of devices by fields, interval and size of their frames",
        "method": "agglomerative clustering (scikit-learn), naive Bayes of each type", "script": SCRIPT,
        "data": f"samples of {snapshot.devices} devices of this system", "data_licence": "yours", "licence": "as KLAIS",
        "types": [
            {"name": name, "devices": count, "fields": sent[:16], "interval_s": round(float(np.exp(interval)), 3),
             "payload_bytes": round(float(np.exp(size)), 1)}
            for name, count, sent, interval, size in zip(
                types.names, counts, fields, types.interval[:, 0].tolist(), types.size[:, 0].tolist(), strict=True
            )
        ],
        "libraries": {name: metadata.version(name) for name in ("numpy", "scikit-learn")},
        "test": figures, "made_s": int(time.time()), "limits": "types that send the same fields alike are one type",
    }  # fmt: skip
    card = write_model(folder(version), {FILE: data}, about)
    known = f"{len(types.names)} types, {carried} of them from the previous model"
    say(f"{version}: {known}; {snapshot.devices} devices, {time.monotonic() - began_s:.1f} s")
    return card


def judge(devices: Devices, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy on one half of the devices of types learned from the other half, and the share of typed devices."""
    first = np.random.default_rng(1).random(len(labels)) < 0.5
    half = np.where(first, labels, -1)
    known = np.intersect1d(half[half >= 0], labels)
    number = np.full(int(labels.max()) + 2, -1)
    number[known] = np.arange(len(known))
    found = fits(types_from(devices, number[half]), devices)
    of = devices.snapshot.device
    sums = np.zeros((len(labels), found.shape[1]))
    np.add.at(sums, of, found)
    asked = ~first & (number[labels] >= 0)
    right = sums[asked].argmax(axis=1) == number[labels][asked]
    accuracy = round(float(right.mean()), 4) if len(right) else None
    return {"accuracy": accuracy, "devices_of_a_type": round(float((labels >= 0).mean()), 4), "devices": len(labels)}


def prune(store: Any, keep: int) -> None:
    """Remove the oldest models of this system except the newest ``keep`` and the active one."""
    import shutil

    own = [model for model in store.models(KIND) if not model.shipped and not model.active]
    for model in sorted(own, key=lambda model: model.folder.stat().st_mtime, reverse=True)[keep - 1 :]:
        shutil.rmtree(model.folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the training process."""
    from klais.models.store import MAX_OWN_VERSIONS, ModelStore
    from klais.traffic.training import lower_priority

    parser = argparse.ArgumentParser(description="Train the types of devices.")
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("bytes", type=int)
    given = parser.parse_args(arguments)
    lower_priority()
    try:
        limit_memory(given.bytes)
        store = ModelStore(given.models)
        snapshot = read_snapshot(given.snapshot)
        before, _ = types_of(store)
        made = train(snapshot, lambda version: store.new_folder(KIND, version), print, before or NO_TYPES)
        store.activate(KIND, made.version)
        prune(store, MAX_OWN_VERSIONS)
    except NoTypesFound as error:
        print(f"types not trained: {error}", file=sys.stderr)
        return NO_TYPES_FOUND
    except (KlaisError, OSError, MemoryError) as error:
        print(f"types not trained: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
