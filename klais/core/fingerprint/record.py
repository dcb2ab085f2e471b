"""The fingerprint of a device, the samples that training takes, and the tables of the types (numpy only, no numba).

A *sample* is one frame reduced to what types need: its *mask*, one of 64 bits for each name of a numeric field, and the
logarithms of its interval and its payload's size. The bit of a name is the same in all processes.
"""

import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SHAPES = 4  # masks that a device is known to send
PRINT = np.dtype(
    [
        ("owner", "<u4"),
        ("samples", "<u2"),
        ("type", "u1"),  # 0 = not known yet, k + 1 = type k of the model, UNKNOWN = like none of them
        ("flag_count", "u1"),  # flags so far
        ("shape", "<u4", (SHAPES,)),  # hashes of the masks that it sends
        ("hits", "u1", (SHAPES,)),
        ("candidate", "u1"),  # its present apparent type, coded as ``type``
        ("run", "u1"),  # samples since ``candidate`` began
        ("own", "u1"),  # how many of these were usual nevertheless
        ("before", "u1"),  # the type before this one
        ("since_s", "<u4"),  # receive time (s) when ``candidate`` began
        ("typed_s", "<u4"),  # receive time (s) when ``type`` began
        ("evidence", "<f4"),  # for ``candidate`` relative to ``type``, in nats (Page's cumulative sum)
        ("interval", "<f4"),  # mean of ln(interval / s), and its variance
        ("interval_var", "<f4"),
        ("size", "<f4"),  # the same of ln(payload bytes)
        ("size_var", "<f4"),
        ("spare", "<u4"),
    ],
    align=True,
)
assert PRINT.itemsize == 64  # a cache line
UNKNOWN = 255
MAX_TYPES = 64
Prints = npt.NDArray[np.void]

SAMPLE = np.dtype([("mask", "<u8"), ("interval", "<f4"), ("size", "<f4")])  # interval NaN = not known
SLOTS, KEPT = 512, 32  # devices of a lane whose samples are stored, and samples stored for each
BIT_MIX, BIT_SHIFT = 0x9E3779B1, 26  # Knuth's multiplicative hash; its upper 6 bits are a bit's number


def bit_of(path: int) -> int:
    """Bit of the mask for a field, from the lower half of its path's hash; kernels compute the same.

    Examples
    --------
    >>> bit_of(0x12345678) == bit_of(0xFF12345678)
    True
    """
    return ((path & 0xFFFFFFFF) * BIT_MIX & 0xFFFFFFFF) >> BIT_SHIFT


def code_of(name: str) -> int:
    """The number of a type's name in a flag, never 0."""
    return zlib.crc32(name.encode()) | 1


@dataclass(frozen=True, slots=True)
class DeviceTypes:
    """A model of types in the form that lanes use.

    Attributes
    ----------
    version : str
        Version of the model; empty = no model.
    names : tuple of str
        Names of the T types.
    rates : float64 [T, 64]
        Share of samples with each bit.
    interval, size : float64 [T, 2]
        Mean and standard deviation of ln(interval / s) and ln(payload bytes).
    threshold : float
        Evidence (nats) needed for a flag.
    """

    version: str
    names: tuple[str, ...]
    rates: npt.NDArray[np.float64]
    interval: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]
    threshold: float
    tables: npt.NDArray[np.float32] = field(init=False)
    normals: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Compute log-likelihoods of each byte of a mask, float32 [T, 8, 256]; of the other two, float64 [T, 6]."""
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float64)
        rates = self.rates.reshape(-1, 8, 1, 8)
        tables = (bits * np.log(rates) + (1.0 - bits) * np.log1p(-rates)).sum(axis=3)
        normals = np.empty((len(self.names), 6))
        for at, (mean, deviation) in ((0, self.interval.T), (3, self.size.T)):
            normals[:, at], normals[:, at + 1], normals[:, at + 2] = mean, 1.0 / deviation, -np.log(deviation)
        object.__setattr__(self, "tables", np.ascontiguousarray(tables, np.float32))
        object.__setattr__(self, "normals", normals)

    def name_of(self, kind: int) -> str:
        """Name of a type from its code in :data:`PRINT`; empty if it has none."""
        return self.names[kind - 1] if 0 < kind <= len(self.names) else ""

    def codes(self) -> npt.NDArray[np.int64]:
        """Number of each type's name by its code in :data:`PRINT`, int64 [256]; 0 = none."""
        out: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        out[1 : len(self.names) + 1] = [code_of(name) for name in self.names]
        return out

    def translation(self, other: "DeviceTypes") -> npt.NDArray[np.uint8]:
        """uint8 [256]: the code of each type of this model in ``other``; 0 = it must be found again."""
        out: npt.NDArray[np.uint8] = np.zeros(256, np.uint8)
        place = {name: at + 1 for at, name in enumerate(other.names)}
        out[1 : len(self.names) + 1] = [place.get(name, 0) for name in self.names]
        return out


def no_types() -> DeviceTypes:
    """The empty model, used when no model is loaded."""
    return DeviceTypes("", (), np.empty((0, 64)), np.empty((0, 2)), np.empty((0, 2)), 12.0)


NO_TYPES = no_types()


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """Facts about one device: ``type`` and the one ``before`` ("" = none yet), receive time (s) since when, the
    ``model`` ("" = none), samples, and means and coefficients of variation of interval (s) and size (bytes)."""

    type: str
    before: str
    since_s: int
    model: str
    samples: int
    interval_s: float
    interval_cv: float
    bytes: float
    bytes_cv: float
    evidence: float
    candidate: str


class KeptSamples(NamedTuple):
    """Samples of up to SLOTS devices, SAMPLE [SLOTS, KEPT], the number of samples of each, int64 [SLOTS], and the lower
    halves of the paths of their fields, uint32 [SLOTS, k] (0 = none)."""

    samples: npt.NDArray[np.void]
    counts: npt.NDArray[np.int64]
    paths: npt.NDArray[np.uint32]


def device_samples(kept: KeptSamples, minimum: int) -> list[tuple[npt.NDArray[np.void], npt.NDArray[np.uint32]]]:
    """Samples, oldest first, and paths of each device that has at least ``minimum`` samples."""
    out = []
    for at in np.flatnonzero(kept.counts >= minimum).tolist():
        count, mine = int(kept.counts[at]), kept.samples[at]
        samples = mine[:count].copy() if count <= KEPT else np.roll(mine, -(count % KEPT))
        out.append((samples, kept.paths[at]))
    return out
