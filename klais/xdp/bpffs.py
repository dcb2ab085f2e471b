"""The BPF file system: find it, mount it if it is missing, pin maps so that each name always refers to a complete
one.
"""

import ctypes
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from klais.errors import XdpUnavailable
from klais.xdp import bpf

STANDARD = Path("/sys/fs/bpf")
PROGRAM = "program"
READER = "reader"  # folder that the reader of the ring locks: only root and the group of the pins may open it
NEW = "new_"  # prefix of temporary names; bpffs reserves names with a dot


def mounted_at(path: Path) -> Path | None:
    """The mount point of the bpffs that contains ``path``; None if it is not in a bpffs."""
    best: tuple[int, str, Path] | None = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind = line.split()[:3]
        where = Path(place.encode().decode("unicode_escape"))
        if path.absolute().is_relative_to(where) and (best is None or len(where.parts) >= best[0]):
            best = len(where.parts), kind, where
    return best[2] if best and best[1] == "bpf" else None


def ensure(pin_dir: Path) -> list[str]:
    """Create ``pin_dir``, mounting bpffs at /sys/fs/bpf if that is missing; returns the actions as texts.

    Raises
    ------
    XdpUnavailable
        If rights are missing, the kernel has no bpffs, or the folder is not in it.
    """
    done = []
    if mounted_at(pin_dir) is None:
        if not pin_dir.absolute().is_relative_to(STANDARD):
            raise XdpUnavailable(f"{pin_dir} is not in a bpffs: choose a folder below {STANDARD} (KLAIS_XDP_PIN_DIR)")
        _mount()
        done.append(f"mounted bpffs at {STANDARD}")
    try:
        pin_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise XdpUnavailable(f"{pin_dir} cannot be created: {error.strerror}: run this as root") from None
    return done


def _mount() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(STANDARD), b"bpf", 0, b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise XdpUnavailable(
            f"bpffs cannot be mounted at {STANDARD} ({reason}): run `mount -t bpf bpf {STANDARD}` as root"
        )


def pin_new(pin_dir: Path, fds: dict[str, int]) -> None:
    """Pin under temporary names, which readers do not open."""
    for name, fd in fds.items():
        (pin_dir / (NEW + name)).unlink(missing_ok=True)
        bpf.pin(fd, pin_dir / (NEW + name))


def promote(pin_dir: Path) -> None:
    """Rename all pins of :func:`pin_new` to their real names; each rename is atomic."""
    for path in pending(pin_dir):
        path.rename(pin_dir / path.name.removeprefix(NEW))


def keep_only(pin_dir: Path, names: Collection[str]) -> None:
    """Remove the pins of other versions' maps."""
    for path in pin_dir.iterdir():
        if path.name not in names and path.name != READER:
            path.unlink()


def reader_folder(pin_dir: Path) -> Path:
    """The folder that the reader of the ring locks; created if it is missing."""
    folder = pin_dir / READER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def pending(pin_dir: Path) -> Iterator[Path]:
    """Pins with temporary names, left by a loader that was killed."""
    return iter(sorted(pin_dir.glob(NEW + "*")))


def remove(pin_dir: Path) -> None:
    """Remove all pins and the folder; attached programs keep their maps."""
    for path in pin_dir.iterdir():
        if path.name == READER:
            path.rmdir()
        else:
            path.unlink()
    pin_dir.rmdir()
