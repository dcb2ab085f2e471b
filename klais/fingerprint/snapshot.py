"""Samples of devices for training, as a file: passed from a worker to the training process."""

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.record import MAX_FIELDS
from klais.core.fingerprint.record import KEPT, SAMPLE, KeptSamples, device_samples
from klais.errors import ModelRefused
from klais.models.arrays import read_arrays
from klais.system.private_files import open_own, write_own

NO_TYPES_FOUND = 3  # exit code of a training whose devices do not form types: no fault of the training
MIN_SAMPLES = 12  # minimum samples of a device for training
MAX_DEVICES = 3000
MAX_BYTES = 64 << 20
KINDS = {
    **{"mask": ("<u8", 1), "interval": ("<f4", 1), "size": ("<f4", 1)},
    **{"device": ("<i4", 1), "paths": ("<u4", 2), "names": ("|u1", 1)},
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``samples`` SAMPLE [n] of devices one after the other, ``device`` int32 [n] the device of each; ``paths``
    uint32 [devices, k] of their fields (0 = none), ``names`` of fields by path."""

    samples: npt.NDArray[np.void]
    device: npt.NDArray[np.int32]
    paths: npt.NDArray[np.uint32]
    names: Mapping[int, str]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.paths)


def snapshot_of(kept: Iterable[KeptSamples], names: Mapping[int, str], seed: int = 0) -> Snapshot:
    """Samples of up to ``MAX_DEVICES`` devices."""
    each = [one for part in kept for one in device_samples(part, MIN_SAMPLES)]
    if len(each) > MAX_DEVICES:
        chosen = np.random.default_rng(seed).choice(len(each), MAX_DEVICES, replace=False)
        each = [each[at] for at in np.sort(chosen).tolist()]
    if not each:
        return Snapshot(np.empty(0, SAMPLE), np.empty(0, np.int32), np.empty((0, MAX_FIELDS), np.uint32), {})
    device = np.repeat(np.arange(len(each), dtype=np.int32), [len(samples) for samples, _ in each])
    paths = np.stack([paths for _, paths in each])
    known = set(paths.ravel().tolist())
    mine = {path: name for path, name in names.items() if path in known}
    return Snapshot(np.concatenate([samples for samples, _ in each]), device, paths, mine)


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write the file atomically, so that only this user can read it.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    out = io.BytesIO()
    names = "\n".join(f"{key} {name}" for key, name in snapshot.names.items() if "\n" not in name)
    text = np.frombuffer(names.encode(), np.uint8)
    mask, interval, size = (snapshot.samples[name] for name in ("mask", "interval", "size"))
    device, paths = snapshot.device, snapshot.paths
    np.savez(out, mask=mask, interval=interval, size=size, device=device, paths=paths, names=text)
    write_own(path, out.getvalue())


def read_snapshot(path: Path) -> Snapshot:
    """Read the file.

    Raises
    ------
    ModelRefused
        If it is damaged, or owned by another user.
    """
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            arrays = read_arrays(file.read(MAX_BYTES), KINDS)
        device, paths = arrays["device"], arrays["paths"]
        samples = np.empty(len(device), SAMPLE)
        for name in ("mask", "interval", "size"):
            samples[name] = arrays[name]
        lines = arrays["names"].tobytes().decode().split("\n")
        names = {int(key): name for key, _, name in (line.partition(" ") for line in lines if line)}
        if (device < 0).any() or (device >= len(paths)).any():
            raise ValueError("an unknown device")
        counts = np.bincount(device, minlength=len(paths))
        if (np.diff(device) < 0).any() or counts.max(initial=0) > KEPT:
            raise ValueError("devices out of order")
    except (OSError, ValueError, ModelRefused) as error:
        raise ModelRefused(f"{path} is not a snapshot for training: {error}") from error
    return Snapshot(samples, device, paths, names)
