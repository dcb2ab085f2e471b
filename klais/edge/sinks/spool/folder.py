"""The folder of the spool: one owner at a time, synced directory entries, tolerant reads from a bad disk."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from klais.config.load import Settings
from klais.errors import LockHeld, NotPrivate, SpoolInUse
from klais.system.file_lock import lock_file
from klais.system.private_files import open_own
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.spool")

SECTOR_BYTES = 4096
_PROBE = bytes(64 << 10)  # more than a nearly full disk still accepts by chance


def lock_folder(folder: Path, wait_s: float) -> int:
    """Lock the folder: returns the open descriptor of its lock file; closing it releases the folder.

    Raises
    ------
    SpoolInUse
        If another process owns it, and did not exit within ``wait_s``.
    NotPrivate
        If another user owns its lock file, or may write to it.
    """
    try:
        return lock_file(folder / "lock", f"the spool {folder}", wait_s)
    except LockHeld as error:
        raise SpoolInUse(
            f"another edge uses the spool {folder}: give each its own KLAIS_EDGE_ID (or KLAIS_SPOOL_DIR). {error}"
        ) from None


def read_tolerant(fd: int, at: int, size: int) -> tuple[bytes, bool]:
    """Bytes ``at`` to ``at + size`` of a file; with zeros, and False, where the disk cannot read them.

    Raises
    ------
    OSError
        For any error other than EIO.
    """
    try:
        return os.pread(fd, size, at), True
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    pieces = []
    for begin in range(at, at + size, SECTOR_BYTES):
        length = min(SECTOR_BYTES, at + size - begin)
        try:
            pieces.append(os.pread(fd, length, begin))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            pieces.append(bytes(length))
    return b"".join(pieces), False


def probe_folder(folder: Path) -> None:
    """Check that the disk accepts data, with a temporary file.

    Raises
    ------
    OSError
        If it does not.
    """
    path = folder / "probe"
    try:
        fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            if os.pwrite(fd, _PROBE, 0) != len(_PROBE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def spools_left_behind(settings: Settings, edge_ids: Iterable[int]) -> list[Path]:
    """Spools that contain batches and belong to none of these edges, so that no edge delivers them.

    Searches the spool folder, and the state folder, where spools are before ``KLAIS_SPOOL_DIR`` is set.
    """
    folder = settings.spool_dir or settings.state_dir
    mine = {(folder / f"spool-{edge_id}").resolve() for edge_id in edge_ids}
    found = [path for root in {folder, settings.state_dir} for path in sorted(root.glob("spool-*"))]
    return [path for path in found if path.resolve() not in mine and any(path.glob("*.spool")) and not _in_use(path)]


def _in_use(folder: Path) -> bool:
    """Whether a running edge owns the spool."""
    try:
        os.close(lock_folder(folder, 0.0))
    except (OSError, SpoolInUse, NotPrivate):
        return True
    return False


def warn_of_spools_left_behind(settings: Settings, edge_ids: Iterable[int]) -> None:
    """Log the spools that no edge delivers, and what to do."""
    if left := spools_left_behind(settings, edge_ids):
        names = [str(path) for path in left]
        log.warning(
            "spools_left_behind", spools=names, do="start an edge with that KLAIS_EDGE_ID and KLAIS_SPOOL_DIR once"
        )


def sync_folder(folder: Path) -> None:
    """Sync the folder's entries to disk, so that a new file exists after a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
