"""Arrays of a model's file (npz): only numbers, each with the required type and dimensions."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.errors import ModelRefused

MAX_UNPACKED_BYTES = 1 << 30  # unpacked: a file of 1 MB may unpack to a thousand times its size


def read_arrays(
    data: bytes, kinds: Mapping[str, tuple[str, int]], max_bytes: int = MAX_UNPACKED_BYTES
) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays in ``kinds``, which gives their type (``dtype.str``, or ``S`` for bytes) and dimensions.

    Raises
    ------
    ModelRefused
        If the bytes are not such a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max_bytes:
            raise ValueError(f"{size:,} bytes unpacked")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = {name: np.asarray(file[name], order="C") for name in kinds}
    except Exception as error:  # zip, npy and zlib raise various exceptions on damaged bytes
        raise ModelRefused(f"it cannot be read: {error!r:.200}") from error
    for name, (kind, dims) in kinds.items():
        is_kind = kind in (found[name].dtype.str, found[name].dtype.kind)
        if not is_kind or found[name].ndim != dims:
            raise ModelRefused(f"{name} is {found[name].dtype} [{found[name].ndim}], not {kind} [{dims}]")
    return found
