"""CPU operations for kernels that Python cannot express: copy a run of bytes at once, prefetch a cache
line. ``klais/jit/lowering.py`` defines their instructions."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["copy_bytes", "load_u64", "prefetch"]


def copy_bytes(out: npt.NDArray[np.uint8], at: int, source: npt.NDArray[np.uint8], start: int, size: int) -> None:
    """``out[at : at + size] = source[start : start + size]``; no overlap, within bounds (the caller ensures it)."""
    if at < 0 or start < 0 or at + size > out.shape[0] or start + size > source.shape[0]:
        raise IndexError("copy outside of an array")
    out[at : at + size] = source[start : start + size]


def load_u64(memory: npt.NDArray[np.uint8], at: int) -> int:
    """The eight bytes ``memory[at : at + 8]`` as a word in native byte order, within bounds (the caller ensures it)."""
    if at < 0 or at + 8 > memory.shape[0]:
        raise IndexError("load outside of an array")
    return int.from_bytes(memory[at : at + 8].tobytes(), sys.byteorder)


def prefetch(memory: npt.NDArray[Any], at: int) -> None:
    """Prefetch the cache line of the ``at``-th number of a C-contiguous array, to be read soon; any ``at`` is
    allowed, nothing is read."""
