"""The folder of the filter's pins: lock, layout, shared memory, and why it cannot be opened."""

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.errors import LockHeld, XdpUnavailable
from klais.system.file_lock import lock
from klais.xdp import bpf
from klais.xdp.layout import CONFIG, SPREAD, VERSION, map_specs

LOCK_WAIT_S = 30.0
_RELOAD = "`klais xdp load` with this version replaces them"
_NEED = "the filter's maps need root (or CAP_BPF and CAP_NET_ADMIN): run this with sudo"


@contextmanager
def locked(folder: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Lock this folder of pins; ``wait_s`` for one holder.

    Raises
    ------
    XdpUnavailable
        If another process keeps it locked; the message names it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(fd, str(folder), wait_s)
        yield
    except LockHeld as error:
        raise XdpUnavailable(str(error)) from None
    finally:
        os.close(fd)


def inodes(pin_dir: Path, names: Iterable[str]) -> dict[str, int]:
    """Inode of each pinned map: a new pin of the same name has another one.

    Raises
    ------
    OSError
        If a pin is missing.
    """
    return {name: (pin_dir / name).stat().st_ino for name in names}


def unavailable(error: OSError, pin_dir: Path) -> XdpUnavailable:
    """Why the maps of ``pin_dir`` cannot be opened, and what to do."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return XdpUnavailable(_NEED)
    if error.errno == errno.ENOENT and (pin_dir / "config").exists():
        return XdpUnavailable(
            f"a filter of another version of klais is loaded, with other maps in {pin_dir}: {_RELOAD}"
        )
    if error.errno == errno.ENOENT:
        return XdpUnavailable(
            f"no filter is loaded: there are no pins in {pin_dir}: `klais xdp load --iface IF` loads it"
        )
    return XdpUnavailable(f"the filter's maps in {pin_dir} cannot be opened: {error.strerror or error}")


def read_spread(fd: int) -> npt.NDArray[np.void]:
    """The row of the map ``spread``: ``SPREAD``."""
    spread = np.zeros((), SPREAD)
    bpf.lookup(fd, np.zeros(1, np.uint32), spread)
    return spread


def possible_cpus() -> int:
    """Number of values in an element of a per-CPU map."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return int(ranges[-1].split("-")[-1]) + 1


def check_layout(fds: dict[str, int], pin_dir: Path) -> None:
    """Refuse maps of another version: their values would be misinterpreted."""
    for spec in map_specs(1, 4096):
        info = bpf.map_info(fds[spec.name])
        wrong = (info.kind, info.key_bytes, info.value_bytes) != (spec.kind, spec.key_bytes, spec.value_bytes)
        config = np.zeros((), CONFIG)
        if spec.name == "config" and not wrong:
            bpf.lookup(fds["config"], np.zeros(1, np.uint32), config)
            wrong = int(config["version"]) != VERSION
        if wrong:
            raise XdpUnavailable(f"the map {pin_dir / spec.name} has the layout of another version of klais: {_RELOAD}")


def shared(fd: int, dtype: np.dtype[Any]) -> tuple[mmap.mmap, npt.NDArray[np.void]]:
    """The single value of a mappable array map, as memory shared with the kernel."""
    size = -(-dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return memory, np.frombuffer(memory, dtype, 1).reshape(())


def close_all(fds: dict[str, int]) -> None:
    """Close the descriptors of all maps."""
    for fd in fds.values():
        os.close(fd)
    fds.clear()
