"""The spool's folder itself: one owner at a time, and its entries forced to the disk."""

import fcntl
import os
import time
from pathlib import Path

from klais.errors import SpoolInUse


def lock_folder(folder: Path, wait_s: float) -> int:
    """Own the folder: the open descriptor of its lock file; closing it gives the folder back.

    Raises
    ------
    SpoolInUse
        Another process owns it, and did not go within ``wait_s``.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    until_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until_s:
                os.close(fd)
                raise SpoolInUse(
                    f"another edge uses the spool {folder}: give each its own KLAIS_EDGE_ID (or KLAIS_SPOOL_DIR)"
                ) from None
            time.sleep(0.05)


def sync_folder(folder: Path) -> None:
    """Force the folder's entries to the disk, so that a new file is found there after a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
