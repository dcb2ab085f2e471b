"""Folders of compiled kernels in the cache, one for each state of the sources: which are in use, which can go.

A folder's modification time is the last time that a process loaded kernels from it.
"""

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

UNUSED_S = 30 * 86_400.0


def mark_used(folder: Path) -> None:
    """Record that a process uses the kernels in ``folder``."""
    with suppress(OSError):  # the cache may be mounted read-only
        os.utime(folder)


def remove_unused(parent: Path, used: Path, now_s: float | None = None) -> list[Path]:
    """Remove the folders in ``parent`` that no process used for 30 days, except ``used``.

    Parameters
    ----------
    now_s : float, optional
        The present time in seconds since 1970.

    Returns
    -------
    list of Path
        The removed folders. Folders of other users and links are kept.
    """
    now_s = time.time() if now_s is None else now_s
    removed = []
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        with suppress(OSError):  # another process removes it too
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or folder.name == used.name:
                continue
            if now_s - info.st_mtime > UNUSED_S:
                shutil.rmtree(folder)
                removed.append(folder)
    return removed
