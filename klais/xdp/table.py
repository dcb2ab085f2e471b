"""The filter's table of devices (``bpf/table.h``) from user space: its rows, read from memory
shared with the kernel.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from klais.xdp.device_id import device_keys
from klais.xdp.layout import CLAIMED, OWNERS, SET, WAYS

DEVICE = np.dtype([("id", "u1", (16,)), ("credit_units", "<i8"), ("passed", "<u4"), ("dropped", "<u8")])
_SETS_A_BATCH = 65_536


def rows(
    sets_fd: int, owners_fd: int, sets: int, multipliers: npt.NDArray[np.uint64]
) -> Iterator[npt.NDArray[np.void]]:
    """The devices in the table, in batches of ``DEVICE [n]``.

    A way that is being reassigned is left out: its key is not yet, or no longer, that of its id.

    Parameters
    ----------
    sets_fd, owners_fd : int
        The maps.
    sets : int
        Number of sets: a power of two.
    multipliers : uint64 [4]
        As in :func:`klais.xdp.device_id.device_keys`.
    """
    with (
        _mapped(sets_fd, sets * SET.itemsize) as set_memory,
        _mapped(owners_fd, sets * OWNERS.itemsize) as owner_memory,
    ):
        for start in range(0, sets, _SETS_A_BATCH):
            count = min(_SETS_A_BATCH, sets - start)
            yield occupied(
                np.frombuffer(set_memory, SET, count, start * SET.itemsize).copy(),
                np.frombuffer(owner_memory, OWNERS, count, start * OWNERS.itemsize).copy(),
                multipliers,
            )


def occupied(
    sets: npt.NDArray[np.void], owners: npt.NDArray[np.void], multipliers: npt.NDArray[np.uint64]
) -> npt.NDArray[np.void]:
    """The devices in ``sets`` (``SET [n]``) with their ``owners`` (``OWNERS [n]``): ``DEVICE [m]``."""
    keys = sets["ways"]["key"].reshape(-1)
    at = np.flatnonzero((keys != 0) & (keys != CLAIMED))
    out: npt.NDArray[np.void] = np.zeros(len(at), DEVICE)
    which, way = np.divmod(at, WAYS)
    owner = owners["ways"].reshape(-1)[at]
    out["id"], out["dropped"] = owner["id"], owner["dropped"]
    out["credit_units"] = sets["ways"]["bucket"]["credit_units"].reshape(-1)[at]
    out["passed"] = sets["passed"][which, way]
    settled: npt.NDArray[np.bool_] = device_keys(out["id"], multipliers) == keys[at]
    return out[settled]


def _mapped(fd: int, size: int) -> mmap.mmap:
    whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return mmap.mmap(fd, whole, mmap.MAP_SHARED, mmap.PROT_READ)
