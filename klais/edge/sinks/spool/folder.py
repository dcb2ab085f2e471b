"""The folder of the spool: one owner at a time, synced directory entries, tolerant reads from a bad disk."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from klais.config.load import Settings
from klais.edge.sinks.spool.segment import POSITION_SIZE, decode_position, encode_position
from klais.errors import LockHeld, NotPrivate, SpoolInUse
from klais.system.file_lock import lock_file
from klais.system.private_files import open_own, own_folder
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.spool")

SECTOR_BYTES = 4096
# What a disk, or the file system on it, says of bytes that it cannot return: bad sectors, wrong checksums.
READ_ERRORS = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ})
_PROBE = bytes(64 << 10)  # more than a nearly full disk still accepts by chance


class SpoolFolder:
    """The folder, its lock, and the file with the position up to which Kafka has acknowledged the batches.

    Parameters
    ----------
    path : Path
        Created if it does not exist.
    position : str
        Name of the position file.
    lock_wait_s : float
        How long to wait for the owner of the folder to exit.

    Raises
    ------
    SpoolInUse, NotPrivate, OSError
        See :class:`klais.edge.sinks.spool.disk.Spool`.
    """

    def __init__(self, path: Path, position: str, lock_wait_s: float = 0.0) -> None:
        self.path, self._position = path, position
        self._fds: tuple[int, ...] = self._open(lock_wait_s)

    def _open(self, lock_wait_s: float) -> tuple[int, int]:
        own_folder(self.path)
        lock = lock_folder(self.path, lock_wait_s)
        try:
            return lock, open_own(self.path / self._position, os.O_RDWR | os.O_CREAT)
        except BaseException:  # a failing disk is opened repeatedly: leak no descriptor
            os.close(lock)
            raise

    def read_position(self) -> int:
        """The stored position, 0 without one."""
        data, _ = read_tolerant(self._fds[1], 0, POSITION_SIZE)
        return decode_position(data)

    def write_position(self, position: int) -> None:
        """Store the position."""
        os.pwrite(self._fds[1], encode_position(position), 0)

    def restore(self, position: int) -> None:
        """Create the folder again if another program removed it; OSError if that fails or another edge has it now."""
        if self.path.is_dir():
            return
        try:
            opened = self._open(0.0)
        except (SpoolInUse, NotPrivate) as error:
            raise OSError(errno.EBUSY, str(error)) from None
        self.close()
        self._fds = opened
        self.write_position(position)

    def close(self) -> None:
        """Release the folder. A second call has no effect."""
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)


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
        For any error other than ``READ_ERRORS``.
    """
    try:
        return os.pread(fd, size, at), True
    except OSError as error:
        if error.errno not in READ_ERRORS:
            raise
    pieces = []
    for begin in range(at, at + size, SECTOR_BYTES):
        length = min(SECTOR_BYTES, at + size - begin)
        try:
            pieces.append(os.pread(fd, length, begin))
        except OSError as error:
            if error.errno not in READ_ERRORS:
                raise
            pieces.append(bytes(length))
    return b"".join(pieces), False


def open_later(path: Path, flags: int) -> int:
    """Open a private file of a spool in use; OSError also if it is not ours, because the edge continues without it."""
    try:
        return open_own(path, flags)
    except NotPrivate as error:
        raise OSError(errno.EPERM, str(error)) from None


def probe_folder(folder: Path) -> None:
    """Check that the disk accepts data, with a temporary file.

    Raises
    ------
    OSError
        If it does not.
    """
    path = folder / "probe"
    try:
        fd = open_later(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
