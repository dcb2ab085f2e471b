"""The model of device types as a data file: plain numpy arrays, no pickle, checked before use."""

import io

import numpy as np

from klais.core.fingerprint.record import MAX_TYPES, DeviceTypes
from klais.errors import KlaisError, ModelRefused
from klais.models.arrays import read_arrays
from klais.models.store import Model, ModelStore

KIND = "fingerprint"
FILE = "types.npz"
KINDS = {"names": ("S", 1), "threshold": ("<f8", 1), **dict.fromkeys(("rates", "interval", "size"), ("<f8", 2))}
MAX_NAME_BYTES = 40  # bytes of a type's name: a record on klais_anomalies contains it four times


def dump_types(types: DeviceTypes) -> bytes:
    """The file of a model."""
    out = io.BytesIO()
    names = np.array([name.encode() for name in types.names], "S160")
    threshold = np.array([types.threshold])
    np.savez(out, names=names, rates=types.rates, interval=types.interval, size=types.size, threshold=threshold)
    return out.getvalue()


def load_types(data: bytes, version: str) -> DeviceTypes:
    """Read the file of a model.

    Raises
    ------
    ModelRefused
        If it is damaged, or has figures that no model can have.
    """
    try:
        found = read_arrays(data, KINDS)
        names = tuple(name.decode() for name in found["names"].tolist())
        threshold = float(found["threshold"][0])
    except (ModelRefused, ValueError, IndexError) as error:
        raise ModelRefused(f"{FILE} of {version} is damaged: {error}. Train it again") from error
    rates, interval, size = (found[name] for name in ("rates", "interval", "size"))
    count = len(names)
    good = (
        1 <= count <= MAX_TYPES
        and len(set(names)) == count
        and all(0 < len(name.encode()) <= MAX_NAME_BYTES for name in names)
        and rates.shape == (count, 64)
        and interval.shape == size.shape == (count, 2)
        and bool(((rates > 0) & (rates < 1)).all())
        and all(bool(np.isfinite(part).all() and (part[:, 1] > 0).all()) for part in (interval, size))
        and 1.0 <= threshold <= 1000.0
    )
    if not good:
        raise ModelRefused(f"{FILE} of {version} has invalid figures. Train it again")
    return DeviceTypes(version, names, rates, interval, size, threshold)


def types_of(store: ModelStore) -> tuple[DeviceTypes | None, list[str]]:
    """The types for workers, None if there is no model; and why better ones are not in use."""
    problems: list[str] = []
    for model in store.candidates(KIND):
        try:
            return load_model(model), problems
        except KlaisError as error:
            problems.append(f"{model.version}: {error}")
    return None, problems


def load_model(model: Model) -> DeviceTypes:
    """The types of one model.

    Raises
    ------
    ModelRefused
        See :func:`load_types` and :meth:`klais.models.store.Model.read`.
    """
    return load_types(model.read(FILE), model.version)
