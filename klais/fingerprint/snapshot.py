"""Samples of devices for training, as a file: what a worker hands to the process that trains."""

import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klais.core.fingerprint.record import KEPT, SAMPLE, Kept, device_samples
from klais.errors import ModelRefused
from klais.system.private_files import open_own, write_own

LEAST = 12  # samples of a device that training takes
MOST_DEVICES = 3000
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``samples`` SAMPLE [n] of devices one after the other, ``device`` int32 [n] which one each is of; ``names`` of
    fields by the lower half of their paths' hash."""

    samples: npt.NDArray[np.void]
    device: npt.NDArray[np.int32]
    names: Mapping[int, str]

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(self.device.max(initial=-1)) + 1


def snapshot_of(kept: Iterable[Kept], names: Mapping[int, str], seed: int = 0) -> Snapshot:
    """Samples of up to ``MOST_DEVICES`` devices."""
    each = [samples for part in kept for samples in device_samples(part.samples, part.counts, LEAST)]
    if len(each) > MOST_DEVICES:
        chosen = np.random.default_rng(seed).choice(len(each), MOST_DEVICES, replace=False)
        each = [each[at] for at in np.sort(chosen).tolist()]
    device = np.repeat(np.arange(len(each), dtype=np.int32), [len(samples) for samples in each])
    return Snapshot(np.concatenate(each) if each else np.empty(0, SAMPLE), device, dict(names))


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write it, whole or not at all, so that only this user can read it.

    Raises
    ------
    OSError
        It cannot be written.
    """
    out = io.BytesIO()
    names = "\n".join(f"{key} {name}" for key, name in snapshot.names.items() if "\n" not in name)
    text = np.frombuffer(names.encode(), np.uint8)
    at = snapshot.samples
    np.savez(out, mask=at["mask"], interval=at["interval"], size=at["size"], device=snapshot.device, names=text)
    write_own(path, out.getvalue())


def read_snapshot(path: Path) -> Snapshot:
    """Read it.

    Raises
    ------
    ModelRefused
        It is damaged, or somebody else's.
    """
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            data = file.read(MOST_BYTES)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            samples = np.empty(len(arrays["device"]), SAMPLE)
            for name in ("mask", "interval", "size"):
                samples[name] = arrays[name]
            device = arrays["device"].astype(np.int32)
            lines = arrays["names"].tobytes().decode().splitlines()
        names = {int(key): name for key, _, name in (line.partition(" ") for line in lines)}
        if (np.diff(device) < 0).any() or device.min(initial=0) < 0 or np.bincount(device).max(initial=0) > KEPT:
            raise ValueError("devices out of order")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelRefused(f"{path} is no snapshot to train from: {error!r}") from error
    return Snapshot(samples, device, names)
